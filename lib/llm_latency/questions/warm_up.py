"""Warm-ups: which one makes the first reply sooner, what it costs, and when it pays."""

from __future__ import annotations

from typing import Any, get_args

from llm_latency.errors import ParameterError, did_you_mean
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.spec import PREFIX_WARM_UPS, Plan, Trial, WarmUp

MOST_TOKENS = 2**30
"""Two of such a length are still a number of tokens that llama.cpp can count."""


def plan(
    model: str = "synthetic:tiny",
    warm_up: Grid = ("all",),
    page_cache: Grid = ("resident", "evicted"),
    system_tokens: Grid = (100, 300),
    question_tokens: int = 20,
    max_tokens: int = 16,
    n_ctx: int = 512,
    rounds: int = 6,
    repeats: int = 1,
    **options: Any,
) -> Plan:
    """Plan which warm-up makes the first reply sooner, and when it pays.

    The prompt of every reply is a system prompt and a question. Warm-ups that leave the system
    prompt in the KV cache are measured with it there; after the others all is evaluated. The
    longest system prompt is measured in every state of the page cache, the shorter ones in the
    first state only: they show how the costs grow.

    Parameters
    ----------
    model
        A path, ``synthetic:<shape>`` or ``hf:owner/repo/file.gguf@revision``.
    warm_up
        Warm-ups, see :class:`~llm_latency.plan.spec.Start`, or ``all`` of them. ``none`` is always
        measured, since the others are compared with it.
    page_cache
        States of the model file when a process starts: ``resident``, ``evicted``, ``as_is``.
    system_tokens
        Lengths of the system prompt, in tokens.
    question_tokens
        Length of the question that follows it, in tokens.
    max_tokens
        Tokens to generate: exactly so many.
    n_ctx
        Tokens that the context can hold.
    rounds
        How often every cell is measured, each time in a fresh process.
    repeats
        Further replies in each process after the first.
    **options
        See :data:`~llm_latency.plan.builder.OPTIONS`.

    Raises
    ------
    ParameterError
        One sentence that names the parameter, its value, and what to do.
    """
    asked = Request("warm_up", locals(), names.check)
    kinds, states = _kinds(asked.many("warm_up")), asked.many("page_cache")
    lengths = sorted(_counts(asked, "system_tokens"))
    question = _counts(asked, "question_tokens")[0]
    cells = {
        (system, state, kind): _cell(asked, system, question, state, kind)
        for system in reversed(lengths)
        for state in (states if system == lengths[-1] else states[:1])
        for kind in kinds
    }
    _check_room(asked, lengths[-1] + question)
    # Loads from the disk scatter more than loads from RAM: each state has a noise of its own.
    twins = [cells[lengths[-1], state, "none"] for state in states]
    return asked.plan(list(cells.values()), twins=twins)


def _kinds(named: list[Any]) -> list[Any]:
    """Return the warm-ups that are meant, none among them."""
    every = list(get_args(WarmUp))
    others = every if "all" in named else named
    for kind in others:
        if kind not in every:
            raise ParameterError(
                f"warm_up={kind!r} is refused{did_you_mean(str(kind), every)} Give all, or some "
                f"of: {', '.join(every)}."
            )
    if others == ["none"]:
        raise ParameterError("warm_up='none' is refused: give a warm-up to compare it with.")
    return list(dict.fromkeys(["none", *others]))


def _cell(asked: Request, system: int, question: int, state: str, kind: str) -> Trial:
    held = kind in PREFIX_WARM_UPS
    return asked.cell(
        prompt_tokens=system + question,
        max_tokens=asked.one("max_tokens"),
        cache_mode="prefix" if held else "cold",
        prefix_tokens=system if held else 0,
        repeats=asked.one("repeats"),
        page_cache=state,
        warm_up=kind,
    )


def _counts(asked: Request, name: str) -> list[int]:
    """Return the values of a parameter that counts tokens, checked before they are added up."""
    values = asked.many(name) if name == "system_tokens" else [asked.one(name)]
    for value in values:
        if type(value) is not int or not 0 < value < MOST_TOKENS:
            raise ParameterError(
                f"{name}={value!r} is refused: give a whole number above 0 and below "
                f"{MOST_TOKENS:,}."
            )
    return values


def _check_room(asked: Request, prompt: int) -> None:
    n_ctx, answer = asked.one("n_ctx"), asked.one("max_tokens")
    if prompt + answer > n_ctx:
        raise ParameterError(
            f"n_ctx={n_ctx} cannot hold the longest system prompt, the question and max_tokens: "
            f"give n_ctx={prompt + answer} or more, or fewer system_tokens or question_tokens."
        )
