"""Processes by way of reading and memory limit: speed, spread, faults and how they ended.

The spread of answers is measured within a process (of its own generations and tokens) and
between processes of a kind (how far each lies from their median).
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from llm_latency.plan import loading
from llm_latency.records import frame as fr
from llm_latency.stats.compare import SMALLEST_EFFECT, Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimate
from llm_latency.words import MIB

NO_LIMIT = "no limit"
BASE = "mmap"
"""The way with which the others are compared: the engine's own."""
SMALLEST_SPREAD = 0.2
"""Relative difference of a spread below which nobody would call answers steadier."""
SPREADS = {
    "ttft_range_s": "TTFT within a process, from its shortest to its longest",
    "itl_mad_s": "ITL within a process, as median absolute deviation",
    "ttft_off_s": "TTFT between processes, as distance from their median",
    "itl_off_s": "ITL between processes, as distance from their median",
}
"""Columns that hold a spread, and what they say."""
FIGURES = (
    *("load_s", "major_faults", "read_bytes", "weights_bytes", "locked_after_load_bytes"),
    *("memory_limit_bytes", "memory_limit_peak_bytes", "rss_peak_bytes"),
)
PHASES = {
    "load": "while loading",
    "warm-up": "between loading and the first generation",
    "generation 0": "in the first generation",
}


class Kind(NamedTuple):
    """One way of reading the file under one memory limit, both in words."""

    memory: str
    way: str


class HeldMemory:
    """The processes of a run.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``, twins included.

    Attributes
    ----------
    each : pandas.DataFrame
        One row per process, failed ones and twins included.
    planned : list of Kind
        Every kind that was tried: without a limit first, then by falling limit.
    measured : list of Kind
        Those of which at least one process ended well.
    """

    def __init__(self, df: pd.DataFrame) -> None:
        self.each = _processes(df)
        data = self.each[~self.each["twin"] & ~self.each["superseded"]]
        self.counting = data
        limits = data.drop_duplicates("memory").set_index("memory")["limit_bytes"]
        self.memories = sorted(limits.index, key=lambda m: -_size(limits[m]))
        pairs = set(zip(data["memory"], data["way"], strict=True))
        ways = loading.ranked(list(data["way"]))
        self.planned = [Kind(m, w) for m in self.memories for w in ways if (m, w) in pairs]
        self.measured = [kind for kind in self.planned if (self.of(kind)["status"] == "ok").any()]

    def of(self, kind: Kind) -> pd.DataFrame:
        """Return the processes of a kind that count, however they ended."""
        data = self.counting
        return data[(data["memory"] == kind.memory) & (data["way"] == kind.way)]

    def good(self, kind: Kind) -> pd.DataFrame:
        """Return those of them that ended well."""
        mine = self.of(kind)
        return mine[mine["status"] == "ok"]

    def estimate(self, column: str, kind: Kind) -> Estimate:
        """Return the estimate over the processes of a kind."""
        return estimate(self.good(kind)[column])

    def compare(self, column: str, base: Kind, other: Kind) -> Comparison:
        """Compare a kind with another; spreads must differ by more than times do to matter."""
        a, b = (
            samples(self.each, column, within="median", memory=k.memory, way=k.way)
            for k in (base, other)
        )
        floor = noise_floor(self.each, column, "median")
        smallest = SMALLEST_SPREAD if column in SPREADS else SMALLEST_EFFECT
        return compare(a, b, floor, smallest)

    def of_memory(self, memory: str) -> list[Kind]:
        """Return the kinds under one limit, in order."""
        return [kind for kind in self.planned if kind.memory == memory]


def _size(limit: float) -> float:
    return math.inf if math.isnan(limit) else limit


def memory_words(limit: Any) -> str:
    """Return a limit in words."""
    size = math.nan if limit is None else float(limit)
    return NO_LIMIT if math.isnan(size) else f"{size * MIB:.5g} MiB"


def where_ended(reason: str) -> str:
    """Return in which phase a process ended, in words; empty where the reason does not say."""
    found = re.search(r"in phase '([^']+)'", reason)
    if not found:
        return ""
    phase = found[1]
    later = re.fullmatch(r"generation (\d+)", phase)
    if phase not in PHASES and later:
        return f"in generation {int(later[1]) + 1}"
    return PHASES.get(phase, f"in phase {phase}")


def _processes(df: pd.DataFrame) -> pd.DataFrame:
    raw = df.copy()
    for name in (*FIGURES, "ttft_s", "total_s", "repeat", "round"):
        values = raw[name] if name in raw else pd.Series(math.nan, index=raw.index)
        raw[name] = pd.to_numeric(values, errors="coerce").astype(float)
    for name in ("twin", "superseded", "disturbed"):
        values = raw[name] if name in raw else pd.Series(False, index=raw.index)
        raw[name] = values.fillna(False).astype(bool)
    raw["way"] = raw["reading"]
    if "itl_s" not in raw:
        raw["itl_s"] = None
    rows = [_process(part) for _, part in _groups(raw)]
    columns = ["run_id", "trial_id", "cell_id", "round", "twin", "superseded", "status", "reason"]
    columns += ["way", "memory", "limit_bytes", "by", "ttft_s", "total_s", "itl_median_s"]
    columns += ["ttft_range_s", "itl_mad_s", *FIGURES]
    each = pd.DataFrame(rows, columns=list(dict.fromkeys(columns)))
    each["twin"] = each["twin"].astype(bool)
    each["superseded"] = each["superseded"].astype(bool)
    for spread, column in (("ttft_off_s", "ttft_s"), ("itl_off_s", "itl_median_s")):
        good = each[each["status"] == "ok"]
        middle = good.groupby(["memory", "way", "twin"])[column].transform("median")
        each[spread] = _positive((good[column] - middle).abs()).reindex(each.index)
    return each


def _groups(raw: pd.DataFrame) -> Any:
    if not {"run_id", "trial_id"} <= set(raw):
        return []
    return raw.groupby(["run_id", "trial_id"], sort=False)


def _process(part: pd.DataFrame) -> dict[str, Any]:
    """Return one process's row: medians and spreads over its generations."""
    first = part.iloc[0]
    bad = part[part["status"] != "ok"]
    status = bad.iloc[0] if len(bad) else first
    good = part[part["status"] == "ok"]
    tokens = [
        np.asarray(itl, dtype=float)[1:]  # the first is the TTFT
        for itl in good["itl_s"]
        if isinstance(itl, list | tuple | np.ndarray)
    ]
    itl = np.concatenate(tokens) if tokens else np.array([])
    middle = float(np.median(itl)) if len(itl) else math.nan
    apart = good["ttft_s"].max() - good["ttft_s"].min() if len(good) > 1 else math.nan
    spread = float(np.median(np.abs(itl - middle))) if len(itl) > 1 else math.nan
    limit = first["memory_limit_bytes"]
    return {
        **{name: first.get(name) for name in ("run_id", "trial_id", "cell_id", "round", "way")},
        **{name: first[name] for name in ("twin", "superseded", *FIGURES)},
        "status": status["status"],
        "reason": status.get("reason") or "",
        "memory": memory_words(limit),
        "limit_bytes": limit,
        "by": first.get("memory_limit_by") or "",
        "ttft_s": good["ttft_s"].median(),
        "total_s": good["total_s"].median(),
        "itl_median_s": middle,
        "ttft_range_s": apart if apart > 0 else math.nan,
        "itl_mad_s": spread if spread > 0 else math.nan,
    }


def _positive(values: pd.Series[float]) -> pd.Series[float]:
    """Return values with zeros as missing: the ratio of a spread to none says nothing."""
    return values.where(values > 0)


def unlimited(df: pd.DataFrame) -> pd.DataFrame:
    """Return the prepared rows of processes without a limit: a limited one disturbs itself."""
    data = fr.prepare(df)
    if "memory_limit_bytes" not in data:
        return data
    return data[pd.to_numeric(data["memory_limit_bytes"], errors="coerce").isna()]
