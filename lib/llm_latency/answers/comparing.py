"""A paired comparison as part of a sentence: how much, how sure, and the verdict."""

from __future__ import annotations

from llm_latency.stats.compare import Comparison
from llm_latency.words import percent, several


def told(found: Comparison, longer: str = "longer", shorter: str = "shorter") -> str:
    """Return a comparison of B with A in words, B being the subject of the sentence.

    ``**12 % longer** (95 % interval 9.1 to 15 %, n = 12 rounds, noise 2.0 %): **slower**``. The
    verdict's word is that of :mod:`llm_latency.stats.compare`; where it is undecided, the reason
    stands with it.

    Parameters
    ----------
    found
        The comparison of times.
    longer, shorter
        Words for a ratio above and below 1.
    """
    ratio = found.ratio
    if ratio.n == 0:
        return "not compared: no round has both: **undecided**"
    size = percent(abs(found.change))
    word = "" if size == percent(0.0) else f" {longer if found.change > 0 else shorter}"
    # Bounds are told in the direction of the word, the smaller change first.
    sign = 1 if found.change >= 0 else -1
    low, high = sorted((sign * (ratio.low - 1), sign * (ratio.high - 1)))
    kind = "95 % interval" if ratio.kind == "interval" else "range"
    parts = [f"{kind} {percent(low)} to {percent(high)}", f"n = {several(ratio.n, 'round')}"]
    if found.noise_floor is not None:
        parts.append(f"equal cells differ by {percent(found.noise_floor)}")
    # The interval stands before it already.
    reason = found.why.split("; ", 1)[-1] if ratio.kind == "interval" else found.why
    why = f" ({reason})" if found.verdict == "undecided" else ""
    return f"**{size}{word}** ({', '.join(parts)}): **{found.verdict}**{why}"
