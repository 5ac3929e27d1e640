"""The ledger of a start: its parts in their order, as answers, tables and figures read them.

A *start* is one way of reading the model's file under one state of the page cache. Its sample is
the process, with its first generation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd

from llm_latency.plan import loading as reading
from llm_latency.records import frame as fr
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, counted, estimate

PARTS = {
    "import": "import_s",
    "backend": "backend_init_s",
    "model file": "model_load_s",
    "context": "context_s",
    "rest of loading": "rest_s",
    "warm-up": "warm_up_s",
    "prefill": "prefill_s",
    "first token": "after_prefill_s",
    "to the last token": "after_first_s",
}
"""Parts of a start in their order, and the columns that hold them."""
STATES = {
    "evicted": "file on the disk",
    "resident": "file in RAM",
    "as_is": "page cache as it was",
}
"""States of the model's file when a process starts, in words."""
FIGURES = (
    *("load_s", "ttft_s", "total_s", "import_s", "backend_init_s", "model_load_s", "context_s"),
    *("warm_up_s", "prefill_s", "repeat", "prompt_tokens", "generated_tokens"),
    *("read_bytes", "read_after_load_bytes", "read_after_first_bytes", "read_before_bytes"),
    *("major_faults", "locked_after_load_bytes", "resident_before", "rss_after_load_bytes"),
)


class Start(NamedTuple):
    """One way of reading the file under one state of the page cache."""

    page_cache: str
    way: str

    @property
    def words(self) -> str:
        """Both in words: ``evicted, mmap``."""
        return f"{self.page_cache}, {self.way}"


class StartLedger:
    """The starts of a run.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``, twins included.

    Attributes
    ----------
    planned : list of Start
        Every start that was tried, in order: the disk first.
    measured : list of Start
        Those of them in which something was measured.
    first, later : pandas.DataFrame
        Rows of the first generation of every process, and of those after it, with the parts and
        their sums: ``first_token_s`` (load and TTFT) and ``start_s`` (import, load and all).
    """

    def __init__(self, df: pd.DataFrame) -> None:
        raw = df.copy()
        for name in FIGURES:
            values = raw[name] if name in raw else pd.Series(math.nan, index=raw.index)
            raw[name] = pd.to_numeric(values, errors="coerce").astype(float)
        loading = ["backend_init_s", "model_load_s", "context_s", "warm_up_s"]
        raw["rest_s"] = raw["load_s"] - raw[loading].sum(axis=1, skipna=False)
        raw["after_prefill_s"] = raw["ttft_s"] - raw["prefill_s"]
        raw["after_first_s"] = raw["total_s"] - raw["ttft_s"]
        raw["first_token_s"] = raw["load_s"] + raw["ttft_s"]
        raw["start_s"] = raw["import_s"] + raw["load_s"] + raw["total_s"]
        raw["way"] = reading.names(raw)
        if "page_cache" not in raw:
            raw["page_cache"] = ""
        self.rows = raw
        self.first = raw[raw["repeat"] == 0]
        self.later = raw[raw["repeat"] >= 1]
        self.planned = _starts(raw)
        good = self.first[self.first["status"] == "ok"] if len(self.first) else self.first
        known = good[good["ttft_s"].notna() & good["load_s"].notna()]
        self.measured = [start for start in self.planned if start in _starts(known)]

    @property
    def parts(self) -> dict[str, str]:
        """Parts that any start has; a warm-up only where there was one."""
        return {
            name: column
            for name, column in PARTS.items()
            if name != "warm-up" or (self.first[column] > 0).any()
        }

    @property
    def good(self) -> pd.DataFrame:
        """The first generation of every process that counts and ended well."""
        rows = counted(self.first)
        return rows[rows["status"] == "ok"]

    @property
    def controlled(self) -> bool:
        """Whether the page cache was brought into the state that was asked for, wherever told."""
        if "effective_page_cache" not in self.first:
            return True
        mine = self.good
        return bool((mine["effective_page_cache"] == mine["page_cache"]).all())

    def samples(self, column: str, start: Start, *, later: bool = False) -> pd.Series[float]:
        """Return one number per round: of the first generation, or of the ``later`` ones."""
        rows = self.later if later else self.first
        return samples(rows, column, within="median", page_cache=start.page_cache, way=start.way)

    def estimate(self, column: str, start: Start) -> Estimate:
        """Return the estimate over the processes of one start."""
        return estimate(self.samples(column, start))

    def beyond_later(self, column: str, start: Start) -> Estimate:
        """Return by how much the first generation of a process exceeds its later ones."""
        first, later = (self.samples(column, start, later=x) for x in (False, True))
        return estimate((first - later).dropna())

    def difference(self, column: str, base: Start, other: Start) -> Estimate:
        """Return by how much a start's figure exceeds another's, round by round."""
        a, b = (self.samples(column, start) for start in (base, other))
        return estimate((b - a).dropna())

    def compare(self, column: str, base: Start, other: Start) -> Comparison:
        """Compare a start with another; the noise is that of the noisier state of the two."""
        a, b = (self.samples(column, start) for start in (base, other))
        states = dict.fromkeys([base.page_cache, other.page_cache])
        floors = [
            noise_floor(self.first[self.first["page_cache"] == state], column, "median")
            for state in states
        ]
        known = [floor for floor in floors if floor is not None]
        return compare(a, b, max(known) if len(known) == len(floors) else None)

    def pairs(self) -> list[tuple[Start, Start]]:
        """Return the starts from RAM, each with the one from the disk of the same way."""
        found = [
            (Start("resident", start.way), start)
            for start in self.measured
            if start.page_cache == "evicted"
        ]
        return [pair for pair in found if pair[0] in self.measured]

    def states(self) -> list[str]:
        """Return the states of the page cache in which something was measured."""
        return list(dict.fromkeys(start.page_cache for start in self.measured))

    def of_state(self, state: str) -> list[Start]:
        """Return the starts measured in a state of the page cache, the soonest first."""
        mine = [start for start in self.measured if start.page_cache == state]
        return sorted(mine, key=lambda start: self.estimate("first_token_s", start).median)

    def how_ended(self, start: Start) -> str:
        """Return how the processes of a start ended, ``ok 5, invalid 1``."""
        data = fr.prepare(self.rows)
        mine = (data["page_cache"] == start.page_cache) & (data["way"] == start.way)
        return fr.status_words(data[mine])


def _starts(rows: pd.DataFrame) -> list[Start]:
    """Return the starts of some rows: the disk before RAM, the ways in their own order."""
    found = {Start(str(p), str(w)) for p, w in zip(rows["page_cache"], rows["way"], strict=True)}
    ways = reading.ranked([start.way for start in found])
    states = list(STATES)
    return sorted(
        found,
        key=lambda s: (
            states.index(s.page_cache) if s.page_cache in states else len(states),
            ways.index(s.way),
        ),
    )
