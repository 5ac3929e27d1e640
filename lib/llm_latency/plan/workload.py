"""What a model is asked: the prompt, how long an answer, how a token is chosen, by which way."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field, model_validator

from llm_latency.base import Frozen
from llm_latency.plan.settings import MAX_INT32, Count, KvType

CacheMode = Literal["cold", "prefix", "kept"]
Language = Literal["fr", "en"]
Via = Literal["engine", "generate", "stream", "chat", "server", "openai"]
Template = Literal["own", "chatml", "gemma", "llama-2", "llama-3", "mistral-instruct", "zephyr"]
"""The one in the model's file, or one that llama-cpp-python ships."""

Depth = Annotated[int, Field(ge=0, le=MAX_INT32)]
MAX_SEED = 2**32 - 2
"""llama.cpp takes the number after it for a seed that nobody knows."""
LOSS_BLOCK = 64
"""Tokens whose mean loss is one sample: a shorter text tells nothing of what a KV cache loses."""
Share = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


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
        except (ValueError, RecursionError) as error:
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
        None, description="Where via is openai: where it listens, such as http://127.0.0.1:8080/v1"
    )
    at_once: Annotated[int, Field(ge=2, le=64)] | None = Field(
        None, description="Requests at once, which share n_ctx, where via is server"
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
