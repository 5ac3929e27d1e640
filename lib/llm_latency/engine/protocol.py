"""What a child process tells its parent: one JSON line per event on a private pipe.

The child's first standard output is that pipe; before it loads anything it moves its own
standard output and error to a log file, so that nothing llama.cpp prints can be taken for an
event. Each part of a record is sent as soon as it is measured: a crash loses what came after,
not what came before. The request's pipe stays open: its end tells the child that the parent
is gone.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llm_latency.base import Part
from llm_latency.plan.spec import Trial
from llm_latency.records.generation import Generation, Quality
from llm_latency.records.record import (
    Affinity,
    Buffers,
    Effective,
    EngineCard,
    LoadTimings,
    ProcessMemory,
    StateFile,
)


class Request(Part):
    """What the child is to do: measure a trial, make its state, or say what the engine is."""

    trial: Trial | None = None
    model_path: str = ""
    log_path: str
    state_path: str = Field("", description="The prompt's stored KV cache, where one is used")
    make_state: bool = Field(False, description="Write that file, and measure nothing else")
    join: str = Field("", description="The cgroup file that limits the child's memory")
    data_bytes: int | None = Field(None, description="Limit of its own allocations instead")


class Event(Part):
    """One line from the child: where it is, and what it has measured so far."""

    phase: str = Field(description="What the child begins to do now")
    pid: int | None = Field(None, description="What holds the model, where it is another process")
    engine: EngineCard | None = None
    system_info: str | None = None
    load: LoadTimings | None = None
    effective: Effective | None = None
    buffers: Buffers | None = None
    generation: Generation | None = None
    quality: Quality | None = None
    state: StateFile | None = None
    memory: dict[str, ProcessMemory] = Field(default_factory=dict)
    affinity: Affinity | None = None
    warnings: list[str] = Field(default_factory=list)
    ended: Literal["done", "oom", "refused", "crashed"] | None = None
    reason: str | None = None
    cpu_frequency_hz: float | None = Field(None, description="Now, of the CPUs that it may use")
    cpu_s: float | None = Field(None, description="CPU time of the child, all its threads")
