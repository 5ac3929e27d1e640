"""What is to be measured, as pure data: Start, Trial and Plan.

Nothing here runs anything. A *trial* is one Settings x Workload x Start in one fresh process.
The process is the unit of replication: repeats inside one process share its memory layout,
page cache and thread placement, and are not independent samples. A *round* is every trial of
the grid once, shuffled, so that a slow drift of the machine falls on all cells alike; a *plan*
is several rounds. Identifiers are hashes of what determines the result, so the same trial has
the same identifier on every machine and in every run.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from llm_latency.base import Frozen
from llm_latency.plan.settings import Settings
from llm_latency.plan.workload import Workload

PageCache = Literal["as_is", "resident", "evicted"]
WarmUp = Literal["none", "tokens", "batch", "system_prompt", "restored_state", "python_state"]
CoreKind = Literal["physical", "performance"]


Cpu = Annotated[int, Field(ge=0, lt=2**16)]
Cores = CoreKind | Annotated[tuple[Cpu, ...], Field(min_length=1)]
"""Logical CPUs: one of each core, of each performance core, or these."""
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Wait = Annotated[
    float,
    Field(
        ge=0,
        allow_inf_nan=False,
        description="Seconds to wait for another run on this machine; 0: refuse at once",
    ),
]

HOME = "home"
"""How the engine of the interpreter that runs the lab is called: the one that needs no name."""

RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for its devices."""


def _folder_name(name: str) -> str:
    if (
        not re.fullmatch(r"\w[\w.\-]{0,99}", name)
        or name.endswith(".")
        or len(name.encode()) > 200
        or RESERVED.fullmatch(name)
    ):
        raise ValueError(
            "a name that a folder can have on every system: at most 100 letters, digits, '-', '_' "
            "and '.', a letter or digit first, no dot last, and no device's name such as 'con'"
        )
    return name


RunId = Annotated[str, AfterValidator(_folder_name)]


PREFIX_WARM_UPS: frozenset[WarmUp] = frozenset({"system_prompt", "restored_state", "python_state"})
"""Warm-ups that leave the workload's prefix in the KV cache."""
STATE_WARM_UPS: frozenset[WarmUp] = frozenset({"restored_state", "python_state"})
"""Warm-ups that read it from a file."""


class Start(Frozen):
    """How the process begins: page cache, memory, CPUs, and what is run before the clock.

    Warm-ups: ``tokens`` answers one word with two tokens; ``batch`` evaluates one full batch;
    ``system_prompt`` evaluates the workload's prefix and leaves it in the KV cache;
    ``restored_state`` loads that prefix's KV cache from a file by llama.cpp's own calls, and
    ``python_state`` by llama-cpp-python's ``load_state``.
    """

    page_cache: PageCache = Field(
        "as_is", description="The model's file at start: resident in RAM, evicted, or as_is"
    )
    warm_up: WarmUp = Field(
        "none", description="Run before the first generation: none, tokens, batch, …"
    )
    memory_limit_bytes: Annotated[int, Field(ge=2**24, le=2**62)] | None = Field(
        None, description="Most RAM that the process may use, 16 MiB at least; None: all there is"
    )
    leave_vram_bytes: Annotated[int, Field(ge=2**24, le=2**62)] | None = Field(
        None, description="VRAM that is free when the process starts; a ballast holds the rest"
    )
    cores: Cores | None = Field(
        None,
        description="Its CPUs: any, physical (one of each core), performance, or a list, [0, 2]",
    )
    engine: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="An environment by its name, or its interpreter; home: this one"
    )


class Trial(Frozen):
    """One Settings x Workload x Start, to be measured in one fresh process."""

    experiment: str
    model: str
    settings: Settings
    workload: Workload
    start: Start = Start()
    round: Annotated[int, Field(ge=0)] = 0
    order: Annotated[int, Field(ge=0)] = 0
    twin: bool = Field(False, description="The same cell once more: two of a kind show the noise")
    attempt: Annotated[int, Field(ge=0)] = Field(0, description="1: measured again, disturbed")

    @model_validator(mode="after")
    def _prefix_to_warm(self) -> Trial:
        if self.start.warm_up in PREFIX_WARM_UPS and self.workload.cache_mode != "prefix":
            raise ValueError(
                f"warm_up={self.start.warm_up!r} leaves a prefix in the KV cache; give "
                "prefix_tokens, the length of the system prompt"
            )
        return self

    @model_validator(mode="after")
    def _server_starts_empty(self) -> Trial:
        if self.workload.via not in ("server", "openai"):
            return self
        if self.workload.quality_against:
            raise ValueError("quality_against looks into two contexts; give via='engine' with it")
        if self.start.warm_up in STATE_WARM_UPS:
            raise ValueError(
                f"warm_up={self.start.warm_up!r} is llama-cpp-python's, and llama-server reads no "
                "state of it; give warm_up='system_prompt', or via='engine'"
            )
        chosen = self.start.model_copy(update={"page_cache": "as_is", "cores": None})
        if self.workload.via == "openai" and chosen != Start():
            raise ValueError(
                "a server that is already there has begun; leave out warm_up, memory_limit, "
                "leave_vram and engine"
            )
        return self

    @model_validator(mode="after")
    def _layers_in_vram(self) -> Trial:
        if self.start.leave_vram_bytes is not None and self.settings.n_gpu_layers == 0:
            raise ValueError(
                "n_gpu_layers=0 puts nothing into the VRAM that leave_vram would leave; give "
                "n_gpu_layers, or memory_limit for the RAM"
            )
        return self

    @property
    def cell_id(self) -> str:
        """Hash of what determines the result: equal in every round, run and machine."""
        # What was not asked for is left out, so that a new option leaves old identifiers alone.
        parts = {"model", "settings", "workload", "start"}
        decisive = self.model_dump(include=parts, exclude_none=True)
        text = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def trial_id(self) -> str:
        """The cell and its round, whether it is a twin, which attempt: unique in a run."""
        name = f"{self.cell_id}-r{self.round:02d}"
        return name + "-twin" * self.twin + f"-again{self.attempt}" * bool(self.attempt)


Minutes = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
"""A time that there is; 0: no bound."""


class Plan(Frozen):
    """Several rounds over a grid of cells, in shuffled order, as data.

    ``parameters`` holds what the user gave, resolved, for the report; ``run_id`` names the
    folder (``None``: a new one is made from the experiment and the time).
    """

    experiment: str
    model: str
    cells: tuple[Trial, ...]
    rounds: Annotated[int, Field(ge=1, le=10_000)] = Field(
        2, description="How often every cell is measured, each time in a fresh process"
    )
    seed: Seed = Field(0, description="Of the shuffled order")
    timeout_s: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)] = Field(
        900.0, description="Longest life of one process, in seconds"
    )
    repeat_disturbed: bool = Field(
        False, description="Measure disturbed trials again at the end; both records stay"
    )
    stop_when_decided: bool = Field(
        False, description="Cells whose comparisons are decided cost no further rounds"
    )
    minutes: Minutes = Field(
        0.0, description="Rounds go on until so many minutes are over; 0: as planned"
    )
    wait_s: Wait = 0.0
    run_id: RunId | None = Field(
        None, description="A new name, or that of a run to go on with; empty: one is made"
    )
    parameters: dict[str, Any] = Field(default_factory=dict)
    left_out: tuple[str, ...] = Field(
        (), description="Settings of the grid that do not go together, and are not measured"
    )

    @property
    def looked_at(self) -> bool:
        """Whether the run looks after every round whether it is to end; verdicts know of it."""
        return self.stop_when_decided or self.minutes > 0

    @property
    def plan_id(self) -> str:
        """Hash of every planned trial in its order: two equal plans measure the same.

        How many minutes there are is not part of it, so that a run can be given more.
        """
        text = "\n".join(trial.trial_id for trial in self.trials())
        text += "\nlooked at" * self.looked_at
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def trials(self) -> list[Trial]:
        """Return every trial of every round, each round shuffled by the recorded seed."""
        return [trial for number in range(self.rounds) for trial in self.round(number)]

    def round(self, number: int) -> list[Trial]:
        """Return every trial of one round, also of one beyond ``rounds``.

        Of what a cache loses the first round has all: the same tokens through the same model say
        the same again, and its sample are blocks of tokens.
        """
        cells = list(self.cells)
        random.Random(f"{self.seed}/{number}").shuffle(cells)
        first = number * len(cells)
        return [
            cell.model_copy(update={"round": number, "order": first + place})
            for place, cell in enumerate(cells)
            if not (number and cell.workload.quality_against)
        ]
