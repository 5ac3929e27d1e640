"""Is B slower than A? A paired comparison within rounds, and a verdict that may be "undecided".

In each round every cell is measured once, shortly after the others: what the machine did at that
time fell on all of them alike. So the cells are compared round by round, as the logarithm of a
ratio of two processes; the median over the rounds has a distribution-free interval and needs no
more than independent rounds.

A pair is of one run, one machine and one round: what two machines took is no pair of anything. An
effect that was measured on several is for :mod:`llm_latency.stats.pooled`.

Each process stands in the comparison with its quickest generation. What else happens on a
machine only ever adds time, so the quickest is the least disturbed: on a 2-core virtual machine
the medians of processes scattered about twice as much as their quickest generations. Estimates
in tables remain medians, which is what a user waits for.

How large a difference arises between two cells that *are* equal is measured too: every comparing
plan measures one cell twice (its *twin*), and without that noise floor there is no verdict.

Where a run looks after every round whether it may end, its frame says so (``attrs["looks"]``, see
:meth:`llm_latency.records.store.RunStore.frame`), and the interval is the wider one of
:mod:`llm_latency.stats.sequential`: then, and for the answer, alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm_latency.errors import ParameterError
from llm_latency.records.frame import of_one_origin
from llm_latency.stats.estimate import FEWEST, Estimate, estimate
from llm_latency.stats.sequential import hopeless, widened
from llm_latency.words import several

Verdict = Literal["faster", "slower", "same", "undecided", "depends"]
"""``depends`` is said of several machines only: on the machine."""
Side = tuple[str, ...]
"""What stands on one side of a comparison: its column, and its cells by their ``cell_id``."""

SMALLEST_EFFECT = 0.02
"""Relative difference below which nobody would change a setting."""
PAIRED = ("run_id", "machine_id", "round")
"""Columns in which the two processes of a pair agree."""


@dataclass(frozen=True)
class Comparison:
    """B against A, as B's time divided by A's.

    Attributes
    ----------
    ratio
        Median over the rounds of B / A, with its interval; above 1: B takes longer.
    noise_floor
        Relative difference that two equal cells show; ``None`` where no twin was measured.
    verdict
        Of B against A.
    why
        One sentence: what the verdict rests on, or what it lacks.
    cells : frozenset of str
        The cells that it is about, by their ``cell_id``.
    settled : bool
        Whether the rounds to come cannot bring another verdict, or need not.
    apart : str
        What lies between two that no rounds pair, such as another day; empty: they are paired.
    sides : tuple
        A and B, so that the same comparison is found again on another machine.
    logs : tuple of float
        The logarithms of B / A, pair by pair.
    smallest_effect : float
        Relative difference that would matter to the user.
    looks : int or None
        How many rounds there will be at most, where the run looks after every round.
    """

    ratio: Estimate
    noise_floor: float | None
    verdict: Verdict
    why: str
    cells: frozenset[str] = frozenset()
    settled: bool = False
    apart: str = ""
    sides: tuple[Side, Side] = ((), ())
    logs: tuple[float, ...] = ()
    smallest_effect: float = SMALLEST_EFFECT
    looks: int | None = None

    @property
    def change(self) -> float:
        """Relative change of the time, B against A: 0.05 is 5 % longer."""
        return self.ratio.median - 1


def samples(
    frame: pd.DataFrame,
    column: str,
    *,
    twin: bool = False,
    within: Literal["quickest", "median"] = "quickest",
    **cell: Any,
) -> pd.Series[float]:
    """Return one number per round of one cell: its process's quickest generation.

    Parameters
    ----------
    frame
        Rows of a run, ``run.frame()``.
    column
        A measured column, such as ``"total_s"``.
    twin
        The cell's twin instead.
    within
        What stands for a process: its ``quickest`` generation, or the ``median`` of all.
    **cell
        Column = value, which together name the cell.

    Raises
    ------
    ParameterError
        If the frame lacks a column.
    """
    keep = (frame["status"] == "ok") & (frame["twin"] == twin) & ~frame["superseded"]
    for name, value in cell.items():
        if name not in frame:
            raise ParameterError(f"the frame has no column {name!r}; name a setting of the plan.")
        keep &= frame[name].isna() if value is None else frame[name] == value
    if column not in frame:
        raise ParameterError(f"the frame has no column {column!r}; name a measured column.")
    of_one_origin(frame[keep])
    values = frame.loc[keep, column]
    # A machine that was not told is one like any other.
    grouped = values.groupby([frame.loc[keep, n].fillna("") for n in PAIRED if n in frame])
    found = (grouped.min() if within == "quickest" else grouped.median()).dropna()
    cells = tuple(frame.loc[keep, "cell_id"].unique())
    found.attrs = {"cells": cells, "column": column, **frame.attrs}
    return found


def ratios(a: pd.Series[float], b: pd.Series[float]) -> npt.NDArray[np.float64]:
    """Return B / A for every round in which both were measured."""
    both = pd.concat([a.rename("a"), b.rename("b")], axis=1, join="inner")
    return np.asarray(both["b"] / both["a"], dtype=float)


def noise_floor(
    frame: pd.DataFrame, column: str, within: Literal["quickest", "median"] = "quickest"
) -> float | None:
    """Return the relative difference that two equal cells show; ``None`` without a twin.

    It is twice the standard error of the median ratio of a cell to its twin, estimated from the
    median absolute logarithm (1.4826 makes that a standard deviation, 1.2533 is the price of a
    median, for normal noise): of two equal cells, one in twenty comparisons lies beyond it.
    """
    found: list[float] = []
    of_one_origin(frame)
    for _, cell in frame[frame["twin"]].groupby("cell_id"):
        name = cell["cell_id"].iloc[0]
        pair = [
            samples(frame, column, twin=twin, within=within, cell_id=name) for twin in (False, True)
        ]
        found += list(np.log(ratios(*pair)))
    if len(found) < 3:
        return None
    deviation = 1.4826 * float(np.median(np.abs(found)))
    return math.expm1(2 * 1.2533 * deviation / math.sqrt(len(found)))


def compare(
    a: pd.Series[float],
    b: pd.Series[float],
    floor: float | None,
    smallest_effect: float = SMALLEST_EFFECT,
) -> Comparison:
    """Compare B with A round by round and say which is faster, if that can be said.

    Parameters
    ----------
    a, b
        Times by round, see :func:`samples`.
    floor
        See :func:`noise_floor`.
    smallest_effect
        Relative difference that would matter to the user.

    Returns
    -------
    Comparison
        ``faster`` and ``slower`` are said of B: the whole interval lies on one side, and the
        median beyond both the noise floor and the smallest effect. ``same``: the whole interval
        lies within the smallest effect. Everything else is ``undecided``.
    """
    if not 0 < smallest_effect < 1:
        raise ParameterError(
            f"smallest_effect={smallest_effect!r} is refused: give a share such as 0.02 (2 %)."
        )
    looks = (a.attrs | b.attrs).get("looks")
    one, other = ((str(x.attrs.get("column", "")), *x.attrs.get("cells", ())) for x in (a, b))
    return paired(np.log(ratios(a, b)), floor, smallest_effect, looks, (one, other))


def paired(
    logs: npt.NDArray[np.float64],
    floor: float | None,
    smallest_effect: float,
    looks: int | None = None,
    sides: tuple[Side, Side] = ((), ()),
) -> Comparison:
    """Return what logarithms of ratios, pair by pair, say; see :func:`compare`."""
    log = estimate(logs) if looks is None else widened(logs)
    middle, low, high = (math.exp(x) for x in (log.median, log.low, log.high))
    ratio = Estimate(middle, low, high, log.n, log.kind, log.coverage)
    verdict, why = judge(log, ratio, floor, smallest_effect)
    settled = verdict != "undecided"
    if not settled and looks and hopeless(logs, looks, math.log1p(smallest_effect)):
        settled, why = True, f"{log.n} rounds; by {looks} it cannot be decided any more"
    cells = frozenset(cell for side in sides for cell in side[1:])
    each = tuple(map(float, logs))
    known: dict[str, Any] = {"smallest_effect": smallest_effect, "looks": looks}
    return Comparison(ratio, floor, verdict, why, cells, settled, sides=sides, logs=each, **known)


def judge(
    log: Estimate,
    ratio: Estimate,
    floor: float | None,
    smallest: float,
    sample: str = "paired round",
) -> tuple[Verdict, str]:
    """Return the verdict of a ratio, given its logarithm too, and why; see :func:`compare`."""
    counted = several(log.n, sample)
    if log.kind != "interval":
        return "undecided", f"{counted}; {FEWEST} are the fewest for a verdict"
    if floor is None:
        return "undecided", "no cell was measured twice, so the noise floor is not known"
    size = math.expm1(abs(log.median))
    interval = f"{ratio.low - 1:+.1%} to {ratio.high - 1:+.1%} in {counted}"
    needed = max(floor, smallest)
    if log.high < 0 or log.low > 0:
        if size >= needed:
            return ("faster" if log.high < 0 else "slower"), interval
        if max(abs(log.low), abs(log.high)) > math.log1p(smallest):
            return "undecided", f"{interval}; below the {needed:.1%} that noise or need asks for"
    if max(abs(log.low), abs(log.high)) <= math.log1p(smallest):
        return "same", f"{interval}; all within {smallest:.1%}"
    return "undecided", f"{interval}; more rounds would narrow it"
