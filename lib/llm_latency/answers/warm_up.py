"""The answer on warm-ups: which makes the first reply sooner, what it costs, when it pays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from IPython.display import Markdown

from llm_latency.answers import troubles
from llm_latency.answers.page import in_words, markdown
from llm_latency.answers.shares import (
    basis,
    change,
    difference_ms,
    full,
    memory,
    ms,
    share,
    unsure,
)
from llm_latency.answers.warm_up_pays import demand, free, loading, loads
from llm_latency.records import frame as fr
from llm_latency.stats.compare import Comparison
from llm_latency.views.first_replies import NONE, FirstReplies, Place
from llm_latency.words import MIB, MS, escape, number, percent

AIM = 0.10
"""Share of the first TTFT without a warm-up that a good warm-up should reach."""


def warm_up(df: pd.DataFrame, info: Mapping[str, Any]) -> Markdown:
    """Return which warm-up makes the first reply sooner, what each costs, and when it pays.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    info
        The content of ``run.json``.
    """
    data = fr.prepare(df)
    if data.empty:
        return markdown(troubles.NOTHING)
    replies = FirstReplies(df)
    if not replies.measured:
        return markdown(troubles.all_failed(data))
    problems = [troubles.failed(data), troubles.disturbed(data)]
    if not replies.compared:
        text = (
            "Which warm-up pays is **undecided**: in no state of the page cache were both a "
            "warm-up and its absence measured."
        )
        return markdown("\n\n".join(filter(None, [text, *problems])))
    main, *rest = replies.longest
    parts = [
        _lead(replies, main, troubles.model_name(info)),
        "\n".join(f"- {_strategy(replies, main, kind)}" for kind in replies.others(main)),
        *(_elsewhere(replies, place) for place in rest),
        _growth(replies),
        demand(replies, main),
        loading(replies),
    ]
    return markdown("\n\n".join(filter(None, [*parts, *problems])))


def _lead(replies: FirstReplies, place: Place, model: str) -> str:
    others = replies.others(place)
    best, *rest = sorted(others, key=lambda k: replies.estimate("ttft_s", place, k).median)
    found = {kind: replies.compare("ttft_s", place, kind) for kind in others}
    text = (
        f"With {model}, the model's {place.words} and {_prompt(replies, place)}, the first token "
        f"comes after {full(replies.estimate('ttft_s', place, NONE))} without a warm-up. It comes "
        f"soonest with **{escape(best)}**: after {full(replies.estimate('ttft_s', place, best))}, "
        f"{share(found[best])} of that: **{found[best].verdict}**. {_aim(found[best])}"
    )
    if rest:
        second = replies.compare("ttft_s", place, rest[0], best)
        text += f" The next, {escape(rest[0])}, against it: {change(second)}."
    return f"{text} {_first_time(replies, place)} {basis(found.values(), 'TTFT')}"


def _prompt(replies: FirstReplies, place: Place) -> str:
    system = replies.system(place)
    text = f"a first prompt of {place.prompt:,.0f} tokens"
    return f"{text}, {system:,.0f} of them the system prompt" if system else text


def _aim(found: Comparison) -> str:
    ratio, aim = found.ratio, percent(AIM)
    if ratio.kind != "interval":
        return f"Whether it reaches {aim} is **undecided**: {found.why}."
    if ratio.high <= AIM:
        return f"A share of {aim} or less is **reached**."
    if ratio.low > AIM:
        return f"A share of {aim} is **not reached**."
    return f"Whether it reaches {aim} is **undecided**: the interval lies on both sides."


def _first_time(replies: FirstReplies, place: Place) -> str:
    """Say what merely being first costs: all that a warm-up of any few tokens could save."""
    extra = replies.first_beyond_later("ttft_s", place, NONE)
    if extra.n == 0:
        return ""
    return (
        "Merely being the first reply of its process, with the same tokens evaluated as later, "
        f"adds {difference_ms(extra)} to TTFT{unsure(extra)}."
    )


def _strategy(replies: FirstReplies, place: Place, kind: str) -> str:
    """Say all of one strategy: what it brings, what it costs, from when on it pays."""
    found = replies.compare("ttft_s", place, kind)
    ram, peak = (
        replies.difference(f"rss_{when}_bytes", place, kind) for when in ("after_load", "peak")
    )
    costs = [f"warm-up {full(replies.estimate('warm_up_s', place, kind))}"]
    if ram.n:
        costs.append(f"RAM after loading {memory(ram)}")
    if peak.n:
        costs.append(f"at the peak {memory(peak)}")
    size = replies.estimate("state_bytes", place, kind)
    if size.n:
        made = (replies.estimate(f"state_{part}_s", place, kind) for part in ("evaluate", "save"))
        evaluated, saved = (ms(value) for value in made)
        costs.append(
            f"a file of {number(size.median * MIB)} MiB, made once in {evaluated} of evaluation "
            f"and {saved} of writing"
        )
    pays = " ".join(filter(None, [free(replies, place, kind), loads(replies, place, kind)]))
    return (
        f"**{escape(kind)}**: first TTFT {share(found)} of that without, **{found.verdict}**. "
        f"Costs: {', '.join(costs)}. {pays}"
    )


def _elsewhere(replies: FirstReplies, place: Place) -> str:
    """Say the shares in another state of the page cache."""
    alone = replies.estimate("ttft_s", place, NONE)
    found = {kind: replies.compare("ttft_s", place, kind) for kind in replies.others(place)}
    shares = "; ".join(f"{escape(k)} {share(one)}, {one.verdict}" for k, one in found.items())
    return (
        f"**With the model's {place.words}** the first token comes after {full(alone)} without a "
        f"warm-up. Shares of that: {shares}. {basis(found.values(), 'TTFT')}"
    )


def _ends(replies: FirstReplies) -> tuple[Place, Place] | None:
    """Return the places of the shortest and the longest prompt in one state of the page cache."""
    if not replies.compared:
        return None
    state = replies.compared[0].page_cache
    same = [place for place in replies.compared if place.page_cache == state]
    return (same[-1], same[0]) if len(same) > 1 else None


def _growth(replies: FirstReplies) -> str:
    """Say what a longer prompt adds to waiting, to the warm-up and to the file."""
    ends = _ends(replies)
    if ends is None:
        return ""
    near, far = ends
    parts = []
    for kind in replies.measured[far]:
        if kind not in replies.measured[near]:
            continue
        said = [f"TTFT {_step(replies, 'ttft_s', kind, near, far, MS, 'ms')}"]
        if kind != NONE:
            said.append(f"warm-up {_step(replies, 'warm_up_s', kind, near, far, MS, 'ms')}")
        if replies.estimate("state_bytes", far, kind).n:
            said.append(f"file {_step(replies, 'state_bytes', kind, near, far, MIB, 'MiB')}")
        parts.append(f"{escape(kind)} {', '.join(said)}")
    return (
        f"**A further 100 tokens of prompt**, from {near.prompt:,.0f} to {far.prompt:,.0f}, "
        f"change the medians by: {'; '.join(parts)}."
    )


def _step(
    replies: FirstReplies, column: str, kind: str, near: Place, far: Place, factor: float, unit: str
) -> str:
    low, high = (replies.estimate(column, place, kind).median * factor for place in (near, far))
    step = (high - low) / (far.prompt - near.prompt) * 100
    return f"{'−' if step < 0 else '+'}{number(abs(step))} {unit}"


def warm_up_by_prompt(df: pd.DataFrame) -> Markdown:
    """Return how the best share of the first TTFT changes with the length of the prompt.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    replies = FirstReplies(df)
    ends = _ends(replies)
    if ends is None:
        return markdown("One length only: give system&#95;tokens several to see how costs grow.")
    parts = []
    for kind in replies.others(ends[1]):
        if kind in replies.measured[ends[0]]:
            near, far = (share(replies.compare("ttft_s", place, kind)) for place in ends)
            parts.append(f"{escape(kind)} {near} → {far}")
    return markdown(
        f"The first TTFT as a share of that without a warm-up, from {ends[0].prompt:,.0f} to "
        f"{ends[1].prompt:,.0f} tokens of prompt: {'; '.join(parts)}."
    )


def warm_up_bars(df: pd.DataFrame) -> Markdown:
    """Return how long warm-up and first TTFT are together, strategy by strategy.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    replies = FirstReplies(df)
    if not replies.longest:
        return markdown("No warm-up was measured beside its absence: nothing to read here.")
    place = replies.longest[0]
    ends = [
        f"{escape(kind)} {ms(replies.estimate('both_s', place, kind))}"
        for kind in replies.measured[place]
    ]
    alone = in_words(replies.estimate("both_s", place, NONE), MS, "ms")
    return markdown(
        f"Both sides of a bar together, {place.words}: {', '.join(ends)}. Where that is below "
        f"none's {alone}, the warm-up takes less than it saves."
    )
