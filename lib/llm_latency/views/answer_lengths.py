"""Answers of different lengths: asked and generated, a line through some, its error on the rest."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import pandas as pd

from llm_latency.plan.parameters import as_list
from llm_latency.records import frame as fr
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimate
from llm_latency.stats.fit import Line, line
from llm_latency.words import percent

HELD_OUT = (25, 75, 150)
"""Lengths that a fit does not see, where nobody says which."""

FORMULAS = {
    "line": "line through tokens generated",
    "naive": "line through tokens asked for",
    "original": "first formula, 0.5 s + tokens / 16",
}
"""Ways to predict, in words."""


def original_s(tokens: float) -> float:
    """Return what was first said, of a 7B model on a laptop's GPU, in seconds."""
    return 0.5 + tokens / 16


def signed_percent(fraction: float) -> str:
    """Return a relative error with its sign, ``−0.4 %`` or ``+2,019 %``."""
    size = percent(abs(fraction))
    if abs(fraction) >= 10:
        size = f"{100 * abs(fraction):,.0f} %"
    sign = "" if size == percent(0.0) else "−" if fraction < 0 else "+"
    return f"{sign}{size}"


class Place(NamedTuple):
    """Processes that were asked for the same number of tokens and generated the same number."""

    asked: float
    generated: float


@dataclass(frozen=True)
class Prediction:
    """What a formula predicts at one place, against what was measured there.

    Attributes
    ----------
    predicted_s : float
        The formula's latency.
    measured : Estimate
        Median latency of the processes, in seconds.
    error : Estimate
        Predicted against measured, relative, over processes; above 0: predicted too long.
    """

    predicted_s: float
    measured: Estimate
    error: Estimate

    @property
    def inside(self) -> bool | None:
        """Whether it lies within the measured interval; ``None`` where there is no interval."""
        if self.measured.kind != "interval":
            return None
        return self.measured.low <= self.predicted_s <= self.measured.high


class AnswerLengths:
    """One combination of settings, asked for answers of several lengths.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``, twins included.
    held_out
        Value or values of ``max_tokens`` that the fit does not see; ``None``: those of the
        default plan.
    """

    def __init__(self, df: pd.DataFrame, held_out: float | Iterable[float] | None = None) -> None:
        self.raw = df.copy()
        for name in ("max_tokens", "generated_tokens", "total_s"):
            values = df[name] if name in df else pd.Series(math.nan, index=df.index)
            self.raw[name] = pd.to_numeric(values, errors="coerce").astype(float)
        for name in ("length", "finish_reason"):
            if name not in df:
                self.raw[name] = pd.Series("", index=df.index, dtype=object)
        self.data = fr.prepare(self.raw)
        good = fr.ok(self.data)
        self.good = good[good[["max_tokens", "generated_tokens", "total_s"]].notna().all(axis=1)]
        lengths = set(self.good["max_tokens"])
        wanted = HELD_OUT if held_out is None else as_list("held_out", held_out)
        self.held_out = sorted(float(value) for value in wanted if float(value) in lengths)

    @cached_property
    def asked(self) -> list[float]:
        """Lengths that were asked for and measured, the smallest first."""
        return sorted(self.good["max_tokens"].unique())

    @cached_property
    def kinds(self) -> list[str]:
        """How generations were to end: ``fixed``, ``natural``, or both."""
        return sorted(str(kind) for kind in self.good["length"].unique())

    @cached_property
    def points(self) -> pd.DataFrame:
        """One row per process: how it was to end, asked, generated, latency, held out."""
        by = ["length", "max_tokens", "run_id", "trial_id"]
        found = self.good.groupby(by, as_index=False)[["generated_tokens", "total_s"]].median()
        found = found.rename(columns={"max_tokens": "asked", "generated_tokens": "generated"})
        found["held_out"] = found["asked"].isin(self.held_out)
        return found

    @cached_property
    def line(self) -> Line | None:
        """Latency over tokens generated, without the lengths that are held out."""
        seen = self.points[~self.points["held_out"]]
        return line(seen["generated"], seen["total_s"])

    @cached_property
    def naive(self) -> Line | None:
        """The same over tokens asked for."""
        seen = self.points[~self.points["held_out"]]
        return line(seen["asked"], seen["total_s"])

    @cached_property
    def held_places(self) -> list[Place]:
        """Where predictions are tested."""
        held = self.points[self.points["held_out"]]
        pairs = held[["asked", "generated"]].drop_duplicates().sort_values(["asked", "generated"])
        return [Place(float(a), float(g)) for a, g in pairs.itertuples(index=False, name=None)]

    def predict(self, formula: str, place: Place) -> float | None:
        """Return what a formula of :data:`FORMULAS` says of a place, in seconds."""
        if formula == "original":
            # Its author put in the tokens that were asked for.
            return original_s(place.asked)
        found = self.line if formula == "line" else self.naive
        if found is None:
            return None
        return found.at(place.generated if formula == "line" else place.asked)

    def test(self, formula: str, place: Place, kind: str | None = None) -> Prediction | None:
        """Return how far a formula is off at a place; ``None`` where there is no formula.

        ``kind`` leaves only the processes whose answers were to end that way.
        """
        predicted = self.predict(formula, place)
        if predicted is None:
            return None
        here = (self.points["asked"] == place.asked) & (self.points["generated"] == place.generated)
        if kind is not None:
            here &= self.points["length"] == kind
        times = self.points.loc[here, "total_s"]
        return Prediction(predicted, estimate(times), estimate(predicted / times - 1))

    def against(self, base: float, other: float, kind: str) -> Comparison:
        """Compare two lengths of one kind, round by round, by total latency."""
        return self._compared((kind, base), (kind, other))

    @cached_property
    def same_length(self) -> float | None:
        """Longest length at which natural ends brought exactly what fixed ones did."""
        ends = self.good.groupby(["max_tokens", "length"])["generated_tokens"].agg(["min", "max"])
        for n in reversed(self.asked):
            here = ends.loc[n]
            if {"fixed", "natural"} <= set(here.index) and bool((here.to_numpy() == n).all()):
                return n
        return None

    def natural_against_fixed(self, tokens: float) -> Comparison:
        """Compare a natural end with a fixed one, the same tokens asked for."""
        return self._compared(("fixed", tokens), ("natural", tokens))

    def _compared(self, a: tuple[str, float], b: tuple[str, float]) -> Comparison:
        one, other = (
            samples(self.raw, "total_s", length=kind, max_tokens=tokens) for kind, tokens in (a, b)
        )
        return compare(one, other, noise_floor(self.raw, "total_s"))
