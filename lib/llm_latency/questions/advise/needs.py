"""What an application needs of its model: context, time to the first token, memory, start.

A conversation is a need too: so many turns of so many tokens are a window that holds them, and a
prompt of which all but the last message is in the KV cache.

Memory is that of the GPU where layers are kept on one, else the machine's RAM; where the GPU has
none of its own, one pool holds what lies on either side. It is looked up
once, when a plan is carried out, and kept with the run, so that a stored run is judged by the
memory that there was.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from llm_latency.base import Frozen
from llm_latency.errors import ParameterError
from llm_latency.machine import limits, offload
from llm_latency.machine.devices import gpu_card
from llm_latency.measure.trial import engine_card
from llm_latency.plan.parameters import build, plain, whole
from llm_latency.plan.settings import MAX_INT32, PADDING, Count
from llm_latency.plan.sizes import share, size_bytes
from llm_latency.records.record import EngineCard, EngineDevice

Use = Literal["start_up", "on_demand"]
Side = Literal["cpu", "gpu"]
Room = Annotated[int, Field(ge=1, le=MAX_INT32 - PADDING)]
"""A context that can still be rounded up as llama.cpp does."""

MOST_TURNS = 10_000
"""Turns that a conversation may grow to."""

ON_CPU: dict[str, Any] = {"on": "cpu", "unified": False, "can_be_withheld": True}
"""Where the RAM is all there is, which a cgroup withholds."""
ANYWHERE: dict[str, Any] = ON_CPU | {"memory_there_bytes": 2**62}
"""Of no machine yet: memory for all, so that what is refused can be right nowhere."""


class Needs(Frozen):
    """What settings are judged by."""

    n_ctx: Room = Field(description="Tokens of context, at least")
    prompt_tokens: Count = Field(description="Length of the prompt that is answered")
    prefix_tokens: int = Field(
        0, ge=0, description="How many of them were said before, and are in the KV cache"
    )
    max_tokens: Count = Field(description="Length of the answer")
    ttft_s: float | None = Field(None, gt=0, description="Time to the first token, at most")
    load_s: float | None = Field(None, gt=0, description="Time to load, at most")
    quality: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of tokens with the same most likely next as with an f16 KV cache, at "
        "least; None: the KV cache is not varied",
    )
    use: Use = Field("start_up", description="Loaded once at start, or anew for each answer")
    on: Side = Field(description="Whether the memory is the GPU's or the CPU's")
    memory_bytes: int = Field(gt=0, description="Memory that there is")
    keep_free_bytes: int = Field(ge=0, description="Memory that others are to have")
    unified: bool = Field(False, description="Whether the GPU's memory is the machine's RAM")
    capped: bool = Field(
        description="Whether a process is held to the memory: it was stated, and can be withheld"
    )

    @property
    def new_tokens(self) -> int:
        """Tokens of the prompt that are evaluated before the first of the answer."""
        return self.prompt_tokens - self.prefix_tokens

    @property
    def limit_bytes(self) -> int:
        """Memory that the model may take."""
        return self.memory_bytes - self.keep_free_bytes

    @property
    def of_gpu(self) -> bool:
        """Whether it is a GPU's own memory that counts."""
        return self.on == "gpu" and not self.unified

    @property
    def word(self) -> str:
        """VRAM or RAM."""
        return "VRAM" if self.of_gpu else "RAM"

    @property
    def waits_for_load(self) -> bool:
        """Whether each answer waits for loading too."""
        return self.use == "on_demand"


def needs_of(given: Mapping[str, Any]) -> Needs:
    """Return the needs out of an experiment's parameters.

    Parameters
    ----------
    given
        ``n_ctx, prompt_tokens, max_tokens, turns, tokens_per_turn, ttft_s, load_s, quality, use,
        memory`` and ``keep_free``, as users write them; what :func:`here` tells of the machine; and
        ``own_tokens``, the length of a prompt of the user's own.

    Raises
    ------
    ParameterError
        If one of them cannot be right.
    """
    stated = str(given["memory"]).strip() != ""
    there = given["memory_there_bytes"]
    if stated:
        there = size_bytes("memory", plain(given["memory"]))
        if there <= 0:
            raise ParameterError("memory=0 is refused: give what there is, such as '6 GiB'.")
    found = build(
        Needs,
        {
            **_asked(given),
            **{name: _bound(name, given[name]) for name in ("ttft_s", "load_s")},
            "quality": share("quality", given["quality"]) if given.get("quality") else None,
            "use": given["use"],
            "on": given["on"],
            "memory_bytes": there,
            "keep_free_bytes": size_bytes("keep_free", plain(given["keep_free"] or 0)),
            "unified": given.get("unified", False),
            "capped": stated and given.get("can_be_withheld", True),
        },
    )
    if found.limit_bytes <= 0:
        raise ParameterError(
            f"keep_free={given['keep_free']!r} leaves nothing of memory={found.memory_bytes:,} "
            f"bytes of {found.word}; give less, or more memory."
        )
    if (need := found.prompt_tokens + found.max_tokens) > found.n_ctx:
        prompt = (
            f"the prompt has {found.prompt_tokens:,} tokens, which with"
            if given.get("own_tokens")
            else f"prompt_tokens={found.prompt_tokens} and"
        )
        raise ParameterError(
            f"n_ctx={found.n_ctx} is refused: {prompt} max_tokens={found.max_tokens} need {need} "
            "tokens; give that or more."
        )
    return found


def _asked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the window, the prompt, the answer, and what was said before, all in tokens.

    Of a conversation it is the last turn, where the prompt is longest: everything before its
    message is in the KV cache, as in an application that keeps it, and the window holds all of it.
    """
    asked = {name: plain(given[name]) for name in ("n_ctx", "prompt_tokens", "max_tokens")}
    if own := given.get("own_tokens"):
        asked["prompt_tokens"] = own
    turns = whole("turns", given.get("turns", 0), 0, MOST_TURNS)
    each = whole("tokens_per_turn", given.get("tokens_per_turn", 0), 0)
    if not turns:
        return asked
    window, first, answer = (whole(name, value) for name, value in asked.items())
    if each <= answer:
        raise ParameterError(
            f"tokens_per_turn={each} is refused: of each turn max_tokens={answer} are the answer, "
            "and a message has one at least; give more of them, or a shorter answer."
        )
    before = first + (turns - 1) * each
    return {
        "n_ctx": max(window, before + each),
        "prompt_tokens": before + each - answer,
        "prefix_tokens": before,
        "max_tokens": answer,
    }


def _bound(name: str, value: Any) -> float | None:
    """Return an upper bound in seconds; 0 is none."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise ParameterError(
            f"{name}={value!r} is refused: give seconds, such as 0.5, or 0 for no bound."
        )
    return float(value) or None


def here(n_gpu_layers: Any) -> dict[str, Any]:
    """Return what this machine has for some numbers of layers.

    A model would be on a GPU if the engine sees one, of whatever maker, and layers may go there.

    Returns
    -------
    dict
        ``on``, ``memory_there_bytes``, ``unified``, and ``can_be_withheld``: whether a process can
        be made to do with less.
    """
    layers = plain(n_gpu_layers)
    asked = list(layers) if isinstance(layers, list | tuple) else [layers]
    none_wanted = asked != [] and all(value == 0 for value in asked)
    devices, card = [] if none_wanted else offload.taken(devices_seen()), gpu_card()
    there = offload.memory_bytes(devices, card)
    if there is None:
        return ON_CPU | {"memory_there_bytes": limits.memory_limit_bytes()}
    return {
        "on": "gpu",
        "memory_there_bytes": there,
        "unified": all(one.unified for one in devices),
        "can_be_withheld": offload.all_of_card(devices, card),
    }


def devices_seen() -> list[EngineDevice]:
    """Return the devices that the engine sees; none where it does not start."""
    with tempfile.TemporaryDirectory() as folder:
        engine = engine_card(Path(folder) / "engine.log")
    return engine.devices if isinstance(engine, EngineCard) else []
