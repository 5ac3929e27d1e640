"""An estimate, a difference, a comparison and its verdict in words: the only place that words them.

*Long* is for a sentence and carries everything: ``402 ms (95 % interval 398–410 ms, n = 6)``.
*Short* is for a table or a list, where the interval is known to be one: ``402 [398–410] n 6``.
Units are ``ms``, ``µs``, ``MiB``, ``%``, or any word for what needs no factor, such as ``tok/s``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from llm_latency.stats.compare import Comparison
from llm_latency.stats.estimate import FEWEST, Estimate
from llm_latency.stats.fit import Line
from llm_latency.words import MIB, MS, decimals, number, percent, several

FACTORS = {"ms": MS, "µs": 1e6, "MiB": MIB, "%": 100.0}
"""From the data's SI units to the screen's; 1 for all others."""
WORDS = {
    "faster": "faster",
    "slower": "slower",
    "same": "same",
    "undecided": "undecided",
    "depends": "depends on the machine",
}
"""The verdicts of :mod:`llm_latency.stats.compare`, as readers see them."""
UNDECIDED = f"**{WORDS['undecided']}**"
INTERVAL = "95 % interval"
RANGE = "range"
BRACKETS = (
    f"Median [{INTERVAL}] or, with fewer than six processes, median (smallest–largest); "
    "n: processes. A dash: not measured."
)
"""What a table of estimates says below itself."""
UNPAIRED = "not paired"
"""What no difference is told without where rounds do not pair the two."""
UNCUT = "This model's state cannot be cut: asked the same again, it evaluates its whole prompt"
"""Of recurrent models and hybrids, which keep one state of all their tokens."""
FACTOR_FROM = 3.0
"""A ratio from which on "so many times" reads better than so many per cent."""


def minus(text: str) -> str:
    """Return text whose numbers bear the minus sign that is one."""
    return re.sub(r"-(?=\d)", "−", text)


def amount(value: float, unit: str = "") -> str:
    """Return a number of SI units on the screen's scale, ``402 ms``; a dash if missing."""
    return minus(f"{number(value * FACTORS.get(unit, 1.0))} {unit}".rstrip())


def more_mib(size_bytes: float) -> str:
    """Return how much more memory something takes, ``+1.5`` MiB; a dash if missing."""
    more = round(size_bytes * MIB, 1) + 0.0  # no sign of a zero
    return minus(f"{'+' * (more > 0)}{number(more, 1)}")


def median(value: Estimate, unit: str = "") -> str:
    """Return the median alone, where its interval stands elsewhere."""
    return amount(value.median, unit)


def estimate(value: Estimate, unit: str = "", *, bold: bool = True) -> str:
    """Return an estimate as part of a sentence, long: median, kind of bounds, bounds, n."""
    if not value.n:
        return "not measured"
    scaled = value.times(FACTORS.get(unit, 1.0))
    places = _places(scaled)
    middle = minus(f"{number(scaled.median)} {unit}".rstrip())
    middle = f"**{middle}**" if bold else middle
    if value.n == 1:
        return f"{middle} (one process)"
    kind = INTERVAL if value.kind == "interval" else RANGE
    low, high = number(scaled.low, places), number(scaled.high, places)
    join = " to " if scaled.low < 0 else "–"
    bounds = minus(f"{low}{join}{high} {unit}".rstrip())
    return f"{middle} ({kind} {bounds}, n = {value.n})"


def short(value: Estimate, unit: str = "") -> str:
    """Return an estimate as a table's cell: ``402 [398–410] n 6``, ``402 (395–410) n 2``."""
    if not value.n:
        return "–"
    scaled = value.times(FACTORS.get(unit, 1.0))
    places = _places(scaled)
    if value.n == 1:
        return minus(f"{number(scaled.median)} n 1")
    left, right = "[]" if value.kind == "interval" else "()"
    join = " to " if scaled.low < 0 else "–"
    bounds = f"{number(scaled.low, places)}{join}{number(scaled.high, places)}"
    return minus(f"{number(scaled.median)} {left}{bounds}{right} n {value.n}")


def _places(value: Estimate) -> int:
    """Return the decimals of an estimate's bounds: those of the median, or of a larger bound."""
    return min(map(decimals, (value.median, value.low, value.high)))


def verdict(found: Comparison, words: dict[str, str] | None = None) -> str:
    """Return the verdict's word in bold; other words where what is compared is no time."""
    return f"**{(WORDS | (words or {}))[found.verdict]}**"


def difference(
    found: Comparison,
    longer: str = "longer",
    shorter: str = "shorter",
    words: dict[str, str] | None = None,
) -> str:
    """Return B against A, long: ``**12 % longer** (95 % interval 9 to 15 %, n = 12): **slower**``.

    Parameters
    ----------
    found
        The comparison.
    longer, shorter
        Words for a ratio above and below 1.
    words
        Other words for the verdicts, where what is compared is no time.
    """
    ratio = found.ratio
    if ratio.n == 0:
        lacking = "one of them has nothing" if found.apart else "no round has both"
        return f"not compared, since {lacking}: {verdict(found, words)}"
    kind = INTERVAL if ratio.kind == "interval" else RANGE
    one = "one process" if found.apart else "one round"
    basis = one if ratio.n == 1 else f"{kind} {_bounds(found)}, n = {ratio.n}"
    caveat = f", {UNPAIRED}: {found.apart}" if found.apart else ""
    return f"**{_size(found, longer, shorter)}** ({basis}): {verdict(found, words)}{caveat}"


def change(found: Comparison, words: dict[str, str] | None = None) -> str:
    """Return B against A as a table's cell, short: ``+12 % [9.1 to 15] slower``."""
    ratio = found.ratio
    if ratio.n == 0:
        return "–"
    left, right = "[]" if ratio.kind == "interval" else "()"
    word = (WORDS | (words or {}))[found.verdict] + f", {UNPAIRED}" * bool(found.apart)
    if ratio.median >= FACTOR_FROM:
        size, bounds = f"× {number(ratio.median)}", f"{number(ratio.low)}–{number(ratio.high)}"
    else:
        size = f"{'+' if found.change >= 0 else ''}{percent(found.change)}"
        bounds = f"{percent(ratio.low - 1).removesuffix(' %')} to {percent(ratio.high - 1)}"
    return minus(f"{size} {word}" if ratio.n == 1 else f"{size} {left}{bounds}{right} {word}")


def _size(found: Comparison, longer: str, shorter: str) -> str:
    if found.ratio.median >= FACTOR_FROM:
        return f"{number(found.ratio.median)} times that"
    return f"{percent(abs(found.change))} {longer if found.change >= 0 else shorter}"


def _bounds(found: Comparison) -> str:
    """Return the interval in the direction of the word, the smaller change first."""
    ratio = found.ratio
    if ratio.median >= FACTOR_FROM:
        return f"{number(ratio.low)} to {number(ratio.high)}"
    sign = 1 if found.change >= 0 else -1
    low, high = sorted((sign * (ratio.low - 1), sign * (ratio.high - 1)))
    return minus(f"{percent(low).removesuffix(' %')} to {percent(high)}")


def share(value: Estimate) -> str:
    """Return an estimate of a fraction, long: ``**4.5 %** (95 % interval 4.2 to 4.9 %, n = 6)``."""
    if not value.n:
        return "an unknown share"
    if value.n == 1:
        return f"**{minus(percent(value.median))}** (one process)"
    kind = INTERVAL if value.kind == "interval" else RANGE
    bounds = f"{percent(value.low).removesuffix(' %')} to {percent(value.high)}"
    return minus(f"**{percent(value.median)}** ({kind} {bounds}, n = {value.n})")


def slope(fitted: Line, unit: str, per: float = 1.0) -> tuple[str, str]:
    """Return what a line costs in so many steps, and what that rests on and comes to.

    ``("12 ms", "(95 % interval 11 to 13 ms, n = 66 processes), 83.3 tok/s")``
    """
    low, high = (amount(each * per, unit) for each in (fitted.slope_low, fitted.slope_high))
    bounds = f"{low.removesuffix(f' {unit}')} to {high}"
    told = fitted.slope_low > 0  # then none of the three is nothing, which no speed follows from
    speed = f"{number(1 / fitted.slope)} tok/s" if told else "**not told from nothing**"
    return (
        amount(fitted.slope * per, unit),
        f"({INTERVAL} {bounds}, n = {fitted.n} processes), {speed}",
    )


def sureness(found: Comparison | Sequence[Comparison]) -> str:
    """Return what verdicts rest on, once for all of them: rounds, noise, and what is lacking."""
    every = [found] if isinstance(found, Comparison) else list(found)
    compared = [one for one in every if one.ratio.n]
    if not compared:
        return "no round has both sides of a comparison"
    fewest = min(one.ratio.n for one in compared)
    floors = [one.noise_floor for one in compared if one.noise_floor is not None]
    text = several(fewest, "paired round")
    if any(one.apart for one in compared):
        text = f"{several(fewest, 'process', 'processes')} of each run, {UNPAIRED}"
    if fewest < FEWEST:
        return f"{text}; {FEWEST} are the fewest for a verdict"
    if not floors:
        return f"{text}; how much equal cells differ is not known, so there is no verdict"
    return f"{text}; equal cells differ by {percent(max(floors))}"


def noise(found: Sequence[Comparison]) -> str:
    """Return the caveat of some comparisons as a sentence; empty where none was made."""
    compared = [one for one in found if one.ratio.n]
    if not compared:
        return ""
    why = "" if all(one.verdict != "undecided" for one in compared) else _why(compared)
    return f"This rests on {sureness(compared)}{why}."


def _why(compared: Sequence[Comparison]) -> str:
    """Return what would decide those that are undecided."""
    if any(one.ratio.n < FEWEST or one.noise_floor is None for one in compared):
        return ""
    return f"; what is {WORDS['undecided']} needs more rounds or a quieter machine"
