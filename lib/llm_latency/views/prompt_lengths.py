"""Prompts of different lengths, as answers and figures read them: lines, bends, batch edges."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import pandas as pd

from llm_latency.records import frame as fr
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimate, estimates, per_process
from llm_latency.stats.fit import Line, line, parabolas
from llm_latency.words import counts

FIGURES = ("prefill_s", "ttft_s", "total_s", "prefill_tps", "prompt_words")
CLOSE = 0.05
"""Two lengths no further apart than this share can tell the cost of an edge between them."""
NOTICEABLE = 0.10
"""Share of the straight part from which on a bend is called noticeable."""

Turn = Literal["upwards", "downwards", "none", "undecided"]


class Edge(NamedTuple):
    """Two measured lengths close to each other, the longer of which needs one batch more."""

    below: float
    above: float
    batches: int


@dataclass(frozen=True)
class Bend:
    """How far prefill departs from a straight line; estimates over rounds.

    Attributes
    ----------
    square : Estimate
        Seconds per token squared.
    added : Estimate
        Seconds that the square adds at the longest prompt.
    share : Estimate
        The same as a share of the parabola's prefill there.
    noticeable : Estimate
        Tokens from which on the square is a tenth of the straight part; infinite ones are left
        out.
    middle : tuple
        Medians of the coefficients: constant, slope at 0, square.
    """

    square: Estimate
    added: Estimate
    share: Estimate
    noticeable: Estimate
    middle: tuple[float, float, float]

    @property
    def turn(self) -> Turn:
        """Which way the line bends, if the interval leaves zero out."""
        if self.square.kind != "interval":
            return "undecided"
        if self.square.low > 0:
            return "upwards"
        return "downwards" if self.square.high < 0 else "none"

    def at(self, tokens: float) -> float:
        """Return the parabola's prefill time, in seconds."""
        constant, slope, square = self.middle
        return constant + slope * tokens + square * tokens**2


class PromptLengths:
    """One combination of settings, measured with prompts of several lengths.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``, twins included.
    """

    def __init__(self, df: pd.DataFrame) -> None:
        self.raw = df.copy()
        for name in ("prompt_tokens", *FIGURES):
            values = df[name] if name in df else pd.Series(math.nan, index=df.index)
            self.raw[name] = pd.to_numeric(values, errors="coerce").astype(float)
        self.data = fr.prepare(self.raw)
        good = fr.ok(self.data)
        self.good = good[good["prompt_tokens"].notna() & good["ttft_s"].notna()]

    @cached_property
    def lengths(self) -> list[float]:
        """Measured lengths in tokens, the shortest first."""
        return sorted(self.good["prompt_tokens"].unique())

    @cached_property
    def asked(self) -> list[float]:
        """All lengths of the plan that left a row, measured or not."""
        return sorted(self.data["prompt_tokens"].dropna().unique())

    def words(self, tokens: float) -> float:
        """Return how many words a prompt of that length has; NaN where nobody counted."""
        return float(self.good.loc[self.good["prompt_tokens"] == tokens, "prompt_words"].median())

    def estimates(self, column: str) -> dict[float, Estimate]:
        """Return the estimate of a column at every measured length."""
        return estimates(self.good, column, ["prompt_tokens"]) if len(self.good) else {}

    def points(self, column: str) -> pd.DataFrame:
        """Return one row per process: length, words, round, and a column's median."""
        found = per_process(self.good, column, ["prompt_tokens", "prompt_words", "round"])
        return found.dropna(subset=[column])

    def line(self, column: str, over: str = "prompt_tokens") -> Line | None:
        """Return the line of a column over tokens or over words; ``None`` if there is none."""
        points = self.points(column)
        return line(points[over], points[column])

    @cached_property
    def bend(self) -> Bend | None:
        """How far prefill departs from a line; ``None`` below four lengths."""
        points = self.points("prefill_s")
        rounds = zip(points["run_id"], points["round"], strict=True)
        found = parabolas(points["prompt_tokens"], points["prefill_s"], rounds)
        if not len(found):
            return None
        constant, slope, square = found.T
        far = self.lengths[-1]
        added = square * far**2
        bent = (square > 0) & (slope > 0)
        middle = [estimate(values).median for values in found.T]
        return Bend(
            estimate(square),
            estimate(added),
            estimate(added / (constant + slope * far + added)),
            estimate(NOTICEABLE * slope[bent] / square[bent]),
            (middle[0], middle[1], middle[2]),
        )

    def against(self, column: str, base: float, other: float) -> Comparison:
        """Compare one length with another, round by round."""
        return self._compared(column, self._samples(column, base), self._samples(column, other))

    @cached_property
    def batch_sizes(self) -> tuple[int, int] | None:
        """``n_batch`` and ``n_ubatch`` in force; ``None`` where they differ or nobody knows."""
        pairs = set(
            zip(self.good["effective_n_batch"], self.good["effective_n_ubatch"], strict=True)
        )
        known = [pair for pair in pairs if not any(map(math.isnan, pair))]
        return (int(known[0][0]), int(known[0][1])) if len(known) == len(pairs) == 1 else None

    def batches(self, tokens: float) -> int | None:
        """Return in how many batches llama.cpp computes a prompt of that length."""
        if self.batch_sizes is None:
            return None
        n_batch, n_ubatch = self.batch_sizes
        whole, rest = divmod(int(tokens), n_batch)
        return whole * -(-n_batch // n_ubatch) + -(-rest // n_ubatch)

    @cached_property
    def borders(self) -> list[int]:
        """Lengths up to the longest beyond which one batch more begins."""
        if self.batch_sizes is None or not self.lengths:
            return []
        n_batch, n_ubatch = self.batch_sizes
        inside = (*range(n_ubatch, n_batch, n_ubatch), n_batch)
        starts = range(0, int(self.lengths[-1]), n_batch)
        found = {start + border for start in starts for border in inside}
        return sorted(border for border in found if border < self.lengths[-1])

    @cached_property
    def edges(self) -> list[Edge]:
        """Neighbouring lengths that can tell what one batch more costs."""
        found = []
        for below, above in zip(self.lengths, self.lengths[1:], strict=False):
            fewer, more = self.batches(below), self.batches(above)
            if fewer is not None and more is not None:
                close = above - below <= CLOSE * below
                found += [Edge(below, above, fewer)] if close and more > fewer else []
        return found

    def across(self, edge: Edge) -> Comparison:
        """Compare the time per token above an edge with that below it, round by round."""
        below = self._samples("prefill_s", edge.below) / edge.below
        above = self._samples("prefill_s", edge.above) / edge.above
        return self._compared("prefill_s", below, above)

    def step(self, edge: Edge) -> Estimate:
        """Return by how many seconds prefill grows across an edge; one sample per round."""
        grown = self._samples("prefill_s", edge.above) - self._samples("prefill_s", edge.below)
        return estimate(grown.dropna())

    def failed(self) -> str:
        """Return at which lengths processes failed and how; empty if none did."""
        each = fr.processes(self.data)
        bad = each[each["status"] != "ok"]
        return "; ".join(
            f"{tokens:,.0f} tokens ({counts(part['status'])})"
            for tokens, part in bad.groupby("prompt_tokens")
        )

    def _samples(self, column: str, tokens: float) -> pd.Series[float]:
        return samples(self.raw, column, prompt_tokens=tokens)

    def _compared(self, column: str, a: pd.Series[float], b: pd.Series[float]) -> Comparison:
        return compare(a, b, noise_floor(self.raw, column))
