"""One effect on several machines: pooled where they agree, else it depends on the machine.

Pairs are of one machine, so machines are strata: where all have the same effect, either side of a
pair is the quicker with probability 1/2 whatever the machine's own noise, and the pairs of all of
them together have the distribution-free interval of any other sample of signs.

Whether they have the same effect is asked first, by Welch's test of equal means (On the comparison
of several mean values, Biometrika 38, 1951): Cochran's Q of the machines' mean logarithms, in the
form that holds for few pairs and for noise of its own on each machine. Where it finds them apart,
and their medians lie further from each other than anyone would shrug at, there is no common effect
to estimate. That it finds nothing is no proof of agreement: so a verdict also wants every machine
to have pairs enough to contradict it, and none whose median does (the change of direction of Gail
and Simon, Testing for qualitative interactions, Biometrics 41, 1985).

Of 1,000 simulated plans of equal cells on two machines, of three to ten rounds each and noise of
0.5 to 5 % (normal, or with one process in ten late by some five times that), 0 to 2.4 % brought a
false verdict; on twelve machines of three rounds, 0.3 and 1.2 % (normal, noise of 0.5 and 2 %).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import fdtrc  # scipy.stats takes half a second to import

from llm_latency.stats.compare import Comparison, Side, paired

APART = 0.01
"""Probability with which two machines of one effect are told apart. Of more machines each counts,
for Welch's test is too free with many small samples, and where one looks after every round each
pair so far, so that all looks together remain few in a hundred."""
FEWEST_EACH = 3
"""The fewest pairs of a machine that say what it does, and how much it scatters."""
GRAIN = 1e-6
"""Relative deviation below which clocks tell nothing: equal figures have no scatter of 0."""


@dataclass(frozen=True)
class Pooled(Comparison):
    """B against A on several machines; ``ratio`` is of all pairs, each of one machine.

    Attributes
    ----------
    each : dict
        The comparison on every machine, by the machine's name.
    """

    each: Mapping[str, Comparison] = field(default_factory=dict)


def pooled(each: Mapping[str, Comparison]) -> Pooled:
    """Return what a comparison comes to over machines.

    Parameters
    ----------
    each
        The same comparison on every machine, by the machine's name.

    Returns
    -------
    Pooled
        ``depends``: the machines differ. ``faster``, ``slower`` and ``same`` as in
        :func:`~llm_latency.stats.compare.compare`, of all pairs together, if no machine
        contradicts. Everything else is ``undecided``.
    """
    several = list(each.values())
    smallest = max(one.smallest_effect for one in several)
    looks = next((one.looks for one in several if one.looks is not None), None)
    logs = np.concatenate([one.logs for one in several])
    found = paired(logs, _floor(several), smallest, looks, several[0].sides)
    share = APART if looks is None else APART / max(len(logs), 1)
    medians = [math.log(one.ratio.median) for one in several if one.ratio.n >= FEWEST_EACH]
    reach = math.log1p(max(smallest, found.noise_floor or 0.0))
    verdict, why, settled = found.verdict, found.why, found.settled
    few = [name for name, one in each.items() if one.ratio.n < FEWEST_EACH]
    far = len(medians) > 1 and max(medians) - min(medians) > reach
    if far and apart([one.logs for one in several], share):
        verdict, settled = "depends", True
        why = f"the machines' medians are {_change(min(medians))} to {_change(max(medians))}"
    elif few:
        verdict, settled = "undecided", False
        why = f"{few[0]} has {each[few[0]].ratio.n} pairs; {FEWEST_EACH} are the fewest of each"
    elif _contradicted(verdict, medians, reach):
        verdict, settled = "undecided", False
        why = "the median of one machine contradicts that of all; more rounds would tell"
    told = {"verdict": verdict, "why": why, "settled": settled, "each": dict(each)}
    return Pooled(**vars(found) | told)


def apart(groups: Iterable[Sequence[float]], share: float) -> bool:
    """Return whether some samples have not one mean, by Welch's test.

    Parameters
    ----------
    groups
        The samples; those of fewer than :data:`FEWEST_EACH` values say nothing.
    share
        Probability with which two equal ones may be told apart.
    """
    samples = [np.asarray(one, dtype=float) for one in groups if len(one) >= FEWEST_EACH]
    if (k := len(samples)) < 2:
        return False
    sizes = np.array([len(one) for one in samples])
    means = np.array([one.mean() for one in samples])
    weights = sizes / np.array([max(one.var(ddof=1), GRAIN**2) for one in samples])
    shares = weights / weights.sum()
    q = float(weights @ (means - shares @ means) ** 2)  # Cochran's
    lack = float(np.sum((1 - shares) ** 2 / (sizes - 1)))
    f = q / (k - 1) / (1 + 2 * (k - 2) / (k**2 - 1) * lack)
    return bool(fdtrc(k - 1, (k**2 - 1) / (3 * lack), f) < share / (k - 1))


def matched(found: Mapping[str, Sequence[Comparison]]) -> list[Pooled]:
    """Return the comparisons of several machines, each over all of them.

    A comparison is found again by its two sides, whichever of them came first; where it has the
    same sides as another, by its place among these. On a machine that has not made it, it has no
    pair.

    Parameters
    ----------
    found
        The comparisons on every machine, by the machine's name.
    """
    rows: dict[tuple[tuple[Side, Side], int], dict[str, Comparison]] = {}
    for name, comparisons in found.items():
        times: defaultdict[frozenset[Side], int] = defaultdict(int)
        for one in comparisons:
            a, b = one.sides
            nth = times[frozenset(one.sides)]
            times[frozenset(one.sides)] += 1
            if ((b, a), nth) in rows and a != b:
                rows[(b, a), nth][name] = turned(one)
            else:
                rows.setdefault(((a, b), nth), {})[name] = one
    return [
        pooled({name: row.get(name) or _absent(row) for name in found}) for row in rows.values()
    ]


def turned(one: Comparison) -> Comparison:
    """Return A against B of a comparison of B against A."""
    logs = -np.array(one.logs)
    a, b = one.sides
    return paired(logs, one.noise_floor, one.smallest_effect, one.looks, (b, a))


def _absent(row: Mapping[str, Comparison]) -> Comparison:
    """Return the comparison of a machine that has not both of its sides."""
    one = next(iter(row.values()))
    empty = paired(np.array([]), None, one.smallest_effect, one.looks, one.sides)
    return replace(empty, settled=False)


def _floor(several: Sequence[Comparison]) -> float | None:
    """Return the noise floor of all pairs together; ``None`` where a machine's is not known.

    Floors are standard errors: they add up as those of a mean that weighs machines by their pairs.
    """
    if any(one.noise_floor is None for one in several):
        return None
    total = sum(one.ratio.n for one in several)
    parts = [one.ratio.n * math.log1p(one.noise_floor or 0.0) for one in several]
    return math.expm1(math.hypot(*parts) / total) if total else None


def _contradicted(verdict: str, medians: Sequence[float], reach: float) -> bool:
    """Return whether a machine's median lies beyond what a verdict on all would allow."""
    low, high = (-reach, reach)
    return (verdict in ("faster", "same") and max(medians, default=0.0) > high) or (
        verdict in ("slower", "same") and min(medians, default=0.0) < low
    )


def _change(log: float) -> str:
    return f"{math.expm1(log):+.1%}"
