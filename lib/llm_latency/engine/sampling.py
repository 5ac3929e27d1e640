"""How the next token is chosen: llama-cpp-python's own chain of samplers, and what it takes.

A sampler reads the score of every token of the vocabulary, whatever it then chooses: so choosing
costs by the vocabulary, and a part of it is paid by the most likely token too. The chain is the
one that ``Llama.generate`` makes, so that equal scores and an equal seed draw equal tokens by
every way through llama-cpp-python.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from llm_latency.engine.library import C, Grammar, Llama
from llm_latency.errors import EngineError
from llm_latency.plan.workload import Sampling

GREEDY = Sampling(temperature=0.0)
"""What llama-cpp-python is to be told for the most likely token."""


def options(sampling: Sampling | None) -> dict[str, Any]:
    """Return what ``create_completion`` and ``create_chat_completion`` are to be told."""
    asked = sampling or GREEDY
    told = asked.model_dump(exclude={"grammar", "json_schema"})
    return told | {"grammar": _grammar(asked)}


def chain(llama: Llama, sampling: Sampling) -> Any:
    """Return a new chain of samplers, as ``Llama.generate`` would make it."""
    told = options(sampling)
    llama.set_seed(told.pop("seed"))
    return llama._init_sampler(temp=told.pop("temperature"), **told)


def check(llama: Llama, sampling: Sampling | None) -> None:
    """Refuse a grammar that llama.cpp does not understand: it would die of it later.

    Raises
    ------
    EngineError
        One sentence.
    """
    grammar = options(sampling)["grammar"]
    if grammar is None:
        return
    words = (grammar._grammar.encode(), grammar._root.encode())
    alone = C.llama_sampler_init_grammar(llama._model.vocab, *words)
    if not alone:
        raise EngineError(
            "llama.cpp does not understand the grammar; give one in GBNF whose first rule is "
            "'root ::= …'"
        )
    C.llama_sampler_free(alone)


def _grammar(asked: Sampling) -> Any:
    if asked.grammar is not None:
        return Grammar.from_string(asked.grammar, verbose=False)
    if asked.json_schema is None:
        return None
    try:
        return Grammar.from_json_schema(asked.json_schema, verbose=False)
    except Exception as error:  # whatever is in the schema
        raise EngineError(
            f"llama-cpp-python makes no grammar of the JSON schema ({error}); give a simpler one"
        ) from None


class Spent:
    """Seconds spent choosing tokens so far."""

    seconds = 0.0


@contextlib.contextmanager
def clocked(llama: Llama) -> Iterator[Spent]:
    """Clock ``Llama.sample`` while the context lasts, each time when the evaluation is over."""
    spent, original, clock = Spent(), llama.sample, time.perf_counter
    wait, ctx = C.llama_synchronize, llama.ctx

    def sample(**asked: Any) -> Any:
        wait(ctx)
        start_s = clock()
        token = original(**asked)
        spent.seconds += clock() - start_s
        return token

    llama.sample = sample  # type: ignore[method-assign, assignment]
    try:
        yield spent
    finally:
        del llama.sample
