"""Locking the model in RAM: is it honoured, is it steadier, and what if memory is short.

Mapped weights are pages of the page cache: when memory is short the system may drop them, and the
next token reads them from the disk again, a thousand times slower than from RAM. ``mlock`` asks
the system to keep them; reading the file copies it into memory that can only be swapped. Where
there is enough memory nothing should differ. Where there is not, mapped weights get slow, and
copied or locked ones end the process.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llm_latency.measure.outcome import where_ended
from llm_latency.model import names
from llm_latency.plan import loading
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.sizes import limit_bytes
from llm_latency.plan.spec import Plan
from llm_latency.records import frame as fr
from llm_latency.records.machines import on_one
from llm_latency.report import layout, phrases, style, tables
from llm_latency.report.page import Answer, Run, model_name, no_answer
from llm_latency.stats.compare import SMALLEST_EFFECT, Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimate
from llm_latency.words import MIB, MS, counts, enumerate_words, escape, number, percent, span

REPLACED = loading.REPLACED
NO_LIMIT, NOT_IN_FORCE = "no limit", "**not in force**"
BASE = "mmap"
"""The way with which the others are compared: the engine's own."""
WHOLE = 0.95
"""Share of the weights from which they count as locked."""
SMALLEST_SPREAD = 0.2
"""Relative difference of a spread below which nobody would call answers steadier."""
STEADY = {"faster": "steadier", "slower": "less steady", "same": "as steady"}
"""What the verdicts on times mean of a spread."""
TIMES = {"load": "load_s", "TTFT": "ttft_s", "total": "total_s"}
SPREADS = {
    "TTFT range": "ttft_range_s",
    "ITL MAD": "itl_mad_s",
    "TTFT off the median": "ttft_off_s",
    "ITL off the median": "itl_off_s",
}
"""Spreads within a process (range, median absolute deviation) and between processes."""


def plan(
    model: str = "synthetic:tiny",
    reading: Annotated[Grid, "map the file, copy it, or map and lock it"] = (
        *("mmap", "read", "mlock"),
    ),
    memory_limit: Annotated[Grid, 'none, "64 MiB", "110 %" of the file, "+20 MiB" beyond it'] = (
        *("none", "+20 MiB"),
    ),
    prompt_tokens: Annotated[int, "length of the prompt, in tokens"] = 64,
    max_tokens: int = 32,
    n_ctx: int = 512,
    rounds: int = 6,
    repeats: int = 3,
    timeout_s: Annotated[float, "longest life of a process: one that thrashes must end"] = 60.0,
    **options: Any,
) -> Plan:
    """Plan every way of reading the file under every limit of memory.

    A process without a limit starts with the model's file in RAM. One with a limit starts with
    the file put out of the page cache: pages that were there before would not count against it.
    """
    request = Request("memory_locking", locals(), names.check, REPLACED)
    ways = request.chosen("reading", loading.READING)
    size = partial(names.file_bytes, request.model)
    named = request.many("memory_limit")
    limits = list(dict.fromkeys(limit_bytes("memory_limit", value, size) for value in named))
    cells = {
        (limit, way): request.cell(
            prompt_tokens=request.one("prompt_tokens"),
            max_tokens=request.one("max_tokens"),
            repeats=request.one("repeats"),
            page_cache="resident" if limit is None else "evicted",
            memory_limit_bytes=limit,
            **loading.READING[way],
        )
        for limit in limits
        for way in ways
    }
    # The noise of equal cells is that of processes that have all the memory they want.
    most = max(limits, key=lambda limit: math.inf if limit is None else limit)
    return request.plan(list(cells.values()), twins=[cells[most, ways[0]]])


class Kind(NamedTuple):
    """One way of reading the file under one memory limit, both in words."""

    memory: str
    way: str


class View:
    """The processes of a run, by way of reading and memory limit.

    The spread of answers is measured within a process (of its own generations and tokens) and
    between processes of a kind (how far each lies from their median).

    Attributes
    ----------
    each : pandas.DataFrame
        One row per process, failed ones and twins included.
    planned : list of Kind
        Every kind that was tried: without a limit first, then by falling limit.
    measured : list of Kind
        Those of which at least one process ended well.
    """

    def __init__(self, run: Run) -> None:
        run = on_one(run)
        rows = run.frame()
        self.info, self.data = run.info, fr.by_cell(rows)
        self.each = _processes(rows)
        self.counting = fr.counted(self.each)
        limits = self.counting.groupby("memory")["memory_limit_bytes"].max().fillna(math.inf)
        self.memories = [str(m) for m in limits.sort_values(ascending=False, kind="stable").index]
        pairs = set(zip(self.counting["memory"], self.counting["reading"], strict=True))
        every = itertools.product(self.memories, loading.ranked(way for _, way in pairs))
        self.planned = [Kind(*pair) for pair in every if pair in pairs]
        self.measured = [kind for kind in self.planned if len(self.good(kind))]

    def of(self, kind: Kind) -> pd.DataFrame:
        """Return the processes of a kind that count, however they ended."""
        data = self.counting
        return data[(data["memory"] == kind.memory) & (data["reading"] == kind.way)]

    def good(self, kind: Kind) -> pd.DataFrame:
        """Return those of them that ended well."""
        return fr.ok(self.of(kind))

    def estimate(self, column: str, kind: Kind) -> Estimate:
        """Return the estimate over the processes of a kind."""
        return estimate(self.good(kind)[column])

    def compare(self, column: str, base: Kind, other: Kind) -> Comparison:
        """Compare a kind with another; spreads must differ by more than times do to matter."""
        a, b = (
            samples(self.each, column, within="median", memory=kind.memory, reading=kind.way)
            for kind in (base, other)
        )
        smallest = SMALLEST_SPREAD if column in SPREADS.values() else SMALLEST_EFFECT
        return compare(a, b, noise_floor(self.each, column, "median"), smallest)

    def plenty(self, kind: Kind) -> Kind | None:
        """Return the same way with the most memory that was measured; ``None`` if it is that."""
        same_way = [one for one in self.measured if one.way == kind.way]
        return same_way[0] if same_way and same_way[0] != kind else None

    def locked(self) -> tuple[int, int]:
        """Return in how many processes the weights were locked whole, and of how many."""
        asked = self.counting[self.counting["reading"] == "mlock"]
        known = asked.dropna(subset=["locked_after_load_bytes", "weights_bytes"])
        share = known["locked_after_load_bytes"] / known["weights_bytes"]
        return int((share >= WHOLE).sum()), len(known)


def _processes(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per process: its medians, and the spread of its answers."""
    rows = rows.assign(memory=[_memory_words(limit) for limit in rows["memory_limit_bytes"]])
    each = fr.processes(rows).set_index("process").sort_index()
    good = fr.ok(rows).groupby("process")
    each = each.assign(
        ttft_s=good["ttft_s"].median(),
        total_s=good["total_s"].median(),
        ttft_range_s=good["ttft_s"].max() - good["ttft_s"].min(),
        itl_median_s=good["itl_s"].apply(lambda part: _itl(part)[0]).astype(float),
        itl_mad_s=good["itl_s"].apply(lambda part: _itl(part)[1]).astype(float),
    )
    kinds = fr.ok(each).groupby(["memory", "reading", "twin"])
    for spread, column in (("ttft_off_s", "ttft_s"), ("itl_off_s", "itl_median_s")):
        each[spread] = (each[column] - kinds[column].transform("median")).abs()
    for spread in SPREADS.values():  # the ratio of a spread to none says nothing
        each[spread] = each[spread].where(each[spread] > 0)
    return each.reset_index()


def _itl(part: pd.Series[Any]) -> tuple[float, float]:
    """Return the median of a process's ITL and its median absolute deviation, without TTFT."""
    times = [np.asarray(itl, dtype=float)[1:] for itl in part if isinstance(itl, list)]
    itl = np.concatenate(times) if times else np.array([])
    if not len(itl):
        return math.nan, math.nan
    middle = float(np.median(itl))
    return middle, float(np.median(np.abs(itl - middle)))


def _memory_words(limit: float) -> str:
    return NO_LIMIT if math.isnan(limit) else f"{limit * MIB:.5g} MiB"


def deciding(view: View) -> list[Comparison]:
    """Return the comparisons on which the answer rests."""
    if not view.measured:
        return []
    base, lock = (Kind(view.memories[0], way) for way in (BASE, "mlock"))
    if not {base, lock} <= set(view.measured):
        return []
    both = [view.compare(column, base, lock) for column in ("total_s", "itl_mad_s")]
    limited = [(plenty, kind) for kind in view.measured if (plenty := view.plenty(kind))]
    return [*both, *(view.compare("total_s", *pair) for pair in limited)]


def answer(view: View) -> Answer:
    """Answer whether locking is honoured, whether it is steadier, and what a limit does."""
    if nothing := no_answer(view.data):
        return nothing
    lead = f"With {model_name(view.info)}"
    memory = view.memories[0]
    base, lock = Kind(memory, BASE), Kind(memory, "mlock")
    limits = [s for s in map(partial(_short, view), view.memories[1:]) if s]
    if not {base, lock} <= set(view.measured):
        sentence = f"{lead}, {phrases.UNDECIDED}: mmap and mlock were not both measured ({memory})."
        return Answer("mmap and mlock were not both measured", "undecided", "",
                      (sentence, *limits[:3]))  # fmt: skip
    total, spread = (view.compare(column, base, lock) for column in ("total_s", "itl_mad_s"))
    sentences = [
        f"{lead}, {_honoured(view)}.",
        f"With enough memory ({memory}) a generation takes {phrases.difference(total)} with mlock "
        f"than with mmap, and the scatter of its tokens is "
        f"{phrases.difference(spread, 'wider', 'narrower', STEADY)}.",
        *limits[:2],
        f"{phrases.noise([total]).removesuffix('.')}; a spread must differ by "
        f"{percent(SMALLEST_SPREAD)} to matter.",
    ]
    line = f"mlock: time {phrases.change(total)}; scatter {phrases.change(spread, STEADY)}"
    return Answer(line, total.verdict, phrases.sureness(total), tuple(sentences))


def _honoured(view: View) -> str:
    """Say whether the system locked what it was asked to lock."""
    whole, known = view.locked()
    if not known:
        return "whether mlock is honoured is **not known**"
    if whole == known:
        return f"**mlock is honoured**: all weights are locked in {whole} of {known} processes"
    remedy = "" if whole else "; raise the system's limit (ulimit -l)"
    return f"**mlock is not honoured**: {whole} of {known} processes locked their weights{remedy}"


def _short(view: View, memory: str) -> str:
    """Say what each way does under a limit."""
    told = []
    for kind in (kind for kind in view.planned if kind.memory == memory):
        ends = counts(view.of(kind)["status"])
        text = f"{kind.way} {escape(ends)}"
        plenty = view.plenty(kind)
        if kind in view.measured and plenty is not None:
            text += f", a generation {phrases.change(view.compare('total_s', plenty, kind))}"
        elif kind not in view.measured:
            phases = {where_ended(reason) for reason in view.of(kind)["reason"]} - {""}
            text += f" {enumerate_words(sorted(phases), 2)}" if phases else ""
        told.append(text)
    by = view.counting.loc[view.counting["memory"] == memory, "memory_limit_by"].unique()
    known = {"cgroup": "page cache included", "rlimit": "mapped files not counted"}
    how = known.get(by[0], NOT_IN_FORCE) if len(by) == 1 else NOT_IN_FORCE
    return f"With {memory} ({how}): {'; '.join(told)}." if told else ""


def table(view: View) -> pd.DataFrame:
    """Return one row per memory limit and way of reading: how long, how steady, and compared."""
    rows = []
    for kind in view.planned:
        row = _head(view, kind)
        for label, column in {**TIMES, **SPREADS}.items():
            row[f"{label}, ms"] = phrases.short(view.estimate(column, kind), "ms")
        base, plenty = Kind(kind.memory, BASE), view.plenty(kind)
        both = kind != base and {kind, base} <= set(view.measured)
        for label, column in {**TIMES, **SPREADS}.items():
            found = view.compare(column, base, kind) if both else None
            words = STEADY if label in SPREADS else None
            row[f"{label} against mmap"] = phrases.change(found, words) if found else "–"
        slower = plenty and kind in view.measured and view.compare("total_s", plenty, kind)
        row["total against most memory"] = phrases.change(slower) if slower else "–"
        rows.append(row)
    return tables.captioned(
        rows,
        f"{phrases.BRACKETS} TTFT range: longest less shortest in a process; ITL MAD: median "
        "absolute deviation of its tokens' times; off the median: of its kind's processes.",
    )


def sizes(view: View) -> pd.DataFrame:
    """Return one row per memory limit and way of reading: what was read, faulted and locked."""
    rows = []
    for kind in view.planned:
        row = _head(view, kind)
        for label, (column, factor) in {
            "major faults": ("major_faults", 1.0),
            "read while loading, MiB": ("read_bytes", MIB),
            "locked, MiB": ("locked_after_load_bytes", MIB),
            "weights, MiB": ("weights_bytes", MIB),
            "RSS peak, MiB": ("rss_peak_bytes", MIB),
            "counted against the limit, MiB": ("memory_limit_peak_bytes", MIB),
        }.items():
            values = (view.of(kind)[column].dropna() * factor).round(1)
            row[label] = span(values.min(), values.max()) if len(values) else "–"
        rows.append(row)
    return tables.captioned(
        rows,
        "Smallest–largest of all processes that told, failed ones too. Major faults: pages that "
        "had to come from the disk while the process ran. A dash: not measured.",
    )


def _head(view: View, kind: Kind) -> dict[str, str]:
    trials = counts(view.of(kind)["status"])
    return {"memory": kind.memory, "reading": kind.way, "trials": trials}


GAP = 0.7
"""Space between one limit and the next, in places."""


@style.styled
def figure(view: View, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw the latency of answers and the spread of the ITL by memory limit and way of reading.

    A point per process, a bar at the median with its interval. A kind of which no process ended
    well is a hatched box with its status. Major faults stand over the points that had them.
    """
    return layout.pair(
        axes,
        view,
        {
            "Total latency": partial(_panel, column="total_s", label="a whole generation, ms"),
            "Spread of the ITL within a process": partial(
                _panel, column="itl_mad_s", label="median absolute deviation, ms"
            ),
        },
        measured=bool(view.measured),
        above="Points: processes; lines: medians with their interval.",
        below="",
        height=4.2,
    )


def _panel(ax: Axes, view: View, column: str, label: str) -> None:
    ways = loading.ranked(kind.way for kind in view.planned)
    looks = dict(zip(ways, zip(style.ramp(len(ways)), style.MARKERS, strict=False), strict=True))
    highest = pd.Series([view.good(kind)[column].max() for kind in view.measured]).max()
    top = highest * MS * 1.35 if highest > 0 else 1.0
    ax.set_ylim(0, top)
    place, ticks = 0.0, []
    for memory in view.memories:
        kinds = [kind for kind in view.planned if kind.memory == memory]
        text = {"ha": "center", "va": "top", "fontweight": "bold"}
        middle = (place + (len(kinds) - 1) / 2, 0.0)
        layout.write(ax, memory, middle, (0, -24), xycoords=ax.get_xaxis_transform(), **text)
        for kind in kinds:
            ticks.append((place, kind.way))
            if kind in view.measured:
                _points(ax, view, kind, column, place, *looks[kind.way])
            else:
                word = counts(view.of(kind)["status"])
                style.hatch_box(ax, place - 0.36, 0, 0.72, top * 0.5, word, rotation=90)
            place += 1.0
        place += GAP
    ax.set_xlim(-0.6, place - GAP - 0.4)
    ax.set_xticks([x for x, _ in ticks], [way for _, way in ticks])
    ax.tick_params(axis="x", length=0)
    ax.set_xlabel("memory of the process", labelpad=26)
    ax.set_ylabel(label)


def _points(
    ax: Axes, view: View, kind: Kind, column: str, x: float, colour: Any, marker: str
) -> None:
    good = view.good(kind)
    values = (good[column] * MS).dropna()
    notes = ["not known"]
    if len(values):
        aside = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(1)
        label = f"_{kind.memory} {kind.way}"
        look: dict[str, Any] = {"color": colour, "alpha": 0.55}
        ax.scatter(x + aside, values, s=20, marker=marker, linewidths=0, label=label, **look)
        found = view.estimate(column, kind).times(MS)
        ax.vlines([x], found.low, found.high, linewidth=2.2, **look)
        ax.plot([x - 0.3, x + 0.3], [found.median] * 2, color=colour, label="_median")
        notes = [number(found.median)]
    faults = good["major_faults"].dropna()
    if column == "total_s" and len(faults) and faults.max() > 0:
        notes.append(f"{span(faults.min(), faults.max())}\nmajor faults")
    bad = view.of(kind)["status"].loc[lambda status: status != "ok"]
    notes += [counts(bad)] if len(bad) else []
    at = (x, float(values.max()) if len(values) else 0.0)
    layout.write(ax, "\n".join(reversed(notes)), at, (0, 6), ha="center", va="bottom", fontsize=9)
