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
import json
import random
import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from llm_latency.base import Frozen

KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
BLOCKWISE: frozenset[KvType] = frozenset({"q8_0", "q5_1", "q5_0", "q4_1", "q4_0"})
"""Number formats that hold several values with one scale."""
PageCache = Literal["as_is", "resident", "evicted"]
WarmUp = Literal["none", "tokens", "batch", "system_prompt", "restored_state", "python_state"]
CacheMode = Literal["cold", "prefix", "kept"]
Language = Literal["fr", "en"]
Via = Literal["engine", "generate", "stream", "chat", "server", "openai"]
Template = Literal["own", "chatml", "gemma", "llama-2", "llama-3", "mistral-instruct", "zephyr"]
"""The one in the model's file, or one that llama-cpp-python ships."""
CoreKind = Literal["physical", "performance"]

MAX_INT32 = 2**31 - 1
"""llama.cpp holds counts in 32-bit integers."""
PADDING = 256
"""llama.cpp rounds a context up to a multiple of this."""
MAX_LAYERS = 4096
"""More layers than any model has."""
UBATCH = 512
"""Most tokens that llama.cpp computes at once where nobody says."""

Count = Annotated[int, Field(ge=1, le=MAX_INT32)]
Depth = Annotated[int, Field(ge=0, le=MAX_INT32)]
Cpu = Annotated[int, Field(ge=0, lt=2**16)]
Cores = CoreKind | Annotated[tuple[Cpu, ...], Field(min_length=1)]
"""Logical CPUs: one of each core, of each performance core, or these."""
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
MAX_SEED = 2**32 - 2
"""llama.cpp takes the number after it for a seed that nobody knows."""
Share = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Wait = Annotated[
    float,
    Field(
        ge=0,
        allow_inf_nan=False,
        description="Seconds to wait for another run on this machine; 0: refuse at once",
    ),
]

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


def padded(n_tokens: int) -> int:
    """Return the smallest context on llama.cpp's grid that holds so many tokens."""
    return -(-n_tokens // PADDING) * PADDING


class Conflict(NamedTuple):
    """Settings that do not go together: which, and why not and what to give instead."""

    what: str
    why: str


class Settings(Frozen):
    """What a model is loaded with: llama-cpp-python's own names and units.

    Defaults are llama-cpp-python's, save three that make its defaults false friends: ``n_ctx`` is
    2048 (512 there), ``n_gpu_layers`` -1 (all layers on the GPU if there is one; 0 there), and
    ``None`` for the threads means the CPUs that this process may really use (half of all, or all,
    there).
    """

    n_ctx: Count = Field(
        2048, description=f"Tokens the context can hold; padded to {PADDING} by llama.cpp"
    )
    n_batch: Count = Field(512, description="Most prompt tokens handed to llama.cpp in one call")
    n_ubatch: Count | None = Field(
        None,
        description=f"Most tokens computed at once; None: the engine's own, min(n_batch, {UBATCH})",
    )
    n_gpu_layers: Annotated[int, Field(ge=-1, le=MAX_INT32)] = Field(
        -1, description="Layers kept on the GPU; -1, or more than there are: all; 0: none"
    )
    n_threads: Count | None = Field(None, description="Threads for decode; None: usable CPUs")
    n_threads_batch: Count | None = Field(
        None, description="Threads for prefill; None: as n_threads"
    )
    use_mmap: bool = Field(True, description="Map the model file instead of reading it")
    use_mlock: bool = Field(False, description="Lock the weights in RAM")
    flash_attn: bool | Literal["auto"] = Field(
        False, description="Use flash attention: true, false, or auto, where the device can"
    )
    offload_kqv: bool = Field(True, description="Keep the KV cache on the GPU")
    type_k: KvType = Field("f16", description="Number format of the K cache")
    type_v: KvType = Field("f16", description="Number format of the V cache")
    swa_full: bool | None = Field(
        None,
        description="Keep the whole context in layers with a sliding window; "
        "None: llama-cpp-python's own, true",
    )
    op_offload: bool | None = Field(
        None,
        description="Let a GPU compute batches with weights that are in RAM; "
        "None: llama-cpp-python's own, true",
    )
    n_cpu_moe: Annotated[int, Field(ge=1, le=MAX_LAYERS)] | None = Field(
        None, description="First layers whose experts stay on the CPU; None: none"
    )

    @property
    def conflict(self) -> Conflict | None:
        """What llama.cpp would cut down or refuse, whatever the model; ``None``: nothing.

        No validator, since what was measured with such settings must stay readable. An ``n_batch``
        that nobody gave goes with any context.
        """
        given = {name: getattr(self, name) or 0 for name in self.model_fields_set}
        for name, holder in (("n_ubatch", "n_ctx"), ("n_ubatch", "n_batch"), ("n_batch", "n_ctx")):
            if (size := given.get(name, 0)) > (most := getattr(self, holder)):
                return Conflict(
                    f"{name}={size} beside {holder}={most}",
                    f"llama.cpp cuts it down; give {name}={most} or less, or a larger {holder}",
                )
        if self.type_v in BLOCKWISE and not self.flash_attn:
            return Conflict(
                f"type_v={self.type_v!r} without flash attention",
                "llama.cpp quantises V only with it; give flash_attn=true, or type_v='f16'",
            )
        return None


class Message(Frozen):
    """One message of a chat, as Hugging Face's templates and applications name its parts."""

    role: Literal["system", "user", "assistant"]
    content: str


class Sampling(Frozen):
    """How the next token is chosen: names and defaults are those of ``create_completion``.

    One default differs: ``seed`` is 0, so that equal trials draw alike, where llama-cpp-python
    draws one. Every answer begins with it anew.
    """

    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = Field(
        0.8, description="How far from the most likely token it strays; 0: never"
    )
    top_k: Annotated[int, Field(ge=0, le=MAX_INT32)] = Field(
        40, description="Of how many likely tokens it chooses; 0: of all"
    )
    top_p: Share = Field(0.95, description="Of tokens that together are so likely; 1: of all")
    min_p: Share = Field(
        0.05, description="Of tokens at least so likely as this share of the likeliest; 0: of all"
    )
    repeat_penalty: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = Field(
        1.0, description="What was generated becomes less likely by this factor; 1: not"
    )
    presence_penalty: Penalty = Field(0.0, description="Taken off once of what was generated")
    frequency_penalty: Penalty = Field(0.0, description="Taken off each time it was generated")
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = Field(0, description="Of what is drawn")
    grammar: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="What an answer may be, in llama.cpp's GBNF"
    )
    json_schema: Annotated[str, Field(min_length=2)] | None = Field(
        None, description="What an answer may be, as a JSON schema"
    )

    @model_validator(mode="after")
    def _one_grammar(self) -> Sampling:
        if self.json_schema is None:
            return self
        if self.grammar is not None:
            raise ValueError("give one of grammar and json_schema")
        try:
            json.loads(self.json_schema)
        except ValueError as error:
            raise ValueError(f"json_schema is no JSON ({error}); mend it") from None
        return self

    @property
    def constrained(self) -> bool:
        """Whether a grammar says what an answer may be."""
        return self.grammar is not None or self.json_schema is not None

    @property
    def words(self) -> str:
        """What is asked beside the defaults, ``temperature 0.7, top_k 20``."""
        told = {
            n: v for n, v in self if n == "temperature" or v != type(self).model_fields[n].default
        }
        for name in ("grammar", "json_schema"):
            if name in told:
                told[name] = hashlib.sha256(told[name].encode()).hexdigest()[:4]
        return ", ".join(
            f"{name} {int(v) if isinstance(v, float) and v.is_integer() else v}"
            for name, v in told.items()
        )


class Workload(Frozen):
    """What the model is asked.

    One of ``prompt`` (text, tokenised by the model), ``messages`` (a chat, written by the model's
    own template), ``prompt_tokens`` (an exact number of tokens of a passage that ships with the
    lab) or ``conversation`` (a chat that ships with it: generation k is its turn k + 1, asked
    after all that was said before). ``length="fixed"`` generates exactly ``max_tokens`` and
    ignores end-of-generation; ``"natural"`` stops there.

    ``cache_mode="cold"`` evaluates every prompt token in every generation; ``"prefix"`` finds
    the first ``prefix_tokens`` of them in the KV cache; with ``"kept"`` the first generation
    after loading is cold, and each later one finds in the KV cache all that it has in common
    with what was said before, as in an application that keeps its context: of the same prompt
    again all tokens but the last, of a conversation all but the new message.

    ``quality_against`` asks for no answer: the tokens of the prompt go through two contexts of the
    model, and what is measured is how far their predictions are apart.

    ``depths`` makes a walk of it: generation k finds so many tokens of the passage in the KV cache
    as the k-th of them says, filled before its clock starts, and is asked the ``prompt_tokens``
    that follow; after the last it begins anew at the first.

    ``via`` is the way through llama-cpp-python: ``engine`` (llama.cpp's calls alone),
    ``generate`` (``Llama.generate``, token by token), ``stream`` (a streamed completion, chunk by
    chunk, as an application sees it) or ``chat`` (``create_chat_completion``, streamed: messages,
    which a template writes; later turns hold the model's own answers, and ``"kept"`` is what
    llama-cpp-python finds of them by itself); or past it: ``server`` (llama.cpp's own, of the same
    engine, asked over HTTP on this machine: what it takes is measured, not the client) or
    ``openai`` (a server that is already there, at ``address``, and answers as OpenAI's does:
    nothing of how it was started is known, and what it cannot prove is said).
    """

    prompt: str | None = Field(None, description="The prompt as text")
    messages: tuple[Message, ...] | None = Field(
        None, description="The prompt as a chat, whose last message is to be answered"
    )
    prompt_tokens: Count | None = Field(None, description="The prompt as a number of tokens")
    conversation: Language | None = Field(
        None, description="A chat of several turns, in French or English"
    )
    template: Template | None = Field(
        None,
        description="own: a chat by the model's chat template, if it has one, a prompt being its "
        "message; None: all alike, or as llama-cpp-python chooses where via is chat",
    )
    max_tokens: Count = Field(32, description="Tokens to generate")
    length: Literal["fixed", "natural"] = Field(
        "fixed", description="fixed: exactly max_tokens; natural: stop at end-of-generation"
    )
    cache_mode: CacheMode = Field(
        "cold", description="Whether the KV cache holds a part of the prompt beforehand"
    )
    prefix_tokens: Annotated[int, Field(ge=0, le=MAX_INT32)] = Field(
        0, description="Prompt tokens already in the KV cache; 0: all are evaluated"
    )
    sampling: Sampling | None = Field(
        None, description="How the next token is chosen; None: the most likely one"
    )
    depths: Annotated[tuple[Depth, ...], Field(min_length=1)] | None = Field(
        None, description="Tokens in the context at each step of a walk; None: no walk"
    )
    via: Via = Field(
        "engine", description="Way to the model: engine, generate, stream, chat, server or openai"
    )
    address: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="With via=openai: where it listens, such as http://127.0.0.1:8080/v1"
    )
    at_once: Annotated[int, Field(ge=2, le=64)] | None = Field(
        None, description="Requests at once, which share n_ctx, with via=server"
    )
    repeats: Annotated[int, Field(ge=0, le=10_000)] = Field(
        1, description="Further generations in the same process after the first"
    )

    quality_against: KvType | None = Field(
        None,
        description="Measure, in place of answers, what is lost against a KV cache in this format",
    )

    @property
    def generations(self) -> int:
        """How many answers are generated in one process."""
        return 0 if self.quality_against else self.repeats + 1

    @model_validator(mode="after")
    def _one_prompt(self) -> Workload:
        given = [self.prompt, self.messages, self.prompt_tokens, self.conversation]
        if sum(value is not None for value in given) != 1:
            raise ValueError("give one of prompt, messages, prompt_tokens and conversation")
        if self.prompt == "":
            raise ValueError("prompt is empty; give at least one word, or prompt_tokens instead")
        if self.messages is not None and [one.role for one in self.messages[-1:]] != ["user"]:
            raise ValueError("messages end with another's; give a user's last, to be answered")
        if (self.cache_mode == "prefix") != (self.prefix_tokens > 0):
            raise ValueError("cache_mode='prefix' and prefix_tokens above 0 go together")
        if self.conversation and self.prefix_tokens:
            raise ValueError(
                "a conversation has no prefix_tokens; give cache_mode='kept' to keep what was said"
            )
        if self.template not in (None, "own") and self.via != "chat":
            raise ValueError(
                f"template={self.template!r} is llama-cpp-python's; give via='chat' with it"
            )
        if (self.via == "openai") != (self.address is not None):
            raise ValueError("via='openai' and address, where that server listens, go together")
        if self.via == "openai" and self.cache_mode == "prefix":
            raise ValueError(
                "no server of others can be told to hold a prefix; leave prefix_tokens out, or "
                "give via='server'"
            )
        if self.at_once and (self.via != "server" or self.cache_mode != "cold"):
            raise ValueError(
                "several requests at once go through via='server' with cache_mode='cold'; leave "
                "at_once out otherwise"
            )
        if self.sampling and self.sampling.constrained and self.length == "fixed":
            raise ValueError(
                "a grammar decides where an answer ends; give length='natural' with it"
            )
        if self.depths is not None:
            if self.prompt_tokens is None or self.cache_mode != "kept" or self.via == "chat":
                raise ValueError("depths go with prompt_tokens, cache_mode='kept', and no chat")
            if list(self.depths) != sorted(set(self.depths)):
                raise ValueError(
                    f"depths={list(self.depths)} do not go up; give each once, in order"
                )
            if (self.repeats + 1) % len(self.depths):
                raise ValueError(
                    f"repeats={self.repeats} ends a walk of {len(self.depths)} depths before its "
                    "last; give a whole number of walks, less one generation"
                )
        if self.prompt_tokens is not None and self.prefix_tokens >= self.prompt_tokens:
            raise ValueError(
                f"prefix_tokens={self.prefix_tokens} leaves nothing to evaluate of "
                f"prompt_tokens={self.prompt_tokens}; give fewer"
            )
        return self


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
                "a server that is already there has begun; leave out warm_up, memory_limit and "
                "leave_vram"
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
