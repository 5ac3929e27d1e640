"""Comparisons in few words: a share or a change with its bounds; what they rest on said once."""

from __future__ import annotations

from collections.abc import Iterable

from llm_latency.answers.page import in_words
from llm_latency.stats.compare import Comparison
from llm_latency.stats.estimate import FEWEST, Estimate
from llm_latency.words import MIB, MS, number, percent


def share(found: Comparison) -> str:
    """Return a ratio as a share with its bounds, ``**4.5 %** [4.2 to 4.9 %]``."""
    ratio = found.ratio
    if ratio.n == 0:
        return "an unknown share"
    return f"**{percent(ratio.median)}** [{_bounds(percent(ratio.low), percent(ratio.high))}]"


def change(found: Comparison, *, verdict: bool = True) -> str:
    """Return a ratio as a change, ``+12 % [+9 to +15 %], **slower**``; or without the verdict."""
    ratio = found.ratio
    if ratio.n == 0:
        return "not compared" + ", **undecided**" * verdict
    middle, low, high = (_signed(x - 1) for x in (ratio.median, ratio.low, ratio.high))
    return f"{middle} [{_bounds(low, high)}]" + f", **{found.verdict}**" * verdict


def _signed(fraction: float) -> str:
    return part(fraction) if fraction < 0 else f"+{percent(fraction)}"


def part(fraction: float) -> str:
    """Return a share that may be negative, with a minus sign that is one."""
    return percent(fraction).replace("-", "−", 1)


def _bounds(low: str, high: str) -> str:
    return f"{low.removesuffix(' %')} to {high}"


def basis(found: Iterable[Comparison], what: str = "") -> str:
    """Return what brackets are, over how many rounds, and how much equal cells differ.

    Where verdicts are lacking, the reason stands here once and not beside each.

    Parameters
    ----------
    found
        Comparisons that share a noise floor.
    what
        What was compared, for the sentence on the noise.
    """
    every = [one for one in found if one.ratio.n]
    if not every:
        return "No round has both of what is to be compared."
    fewest, most = min(c.ratio.n for c in every), max(c.ratio.n for c in every)
    rounds = f"{fewest}" if fewest == most else f"{fewest}–{most}"
    kind = "95 % intervals" if fewest >= FEWEST else "ranges"
    text = f"In brackets: {kind}, n = {rounds} paired rounds"
    if fewest < FEWEST:
        text += f"; {FEWEST} are the fewest for a verdict"
    floors = [one.noise_floor for one in every if one.noise_floor is not None]
    if floors:
        of = f" in {what}" if what else ""
        return f"{text}. Two equal cells differ{of} by {percent(max(floors))}."
    return f"{text}. How much two equal cells differ is not known, so there is no verdict."


def ms(value: Estimate) -> str:
    """Return a median in ms without its bounds, where they stand elsewhere."""
    return f"{number(value.median * MS)} ms"


def full(value: Estimate) -> str:
    """Return an estimate in ms with its interval; a dash where nothing was measured."""
    return in_words(value, MS, "ms") if value.n else "not measured"


def signed_ms(value: Estimate) -> str:
    """Return a difference in ms that stands alone: with the kind of its bounds, and how many."""
    kind = "95 % interval" if value.kind == "interval" else "range"
    middle, low, high = (
        number(x * MS).replace("-", "−") for x in (value.median, value.low, value.high)
    )
    return f"{middle} ms ({kind} {low} to {high} ms, n = {value.n})"


def difference_ms(value: Estimate) -> str:
    """Return a difference in ms with its bounds, which may have different signs."""
    middle, low, high = (
        number(x * MS).replace("-", "−") for x in (value.median, value.low, value.high)
    )
    return f"{middle} ms [{low} to {high} ms]"


def unsure(value: Estimate) -> str:
    """Return that a difference is not told from none, where that is so."""
    if value.kind != "interval":
        return f", undecided below {FEWEST} rounds"
    return ", not told from none" if value.low <= 0 <= value.high else ""


def memory(value: Estimate) -> str:
    """Return a difference of memory with its sign, ``+12 MiB``."""
    sign = "−" if value.median < 0 else "+"
    return f"{sign}{number(abs(value.median) * MIB)} MiB"
