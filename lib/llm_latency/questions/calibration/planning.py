"""What is compared with llama-bench, as pure data: the tests, their pairs, and the order."""

from __future__ import annotations

import hashlib
import random
from typing import Annotated, Any, Literal

from pydantic import Field

from llm_latency.base import Frozen
from llm_latency.model import names
from llm_latency.plan.builder import Grid
from llm_latency.plan.parameters import as_list, build, check_sizes, closed, plain, run_name
from llm_latency.plan.settings import MAX_INT32, PADDING, Count, Settings, padded
from llm_latency.plan.spec import RunId, Seed, Trial, Wait
from llm_latency.plan.workload import Workload

BATCH = 512
"""``n_batch`` and ``n_ubatch`` of both tools: llama-cpp-python's default."""

TIMEOUT_S = 900.0
"""Longest life of one process of either tool, in seconds."""

Tool = Literal["lab", "llama-bench"]
Length = Annotated[int, Field(ge=1, le=MAX_INT32 - PADDING)]
"""A number of tokens whose context, with room for one more, llama.cpp can still count."""
DepthOfTest = Annotated[int, Field(ge=0, le=2**30)]
"""Tokens that leave room for as many more."""


class Planned(Frozen):
    """One pair to come: the lab's trial, llama-bench's test, and who goes first."""

    trial: Trial
    test: str
    n_prompt: int = 0
    n_gen: int = 0
    first: Tool

    @property
    def n_depth(self) -> int:
        """Tokens in the context before either clock starts."""
        return max(self.trial.workload.depths or (0,))

    @property
    def pair_id(self) -> str:
        """The test, its threads and the round: unique in a plan."""
        return f"{self.test}-t{self.trial.settings.n_threads}-r{self.trial.round:02d}"


class CalibrationPlan(Frozen):
    """What is compared, as data."""

    model: str
    n_threads: tuple[Count, ...] = Field(description="Threads, for prefill and decode alike")
    prompt_tokens: tuple[Length, ...] = Field(description="Lengths of prefill, in tokens")
    max_tokens: Length = Field(description="Tokens of decode")
    depths: tuple[DepthOfTest, ...] = Field(
        (0,), min_length=1, description="Tokens in the context before decode begins"
    )
    pairs: Annotated[int, Field(ge=1, le=10_000)] = Field(description="Pairs of each test")
    repeats: Annotated[int, Field(ge=1, le=10_000)] = Field(
        description="Samples in each process, after the first run that both tools drop"
    )
    seed: Seed = Field(0, description="Of the order")
    wait_s: Wait = 0.0
    run_id: RunId | None = Field(
        None, description="A new name, or that of a calibration to go on with"
    )
    parameters: dict[str, Any] = Field(default_factory=dict, description="As the user gave them")

    @property
    def experiment(self) -> str:
        """The question."""
        return "calibration"

    @property
    def timeout_s(self) -> float:
        """Longest life of one process of either tool, in seconds."""
        return TIMEOUT_S

    @property
    def minutes(self) -> float:
        """The time that it is given: as much as its pairs take."""
        return 0.0

    @property
    def plan_id(self) -> str:
        """Hash of every pair in its order: two equal plans measure the same."""
        text = "\n".join(planned.model_dump_json() for planned in self.planned())
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def cells(self) -> tuple[Trial, ...]:
        """The lab's half of each test, once."""
        return tuple(p.trial for p in self.planned() if p.trial.round == 0)

    @property
    def rounds(self) -> int:
        """How often each is measured."""
        return self.pairs

    def trials(self) -> list[Trial]:
        """Return the lab's half of every pair, in order."""
        return [planned.trial for planned in self.planned()]

    def planned(self) -> list[Planned]:
        """Return every pair in its order."""
        tests = [
            (threads, kind, tokens, depth)
            for threads in self.n_threads
            for kind, tokens, depth in (
                *(("pp", n, 0) for n in self.prompt_tokens),
                *(("tg", self.max_tokens, depth) for depth in self.depths),
            )
        ]
        chance = random.Random(f"{self.seed}")
        starts = {test: chance.randrange(2) for test in tests}
        made: list[Planned] = []
        for number in range(self.pairs):
            shuffled = list(tests)
            chance.shuffle(shuffled)
            for test in shuffled:
                first: Tool = "lab" if (number + starts[test]) % 2 == 0 else "llama-bench"
                made.append(self._pair(*test, number, len(made), first))
        return made

    def _pair(
        self,
        threads: int,
        kind: str,
        tokens: int,
        depth: int,
        number: int,
        order: int,
        first: Tool,
    ) -> Planned:
        prompt, answer = (tokens, 1) if kind == "pp" else (1, tokens)
        n_ctx = padded(depth + prompt + answer)
        settings = Settings(
            n_ctx=n_ctx,
            n_batch=min(BATCH, n_ctx),
            n_ubatch=min(BATCH, n_ctx),
            n_threads=threads,
            n_threads_batch=threads,
        )
        walk = {"depths": (depth,), "cache_mode": "kept"} if depth else {}
        asked = {"prompt_tokens": prompt, "max_tokens": answer, "repeats": self.repeats}
        workload = build(Workload, asked | walk)
        trial = Trial(
            experiment="calibration",
            model=self.model,
            settings=settings,
            workload=workload,
            round=number,
            order=order,
        )
        sizes = {"n_prompt" if kind == "pp" else "n_gen": tokens}
        test = f"{kind}{tokens}" + f"-d{depth}" * bool(depth)
        return Planned(trial=trial, test=test, first=first, **sizes)


@closed("calibration")
def plan(
    model: str = "synthetic:125m",
    n_threads: Annotated[Grid, "threads for prefill and decode alike; each is compared"] = (1, 2),
    prompt_tokens: Annotated[Grid, "lengths of prefill, in tokens"] = (128, 512),
    max_tokens: Annotated[int, "tokens of decode"] = 64,
    depths: Annotated[Grid, "tokens in the context before decode begins"] = (0,),
    pairs: Annotated[int, "pairs of fresh processes per test; an interval takes six"] = 6,
    repeats: Annotated[int, "samples in each process, after a first one that is dropped"] = 3,
    seed: int = 0,
    wait_s: float = 0.0,
    run_id: str = "",
) -> CalibrationPlan:
    """Plan a comparison of the lab with llama-bench.

    Raises
    ------
    ParameterError
        One sentence that names the parameter, its value, and what to do.
    """
    given = {name: plain(value) for name, value in locals().items()}
    check_sizes(given)
    values = given | {
        "model": names.check(model),
        "n_threads": tuple(as_list("n_threads", n_threads)),
        "prompt_tokens": tuple(as_list("prompt_tokens", prompt_tokens)),
        "depths": tuple(as_list("depths", depths)),
        "run_id": run_name(run_id),
        "parameters": given,
    }
    return build(CalibrationPlan, values)
