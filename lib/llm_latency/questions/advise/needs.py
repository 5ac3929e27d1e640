"""What an application needs of its model: context, time to the first token, memory, start.

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
from llm_latency.plan.parameters import build, plain
from llm_latency.plan.sizes import size_bytes
from llm_latency.plan.spec import MAX_INT32, PADDING, Count
from llm_latency.records.record import EngineCard, EngineDevice

Use = Literal["start_up", "on_demand"]
Side = Literal["cpu", "gpu"]
Room = Annotated[int, Field(ge=1, le=MAX_INT32 - PADDING)]
"""A context that can still be rounded up as llama.cpp does."""


ON_CPU: dict[str, Any] = {"on": "cpu", "unified": False, "can_be_withheld": True}
"""Where the RAM is all there is, which a cgroup withholds."""
ANYWHERE: dict[str, Any] = ON_CPU | {"memory_there_bytes": 2**62}
"""Of no machine yet: memory for all, so that what is refused can be right nowhere."""


class Needs(Frozen):
    """What settings are judged by."""

    n_ctx: Room = Field(description="Tokens of context, at least")
    prompt_tokens: Count = Field(description="Length of the prompt that is answered")
    max_tokens: Count = Field(description="Length of the answer")
    ttft_s: float | None = Field(None, gt=0, description="Time to the first token, at most")
    load_s: float | None = Field(None, gt=0, description="Time to load, at most")
    use: Use = Field("start_up", description="Loaded once at start, or anew for each answer")
    on: Side = Field(description="Whether the memory is the GPU's or the CPU's")
    memory_bytes: int = Field(gt=0, description="Memory that there is")
    keep_free_bytes: int = Field(ge=0, description="Memory that others are to have")
    unified: bool = Field(False, description="Whether the GPU's memory is the machine's RAM")
    capped: bool = Field(
        description="Whether a process is held to the memory: it was stated, and can be withheld"
    )

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
        ``n_ctx, prompt_tokens, max_tokens, ttft_s, load_s, use, memory`` and ``keep_free``, as
        users write them; and what :func:`here` tells of the machine.

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
            **{name: plain(given[name]) for name in ("n_ctx", "prompt_tokens", "max_tokens")},
            **{name: _bound(name, given[name]) for name in ("ttft_s", "load_s")},
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
    if found.prompt_tokens + found.max_tokens > found.n_ctx:
        raise ParameterError(
            f"n_ctx={found.n_ctx} is refused: prompt_tokens={found.prompt_tokens} and "
            f"max_tokens={found.max_tokens} need {found.prompt_tokens + found.max_tokens} tokens; "
            "give that or more."
        )
    return found


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
