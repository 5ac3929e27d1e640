"""What is to be measured, as pure data: Settings, Workload, Start, Trial and Plan.

Nothing here runs anything. A *trial* is one Settings x Workload x Start in one fresh process.
The process is the unit of replication: repeats inside one process share its memory layout,
page cache and thread placement, and are not independent samples. A *round* is every trial of
the grid once, shuffled, so that a slow drift of the machine falls on all cells alike; a *plan*
is several rounds. Identifiers are hashes of what determines the result, so the same trial has
the same identifier on every machine and in every run.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llm_latency.errors import ParameterError, did_you_mean

KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
PageCache = Literal["as_is", "resident", "evicted"]
WarmUp = Literal["none", "tokens", "batch"]
Via = Literal["engine", "generate", "stream"]

MAX_INT32 = 2**31 - 1
"""llama.cpp holds counts in 32-bit integers."""

Count = Annotated[int, Field(ge=1, le=MAX_INT32)]


class Frozen(BaseModel):
    """Immutable, strictly typed, and closed to names that it does not know."""

    # Built when first used: a measured process starts sooner, and uses few of them.
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", defer_build=True)


class Settings(Frozen):
    """What a model is loaded with: llama-cpp-python's own names and units.

    Defaults are llama-cpp-python's, save two that make its defaults false friends:
    ``n_gpu_layers`` is -1 (all layers on the GPU if there is one; 0 there), and ``None`` for
    the threads means the CPUs that this process may really use (half of all, or all, there).
    """

    n_ctx: Count = Field(512, description="Tokens the context can hold; padded to 256 by llama.cpp")
    n_batch: Count = Field(512, description="Most prompt tokens handed to llama.cpp in one call")
    n_ubatch: Count | None = Field(
        None, description="Most tokens computed at once; None: the engine's own, min(n_batch, 512)"
    )
    n_gpu_layers: Annotated[int, Field(ge=-1, le=MAX_INT32)] = Field(
        -1, description="Layers kept on the GPU; -1: all; 0: none"
    )
    n_threads: Count | None = Field(None, description="Threads for decode; None: usable CPUs")
    n_threads_batch: Count | None = Field(
        None, description="Threads for prefill; None: as n_threads"
    )
    use_mmap: bool = Field(True, description="Map the model file instead of reading it")
    use_mlock: bool = Field(False, description="Lock the weights in RAM")
    flash_attn: bool = Field(False, description="Use flash attention")
    offload_kqv: bool = Field(True, description="Keep the KV cache on the GPU")
    type_k: KvType = Field("f16", description="Number format of the K cache")
    type_v: KvType = Field("f16", description="Number format of the V cache")


class Workload(Frozen):
    """What the model is asked.

    Either ``prompt`` (text, tokenised by the model) or ``prompt_tokens`` (an exact number of
    tokens of a passage that ships with the lab). ``length="fixed"`` generates exactly
    ``max_tokens`` and ignores end-of-generation; ``"natural"`` stops there. ``cache_mode="cold"``
    evaluates every prompt token in every generation; ``"prefix"`` finds the first
    ``prefix_tokens`` of them in the KV cache. ``via`` is the way through llama-cpp-python:
    ``engine`` (llama.cpp's calls alone), ``generate`` (``Llama.generate``, token by token) or
    ``stream`` (a streamed completion, chunk by chunk, as an application sees it).
    """

    prompt: str | None = Field(None, description="The prompt as text")
    prompt_tokens: Count | None = Field(None, description="The prompt as a number of tokens")
    max_tokens: Count = Field(32, description="Tokens to generate")
    length: Literal["fixed", "natural"] = Field("fixed", description="When generation ends")
    cache_mode: Literal["cold", "prefix"] = Field(
        "cold", description="Whether the KV cache holds a part of the prompt beforehand"
    )
    prefix_tokens: Annotated[int, Field(ge=0, le=MAX_INT32)] = Field(
        0, description="Prompt tokens that are in the KV cache beforehand, with cache_mode prefix"
    )
    via: Via = Field("engine", description="Way through llama-cpp-python")
    repeats: Annotated[int, Field(ge=0, le=10_000)] = Field(
        1, description="Further generations in the same process after the first"
    )

    @model_validator(mode="after")
    def _one_prompt(self) -> Workload:
        if (self.prompt is None) == (self.prompt_tokens is None):
            raise ValueError("give either prompt or prompt_tokens, and not both")
        if self.prompt == "":
            raise ValueError("prompt is empty; give at least one word, or prompt_tokens instead")
        if (self.cache_mode == "prefix") != (self.prefix_tokens > 0):
            raise ValueError("cache_mode='prefix' and prefix_tokens above 0 go together")
        if self.prompt_tokens is not None and self.prefix_tokens >= self.prompt_tokens:
            raise ValueError(
                f"prefix_tokens={self.prefix_tokens} leaves nothing to evaluate of "
                f"prompt_tokens={self.prompt_tokens}; give fewer"
            )
        return self


class Start(Frozen):
    """How the process begins: the state of the page cache, and what is run before the clock."""

    page_cache: PageCache = Field("as_is", description="State of the model file's pages at start")
    warm_up: WarmUp = Field(
        "none", description="none; 2 tokens; or one full batch, before the first generation"
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

    @property
    def cell_id(self) -> str:
        """Hash of what determines the result: equal in every round, run and machine."""
        decisive = self.model_dump(include={"model", "settings", "workload", "start"})
        text = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def trial_id(self) -> str:
        """The cell and its round, whether it is a twin, which attempt: unique in a run."""
        name = f"{self.cell_id}-r{self.round:02d}"
        return name + "-twin" * self.twin + f"-again{self.attempt}" * bool(self.attempt)


class Plan(Frozen):
    """Several rounds over a grid of cells, in shuffled order, as data.

    ``parameters`` holds what the user gave, resolved, for the report; ``run_id`` names the
    folder (``None``: a new one is made from the experiment and the time).
    """

    experiment: str
    model: str
    cells: tuple[Trial, ...]
    rounds: Annotated[int, Field(ge=1, le=10_000)] = 1
    seed: int = 0
    timeout_s: Annotated[float, Field(gt=0)] = 900.0
    repeat_disturbed: bool = Field(
        False, description="Measure disturbed trials again at the end; both records stay"
    )
    run_id: Annotated[str, Field(pattern=r"^[\w][\w.\-]{0,99}$")] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)

    @property
    def plan_id(self) -> str:
        """Hash of every planned trial in its order: two equal plans measure the same."""
        text = "\n".join(trial.trial_id for trial in self.trials())
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def trials(self) -> list[Trial]:
        """Return every trial of every round, each round shuffled by the recorded seed."""
        planned: list[Trial] = []
        for number in range(self.rounds):
            cells = list(self.cells)
            random.Random(f"{self.seed}/{number}").shuffle(cells)
            planned += [
                cell.model_copy(update={"round": number, "order": len(planned) + place})
                for place, cell in enumerate(cells)
            ]
        return planned


def as_list(name: str, value: Any) -> list[Any]:
    """Return a grid parameter, one value or a list of them, as a list without repetitions.

    papermill hands ``-p n_batch "[256, 512]"``, ``true`` and ``null`` over as text; text that
    reads as a JSON list, number, boolean or null is taken for what it plainly is.

    Raises
    ------
    ParameterError
        If the list is empty.
    """
    value = plain(value)
    values = [plain(v) for v in value] if isinstance(value, list | tuple | range) else [value]
    if not values:
        raise ParameterError(
            f"{name}=[] has no value to measure; give one value or a list, such as {name}=[512]"
        )
    return list({json.dumps(v, sort_keys=True, default=str): v for v in values}.values())


def plain(value: Any) -> Any:
    """Undo what the command line does to a value: text that is plainly JSON becomes its value."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text in {"true", "True", "false", "False", "null", "None"}:
        return {"t": True, "f": False}.get(text[0].lower())
    if text[:1] in "[-0123456789":
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return value
    return value


SpecT = TypeVar("SpecT", bound=Frozen)


def build(kind: type[SpecT], values: Mapping[str, Any]) -> SpecT:
    """Make one spec object out of named values.

    Raises
    ------
    ParameterError
        One sentence that names the first wrong parameter, its value, what is allowed and what
        to do.
    """
    for name in values:
        if name not in kind.model_fields:
            allowed = ", ".join(kind.model_fields)
            raise ParameterError(
                f"{name} is not a parameter of {kind.__name__.lower()}"
                f"{did_you_mean(name, kind.model_fields)} Allowed are: {allowed}."
            )
    try:
        return kind(**values)
    except ValidationError as error:
        raise ParameterError(explain(error, kind)) from None


def explain(error: ValidationError, kind: type[Frozen]) -> str:
    """Put the first finding of a validation error as one sentence with a remedy."""
    finding = error.errors()[0]
    if not finding["loc"]:
        return f"{kind.__name__.lower()}: {finding['msg'].removeprefix('Value error, ')}."
    name = str(finding["loc"][0])
    purpose = kind.model_fields[name].description or name
    rule = finding["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{name}={finding['input']!r} is refused: give {rule} ({purpose})."


def grid(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the axes' values, the last axis turning fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
