"""Paired comparisons in a list: each in half a line, the reasons of all of them once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llm_latency.stats.compare import Comparison
from llm_latency.words import number, percent

BEYOND = 10.0
"""An interval that reaches this ratio reads better as factors than as percentages."""


def brief(
    found: Comparison,
    longer: str = "longer",
    shorter: str = "less",
    verdicts: Mapping[str, str] | None = None,
) -> str:
    """Return a comparison of B with A, ``**12 % longer** (9.1 to 15 %, n = 12): **slower**``.

    Parameters
    ----------
    found
        The comparison.
    longer, shorter
        Words for a ratio above and below 1.
    verdicts
        Other words for the verdicts, where what is compared is no time.
    """
    verdict = dict(verdicts or {}).get(found.verdict, found.verdict)
    ratio = found.ratio
    if ratio.n == 0:
        return f"not compared, for no round has both: **{verdict}**"
    rounds = f"n = {ratio.n}" if ratio.kind == "interval" else f"range, n = {ratio.n}"
    if ratio.high >= BEYOND:
        bounds = f"{number(ratio.low)} to {number(ratio.high)}"
        return f"**{number(ratio.median)} times that** ({bounds}, {rounds}): **{verdict}**"
    # Bounds are told in the direction of the word, the smaller change first.
    sign = 1 if found.change >= 0 else -1
    low, high = sorted((sign * (ratio.low - 1), sign * (ratio.high - 1)))
    word = longer if found.change >= 0 else shorter
    bounds = f"{percent(low).removesuffix(' %')} to {percent(high)}".replace("-", "−")
    return f"**{percent(abs(found.change))} {word}** ({bounds}, {rounds}): **{verdict}**"


def footing(found: Sequence[Comparison], what: str = "equal cells") -> str:
    """Return once what several comparisons rest on, and why some of them are undecided."""
    compared = [one for one in found if one.ratio.n]
    if not compared:
        return ""
    floors = [one.noise_floor for one in compared if one.noise_floor is not None]
    text = "Brackets: 95 % interval over paired rounds"
    if any(one.ratio.kind == "range" for one in compared):
        text = "Brackets: range over paired rounds"
    if floors:
        low, high = percent(min(floors)), percent(max(floors))
        apart = high if low == high else f"{low.removesuffix(' %')}–{high}"
        text += f"; {what} differ by {apart}"
    reasons = sorted({_reason(one) for one in compared if one.verdict == "undecided"})
    if reasons:
        text += f"; undecided: {', or '.join(reasons)}"
    return f"{text}."


def _reason(found: Comparison) -> str:
    """Return why a comparison is undecided, without its numbers, which stand with it."""
    if found.ratio.kind == "range" or found.noise_floor is None:
        return found.why
    if "below the" in found.why:
        return "differences no larger than that noise or too small to matter"
    return "intervals too wide, which more rounds or a quieter machine would narrow"
