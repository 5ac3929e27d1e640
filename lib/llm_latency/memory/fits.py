"""Does a model fit? Predicted parts against a budget, with the margin to the cliff."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field

from llm_latency.base import Part
from llm_latency.engine.dry_run import MOST_TOKENS, Side
from llm_latency.errors import ParameterError
from llm_latency.memory.dry_run import Foretell, foretelling
from llm_latency.memory.predict import Parts, Prediction
from llm_latency.model.header import Header
from llm_latency.model.names import skeleton
from llm_latency.plan.parameters import build
from llm_latency.plan.settings import PADDING, Settings, padded
from llm_latency.plan.sizes import size_bytes
from llm_latency.words import MIB, number


class Fit(Part):
    """Whether a model fits, and how near the cliff is.

    ``parts`` are those on the side that the budget is of.
    """

    model: str
    settings: Settings
    on: Side
    budget_bytes: int
    parts: Parts
    largest_n_ctx: int | None = Field(
        description="That fits, of what the model was trained for; None: none does"
    )
    n_ctx_train: int | None = None

    @property
    def fits(self) -> bool:
        """Whether the prediction is within the budget."""
        return self.margin_bytes >= 0

    @property
    def margin_bytes(self) -> int:
        """What is left of the budget; negative: what is missing."""
        return self.budget_bytes - self.parts.total_bytes

    @property
    def margin_tokens(self) -> int | None:
        """How many more tokens of context would still fit."""
        if self.largest_n_ctx is None:
            return None
        return max(0, self.largest_n_ctx - self.settings.n_ctx)

    def __bool__(self) -> bool:
        return self.fits

    def __str__(self) -> str:
        parts = {
            "weights": self.parts.weights_bytes,
            "KV cache": self.parts.kv_bytes,
            "compute": self.parts.compute_bytes,
            "output": self.parts.output_bytes,
            "the backend": self.parts.overhead_bytes,
        }
        made_of = ", ".join(f"{k} {number(v * MIB)}" for k, v in parts.items() if v)
        size = f"{number(self.parts.total_bytes * MIB)} of {number(self.budget_bytes * MIB)} MiB"
        place = "VRAM" if self.on == "gpu" else "RAM"
        head = f"{self.model} with n_ctx={self.settings.n_ctx} takes {size} of {place} ({made_of})"
        if self.fits:
            return (
                f"{head}: it fits, with {number(self.margin_bytes * MIB)} MiB or "
                f"{self.margin_tokens or 0:,} tokens of context to spare{self._trained()}."
            )
        way_out = (
            f"the largest n_ctx that fits is {self.largest_n_ctx}"
            if self.largest_n_ctx
            else "no n_ctx fits; keep fewer layers on the GPU, or take a smaller file"
        )
        return (
            f"{head}: {number(-self.margin_bytes * MIB)} MiB too much; {way_out}{self._trained()}."
        )

    def _trained(self) -> str:
        """Say that the model was trained for less than the memory, or the context, would hold."""
        most = self.n_ctx_train
        if most is None or max(self.largest_n_ctx or 0, self.settings.n_ctx) < most:
            return ""
        return f"; the model was trained for {most:,}"


def fits(
    model: str,
    budget: str | int,
    *,
    on: Side = "gpu",
    overhead: str | int = 0,
    **settings: Any,
) -> Fit:
    """Predict whether a model fits into a budget, before it is loaded or even fetched.

    Parameters
    ----------
    model
        A path, ``synthetic:<shape>``, ``package:<name>`` or ``hf:owner/repo/file.gguf@revision``.
    budget
        Memory that it may take: bytes, or text such as ``"6 GiB"``.
    on
        Of which side the budget is: the GPU's memory, or the host's for a run on the CPU.
    overhead
        What the GPU's backend takes for itself (the CUDA context, its workspace): it differs
        from card to card, and is measured, not predicted.
    **settings
        llama-cpp-python's names, see :class:`~llm_latency.plan.settings.Settings`.

    Raises
    ------
    ParameterError
        If a parameter cannot be right.
    NotForetoldError
        If neither llama.cpp nor the formula can tell what the model takes.
    """
    if on not in ("gpu", "cpu"):
        raise ParameterError(f"on={on!r} is refused: give 'gpu' or 'cpu'.")
    limit, extra = size_bytes("budget", budget), size_bytes("overhead", overhead)
    asked = build(Settings, settings)
    with skeleton(model) as (path, header), foretelling(path, header, on, extra) as foretell:
        header.check_cache(asked)
        return fit_of(model, header, asked, limit, on, foretell)


def fit_of(
    model: str, header: Header, settings: Settings, budget_bytes: int, on: Side, foretell: Foretell
) -> Fit:
    """Predict whether a model whose header is known fits into a budget; see :func:`fits`."""

    def parts(n_ctx: int) -> Parts:
        return side(foretell(settings.model_copy(update={"n_ctx": n_ctx})), on)

    most = min(MOST_TOKENS, padded(header.n_ctx_train or settings.n_ctx))
    return Fit(
        model=model,
        settings=settings,
        on=on,
        budget_bytes=budget_bytes,
        parts=parts(settings.n_ctx),
        largest_n_ctx=largest(lambda n_ctx: parts(n_ctx).total_bytes <= budget_bytes, most),
        n_ctx_train=header.n_ctx_train,
    )


def side(prediction: Prediction, on: Side) -> Parts:
    """Return the parts on the side that a budget is of."""
    return prediction.gpu if on == "gpu" else prediction.host


def largest(works: Callable[[int], bool], most: int) -> int | None:
    """Return the largest context on llama.cpp's grid of 256 that works; ``None`` if none does.

    Parameters
    ----------
    works
        Function of ``n_ctx``; what works for one works for all smaller ones.
    most
        Largest context to consider.
    """
    if not works(PADDING):
        return None
    low, high = 1, most // PADDING
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if works(middle * PADDING) else (low, middle - 1)
    return low * PADDING
