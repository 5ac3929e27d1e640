"""First replies by warm-up, as answers and figures read them: places, samples, comparisons.

A *place* is where strategies can be compared: one state of the page cache and one prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

import pandas as pd

from llm_latency.plan.spec import PageCache, WarmUp
from llm_latency.records import frame as fr
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimate

NONE = "none"
ORDER: tuple[str, ...] = get_args(WarmUp)
STATES: dict[PageCache, str] = {
    "resident": "file in RAM",
    "evicted": "file on the disk",
    "as_is": "page cache as it was",
}
"""States of the model's file at start, in words; the first that was measured leads."""
FIGURES = ("load_s", "warm_up_s", "ttft_s", "rss_after_load_bytes", "rss_peak_bytes")
STATE = ("state_bytes", "state_evaluate_s", "state_save_s")


@dataclass(frozen=True)
class Place:
    """One state of the page cache and one length of the first prompt, in tokens."""

    page_cache: str
    prompt: float

    @property
    def words(self) -> str:
        """The state of the model's file in words."""
        return dict(STATES).get(self.page_cache, self.page_cache)  # type: ignore[call-overload, no-any-return]


class FirstReplies:
    """The first generation of every process, by place and strategy.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``, twins included.
    """

    def __init__(self, df: pd.DataFrame) -> None:
        data = fr.prepare(df)
        raw = df.copy()
        for name in ("repeat", "prompt_tokens", "prefix_tokens", *FIGURES, *STATE):
            values = raw[name] if name in raw else pd.Series(math.nan, index=raw.index)
            raw[name] = pd.to_numeric(values, errors="coerce").astype(float)
        raw["proper_s"] = raw["load_s"] - raw["warm_up_s"]
        raw["demand_s"] = raw["load_s"] + raw["ttft_s"]
        # What a reply costs beyond load: the warm-up before it, and the wait for it.
        raw["both_s"] = raw["warm_up_s"] + raw["ttft_s"]
        self.rows = raw[raw["repeat"] == 0]
        self.later = raw[raw["repeat"] >= 1]
        good = fr.ok(data)
        good = good[(good["repeat"] == 0) & good["ttft_s"].notna()]
        self.measured: dict[Place, list[str]] = {}
        found = {(Place(str(p), t), str(w)) for p, t, w in _triples(good)}
        ranks: list[str] = list(STATES)
        for place in sorted({p for p, _ in found}, key=lambda p: (-p.prompt, _rank(ranks, p))):
            kinds = {w for p, w in found if p == place}
            self.measured[place] = sorted(kinds, key=lambda w: ORDER.index(w))

    @property
    def compared(self) -> list[Place]:
        """Places in which a strategy can be compared with none, the leading one first."""
        return [p for p, kinds in self.measured.items() if NONE in kinds and len(kinds) > 1]

    @property
    def longest(self) -> list[Place]:
        """Places of the longest prompt that can be compared, one per state of the page cache."""
        most = max((place.prompt for place in self.compared), default=0)
        return [place for place in self.compared if place.prompt == most]

    def others(self, place: Place) -> list[str]:
        """Return the strategies of a place other than none."""
        return [kind for kind in self.measured[place] if kind != NONE]

    def system(self, place: Place) -> float | None:
        """Return the length of the system prompt; ``None`` where no strategy held one."""
        mine = self.rows[self.rows["prompt_tokens"] == place.prompt]
        held = mine["prefix_tokens"].max()
        return float(held) if held > 0 else None

    def samples(
        self, column: str, place: Place, kind: str, *, later: bool = False
    ) -> pd.Series[float]:
        """Return one number per round: of the first reply, or of the ``later`` ones."""
        return samples(
            self.later if later else self.rows,
            column,
            within="median",
            page_cache=place.page_cache,
            prompt_tokens=place.prompt,
            warm_up=kind,
        )

    def estimate(self, column: str, place: Place, kind: str, *, later: bool = False) -> Estimate:
        """Return the estimate over the processes of one strategy."""
        return estimate(self.samples(column, place, kind, later=later))

    def difference(self, column: str, place: Place, kind: str, base: str = NONE) -> Estimate:
        """Return by how much a strategy's figure exceeds none's, round by round."""
        a, b = (self.samples(column, place, one) for one in (base, kind))
        return estimate((b - a).dropna())

    def first_beyond_later(self, column: str, place: Place, kind: str) -> Estimate:
        """Return by how much the first figure of a process exceeds its later ones."""
        first, later = (self.samples(column, place, kind, later=x) for x in (False, True))
        return estimate((first - later).dropna())

    def floor(self, column: str, place: Place) -> float | None:
        """Return the noise floor of a page cache state, that of the twin measured in it."""
        return noise_floor(self.rows[self.rows["page_cache"] == place.page_cache], column)

    def compare(self, column: str, place: Place, kind: str, base: str = NONE) -> Comparison:
        """Compare a strategy with another, by default with none."""
        a, b = (self.samples(column, place, one) for one in (base, kind))
        return compare(a, b, self.floor(column, place))


def _triples(good: pd.DataFrame) -> Iterable[tuple[Any, ...]]:
    if not {"page_cache", "warm_up"} <= set(good):
        return []
    return good[["page_cache", "prompt_tokens", "warm_up"]].itertuples(index=False, name=None)


def _rank(ranks: list[str], place: Place) -> int:
    return ranks.index(place.page_cache) if place.page_cache in ranks else len(ranks)
