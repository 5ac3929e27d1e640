"""Does a model fit? Predicted parts against a budget, with the margin to the cliff."""

from __future__ import annotations

from typing import Any, Literal

from llm_latency.base import Part
from llm_latency.errors import ParameterError
from llm_latency.memory.predict import Parts, Prediction, predict
from llm_latency.model.header import Header
from llm_latency.model.names import header_of
from llm_latency.plan.parameters import build
from llm_latency.plan.sizes import size_bytes
from llm_latency.plan.spec import MAX_INT32, PADDING, Settings
from llm_latency.words import MIB, number


class Fit(Part):
    """Whether a model fits, and how near the cliff is.

    ``parts`` are those on the side that the budget is of.
    """

    model: str
    settings: Settings
    on: Literal["gpu", "cpu"]
    budget_bytes: int
    parts: Parts
    largest_n_ctx: int | None

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
        return self.largest_n_ctx - self.settings.n_ctx

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
                f"{self.margin_tokens or 0:,} tokens of context to spare."
            )
        way_out = (
            f"the largest n_ctx that fits is {self.largest_n_ctx}"
            if self.largest_n_ctx
            else "no n_ctx fits; keep fewer layers on the GPU, or take a smaller file"
        )
        return f"{head}: {number(-self.margin_bytes * MIB)} MiB too much; {way_out}."


def fits(
    model: str,
    budget: str | int,
    *,
    on: Literal["gpu", "cpu"] = "gpu",
    overhead: str | int = 0,
    **settings: Any,
) -> Fit:
    """Predict whether a model fits into a budget, before it is loaded or even fetched.

    Parameters
    ----------
    model
        A path, ``synthetic:<shape>`` or ``hf:owner/repo/file.gguf@revision``.
    budget
        Memory that it may take: bytes, or text such as ``"6 GiB"``.
    on
        Of which side the budget is: the GPU's memory, or the host's for a run on the CPU.
    overhead
        What the GPU's backend takes for itself (the CUDA context, its workspace): it differs
        from card to card, and is measured, not predicted.
    **settings
        llama-cpp-python's names, see :class:`~llm_latency.plan.spec.Settings`.

    Raises
    ------
    ParameterError
        If a parameter cannot be right.
    """
    if on not in ("gpu", "cpu"):
        raise ParameterError(f"on={on!r} is refused: give 'gpu' or 'cpu'.")
    limit, extra = size_bytes("budget", budget), size_bytes("overhead", overhead)
    asked = build(Settings, settings)
    return fit_of(model, header_of(model), asked, limit, on=on, overhead_bytes=extra)


def fit_of(
    model: str,
    header: Header,
    settings: Settings,
    budget_bytes: int,
    *,
    on: Literal["gpu", "cpu"],
    overhead_bytes: int = 0,
) -> Fit:
    """Predict whether a model whose header is known fits into a budget; see :func:`fits`."""

    def parts(n_ctx: int) -> Parts:
        return _side(predict_at(header, settings, n_ctx, on=on, overhead_bytes=overhead_bytes), on)

    return Fit(
        model=model,
        settings=settings,
        on=on,
        budget_bytes=budget_bytes,
        parts=parts(settings.n_ctx),
        largest_n_ctx=largest(lambda n_ctx: parts(n_ctx).total_bytes <= budget_bytes),
    )


def predict_at(
    header: Header, settings: Settings, n_ctx: int, *, on: str, overhead_bytes: int = 0
) -> Prediction:
    """Return the prediction for another context."""
    other = settings.model_copy(update={"n_ctx": n_ctx})
    return predict(header, other, gpu=on == "gpu", overhead_bytes=overhead_bytes)


def _side(prediction: Prediction, on: str) -> Parts:
    return prediction.gpu if on == "gpu" else prediction.host


def largest(works: Any, most: int = MAX_INT32 // PADDING * PADDING) -> int | None:
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
