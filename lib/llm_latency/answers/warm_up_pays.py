"""When a warm-up pays: at start, on demand, for how many loads; and whether loading gains by it."""

from __future__ import annotations

from collections.abc import Mapping

from llm_latency.answers.shares import basis, change, full, ms
from llm_latency.stats.compare import Comparison, Verdict, compare
from llm_latency.views.first_replies import NONE, FirstReplies, Place
from llm_latency.words import counts, escape, percent

OUTCOMES: dict[Verdict, str] = {
    "faster": "it helps with",
    "same": "it only moves the wait with",
    "slower": "it makes the wait longer with",
    "undecided": "undecided with",
}
"""What a comparison of load and first token together says of a warm-up on demand."""


def free(replies: FirstReplies, place: Place, kind: str) -> str:
    """Return from when on a strategy costs the user nothing, and from when on it gains.

    Asked at once after loading, the user waits for the rest of the warm-up too. The question that
    comes as late as the warm-up is long waits for none of it; one that comes later than the
    warm-up plus the new TTFT less the old one is answered sooner than without.
    """
    spent = replies.estimate("warm_up_s", place, kind)
    late = replies.difference("both_s", place, kind)
    if not spent.n or not late.n:
        return ""
    text = f"Free for a user who asks {ms(spent)} or more after loading"
    if replies.compare("ttft_s", place, kind).verdict != "faster":
        return f"{text}."
    if late.median <= 0:
        return f"{text}; by the medians no later than without even for one who asks at once."
    return f"{text}; by the medians sooner than without from {ms(late)} on."


def loads(replies: FirstReplies, place: Place, kind: str) -> str:
    """Return which share of loads must be followed by a question for a warm-up to save time.

    The warm-up is paid at every load, its saving comes with every first reply.
    """
    saved = -replies.difference("ttft_s", place, kind).median
    spent = replies.estimate("warm_up_s", place, kind).median
    verdict = replies.compare("ttft_s", place, kind).verdict
    if verdict != "faster":
        return f"What it saves over many loads is not known (first TTFT: {verdict})."
    if spent > saved:
        return f"Over many loads it takes more than it saves: {percent(spent / saved)} of it."
    return (
        "Over many loads it saves more time than it takes if at least "
        f"{percent(spent / saved)} of them are followed by a question."
    )


def demand(replies: FirstReplies, place: Place) -> str:
    """Return whether a warm-up helps where the model is loaded only when the question is there."""
    found = {kind: replies.compare("demand_s", place, kind) for kind in replies.others(place)}
    alone = full(replies.estimate("demand_s", place, NONE))
    groups = [
        f"{words} {_each({k: c for k, c in found.items() if c.verdict == verdict}, told=False)}"
        for verdict, words in OUTCOMES.items()
        if any(c.verdict == verdict for c in found.values())
    ]
    said = "; ".join(groups)
    return (
        f"**Started on demand**, the {place.words}, load and first token together take {alone} "
        f"without a warm-up. {said[:1].upper()}{said[1:]}. "
        f"{basis(found.values(), 'load and TTFT together')}"
    )


def _each(found: Mapping[str, Comparison], *, told: bool = True) -> str:
    return ", ".join(f"{escape(kind)} {change(one, verdict=told)}" for kind, one in found.items())


def loading(replies: FirstReplies) -> str:
    """Return whether loading itself, the warm-up left out, is faster with a warm-up."""
    lines: list[str] = []
    every: list[Comparison] = []
    for place in replies.longest:
        found = {kind: replies.compare("proper_s", place, kind) for kind in replies.others(place)}
        every += found.values()
        lines.append(
            f"- {place.words}, {full(replies.estimate('proper_s', place, NONE))} without: "
            f"{_each(found)}. {basis(found.values(), 'loading')}"
        )
    lead = (
        "**Does loading itself get faster with a warm-up?** Load less the warm-up against load "
        f"without one, by verdict: {counts(one.verdict for one in every)}."
    )
    return "\n\n".join(filter(None, [lead, "\n".join(lines), _page_cache(replies)]))


def _page_cache(replies: FirstReplies) -> str:
    """Say what the state of the page cache does to loading, beside what a warm-up does to it."""
    by_state = {place.page_cache: place for place in replies.longest}
    if not {"resident", "evicted"} <= set(by_state):
        return ""
    disk, ram = by_state["evicted"], by_state["resident"]
    floors = [replies.floor("proper_s", place) for place in (disk, ram)]
    known = [floor for floor in floors if floor is not None]
    # By the noise of the noisier of both.
    a, b = (replies.samples("proper_s", place, NONE) for place in (disk, ram))
    found = compare(a, b, max(known) if len(known) == 2 else None)
    return (
        "Without any warm-up, loading a file that is in RAM, against one on the disk: "
        f"{change(found)}. {basis([found], 'loading')} The second of two starts finds the file in "
        "RAM, whatever its warm-up."
    )
