"""The cold start: why the first reply after a start is late, and what of it is the disk.

A start is a sequence: Python imports the engine, the engine initialises its backend, brings the
model's file into memory, allocates and zeroes the KV cache, evaluates the prompt and samples the
first token. Bringing the file in costs ``bytes / bandwidth``, of the disk where the file is not in
the page cache, of RAM where it is; everything else is paid in both cases. So the disk's part is
the difference of two starts that differ in nothing but the file's place, taken round by round.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple, get_args

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llm_latency.model import names
from llm_latency.plan import loading
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.spec import PageCache, Plan
from llm_latency.records import frame as fr
from llm_latency.records.machines import on_one
from llm_latency.report import clock, layout, phrases, style
from llm_latency.report import figure as fig
from llm_latency.report.page import Answer, Run, model_name, no_answer
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimate
from llm_latency.words import MIB, MS, number, percent, several, span

REPLACED = loading.REPLACED

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
"""Columns of the parts of a start, in their order."""


def plan(
    model: str = "synthetic:tiny",
    reading: Annotated[Grid, "map the file, copy it, or map and lock it"] = (
        "mmap",
        "read",
        "mlock",
    ),
    page_cache: Annotated[Grid, "the file at start: on the disk, or in RAM"] = (
        "evicted",
        "resident",
    ),
    prompt_tokens: Annotated[int, 'length of the prompt; 12 is "Bonjour, comment vas-tu ?"'] = 12,
    max_tokens: int = 40,
    rounds: int = 6,
    repeats: int = 1,
    **options: Any,
) -> Plan:
    """Plan every way of reading the file, from the disk and from RAM."""
    request = Request("cold_start", locals(), names.check, REPLACED)
    ways = request.chosen("reading", loading.READING)
    states = request.chosen("page_cache", get_args(PageCache))
    cells = {
        (state, way): request.cell(
            prompt_tokens=request.one("prompt_tokens"),
            max_tokens=request.one("max_tokens"),
            repeats=request.one("repeats"),
            page_cache=state,
            **loading.READING[way],
        )
        for state in states
        for way in ways
    }
    # Starts from the disk scatter more than starts from RAM: each state has a noise of its own.
    return request.plan(list(cells.values()), twins=[cells[state, ways[0]] for state in states])


class Start(NamedTuple):
    """One way of reading the file under one state of the page cache."""

    page_cache: str
    way: str

    @property
    def words(self) -> str:
        """Both in words: ``evicted, mmap``."""
        return f"{self.page_cache}, {self.way}"


class View:
    """The starts of a run. The sample is the process, with its first generation.

    Attributes
    ----------
    planned : list of Start
        Every start that was tried, in order: the disk first.
    measured : list of Start
        Those of them in which something was measured.
    """

    def __init__(self, run: Run) -> None:
        run = on_one(run)
        rows = run.frame()
        loads = ["backend_init_s", "model_load_s", "context_s", "warm_up_s"]
        rows = rows.assign(
            rest_s=rows["load_s"] - rows[loads].sum(axis=1, skipna=False),
            after_prefill_s=rows["ttft_s"] - rows["prefill_s"],
            after_first_s=rows["total_s"] - rows["ttft_s"],
            first_token_s=rows["load_s"] + rows["ttft_s"],
            start_s=rows["import_s"] + rows["load_s"] + rows["total_s"],
            read_in_first_bytes=rows["read_after_first_bytes"] - rows["read_after_load_bytes"],
        )
        self.info = run.info
        self.data = fr.by_cell(rows)
        self.first, self.later = rows[rows["repeat"] == 0], rows[rows["repeat"] >= 1]
        self.planned = _starts(rows)
        complete = fr.ok(self.first).dropna(subset=["ttft_s", "load_s"])
        self.measured = [start for start in self.planned if start in _starts(complete)]

    @property
    def parts(self) -> dict[str, str]:
        """Columns of the parts that any start has; a warm-up only where there was one."""
        warmed = bool((self.first["warm_up_s"] > 0).any())
        return {name: column for name, column in PARTS.items() if name != "warm-up" or warmed}

    @property
    def uncontrolled(self) -> int:
        """How many processes began with the page cache in another state than was asked for."""
        begun = fr.counted(fr.ok(self.first))
        return int((begun["effective_page_cache"] != begun["page_cache"]).sum())

    def samples(self, column: str, start: Start, *, later: bool = False) -> pd.Series[float]:
        """Return one number per round: of the first generation, or of the ``later`` ones."""
        rows = self.later if later else self.first
        return samples(
            rows, column, within="median", page_cache=start.page_cache, reading=start.way
        )

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
        floors = [
            noise_floor(self.first[self.first["page_cache"] == state], column, "median")
            for state in {base.page_cache, other.page_cache}
        ]
        known = [floor for floor in floors if floor is not None]
        return compare(a, b, max(known) if len(known) == len(floors) else None)

    def pairs(self) -> list[tuple[Start, Start]]:
        """Return the starts from RAM, each with the one from the disk of the same way."""
        both = [
            (Start("resident", start.way), start)
            for start in self.measured
            if start.page_cache == "evicted"
        ]
        return [pair for pair in both if pair[0] in self.measured]

    def soonest(self, state: str) -> list[Start]:
        """Return the starts measured in a state of the page cache, the soonest first."""
        of_state = [start for start in self.measured if start.page_cache == state]
        return sorted(of_state, key=lambda s: self.estimate("first_token_s", s).median)

    def largest_part(self, start: Start) -> tuple[str, float]:
        """Return the part with the largest median, and that median in seconds."""
        medians = {n: self.estimate(column, start).median for n, column in self.parts.items()}
        name = max(medians, key=lambda part: np.nan_to_num(medians[part], nan=-1.0))
        return name, medians[name]

    def how_ended(self, start: Start) -> str:
        """Return how the processes of a start ended, ``ok 5, invalid 1``."""
        rows = self.data
        return fr.status_words(
            rows[(rows["page_cache"] == start.page_cache) & (rows["reading"] == start.way)]
        )


def _starts(rows: pd.DataFrame) -> list[Start]:
    """Return the starts of some rows: the disk before RAM, the ways in their own order."""
    pairs = {Start(p, w) for p, w in zip(rows["page_cache"], rows["reading"], strict=True)}
    ways = loading.ranked([start.way for start in pairs])
    states = sorted(loading.STATES, key=lambda state: state != "evicted")
    return sorted(pairs, key=lambda s: (states.index(s.page_cache), ways.index(s.way)))


def deciding(view: View) -> list[Comparison]:
    """Return the comparisons on which the answer rests."""
    if not view.measured:
        return []
    best, *others = view.soonest(view.measured[0].page_cache)
    pairs = [*view.pairs(), *((best, other) for other in others)]
    return [view.compare("first_token_s", *pair) for pair in pairs]


def answer(view: View) -> Answer:
    """Answer what a start takes, what of it is the disk, and which way of reading is soonest."""
    if nothing := no_answer(view.data):
        return nothing
    start = view.measured[0]
    whole, (part, part_s) = view.estimate("start_s", start), view.largest_part(start)
    sentences = [
        f"With {model_name(view.info)}, the {loading.STATES[start.page_cache]}, brought in by "
        f"{start.way}, a start takes {phrases.estimate(whole, 'ms')} from the engine's import to "
        f"the last token; its largest part is **{part}**, {phrases.amount(part_s, 'ms')} "
        f"({percent(part_s / whole.median)})."
    ]
    disk, compared = _disk(view)
    sentences.append(disk)
    best, *others = view.soonest(start.page_cache)
    against = [view.compare("first_token_s", best, other) for other in others]
    if others:
        sentences.append(_soonest(best, others, against))
    beyond = view.beyond_later("ttft_s", start)
    if beyond.n:
        sentences.append(
            f"The first token of a process comes {phrases.estimate(beyond, 'ms', bold=False)} "
            "later than that of its next generations."
        )
    sentences.append(phrases.noise([*compared, *against]))
    of_whole = percent(part_s / whole.median)
    line = f"a start takes {phrases.median(whole, 'ms')}, of it {part} {of_whole}"
    if compared:
        extra = view.difference("first_token_s", *view.pairs()[0])
        line += f"; the disk's part is {phrases.median(extra, 'ms')}"
    word = compared[0].verdict if compared else "measured"
    sure = phrases.sureness([*compared, *against])
    return Answer(line, word, sure, tuple(filter(None, sentences)))


def _disk(view: View) -> tuple[str, list[Comparison]]:
    """Say what a start from the disk takes longer than one from RAM."""
    if lost := view.uncontrolled:
        return (
            f"What the disk does is {phrases.UNDECIDED}: in "
            f"{several(lost, 'process', 'processes')} the page cache was not brought into the "
            "state that was asked for.",
            [],
        )
    if not (pairs := view.pairs()):
        return (
            f"What of it is the disk is {phrases.UNDECIDED}: no way of reading was measured both "
            "with the file on the disk and with it in RAM.",
            [],
        )
    found = [view.compare("first_token_s", *pair) for pair in pairs]
    extra = view.difference("first_token_s", *pairs[0])
    whole_s = view.estimate("first_token_s", pairs[0][1]).median
    share = f" of {phrases.amount(whole_s, 'ms')} to the first token" if extra.n else ""
    return (
        f"**The disk's part** is {phrases.estimate(extra, 'ms')}{share}: a start from the disk "
        f"takes {phrases.difference(found[0])}.",
        found,
    )


def _soonest(best: Start, others: list[Start], against: list[Comparison]) -> str:
    """Say whether the way with the lowest median is the soonest."""
    judged = {frozenset({"slower"}): "is the soonest", frozenset({"same"}): "is no sooner"}
    word = judged.get(frozenset(c.verdict for c in against), "has the lowest median")
    rest = "; ".join(
        f"{other.way} {phrases.change(found)}" for other, found in zip(others, against, strict=True)
    )
    return f"**{best.way}** {word}; against it: {rest}."


def table(view: View) -> pd.DataFrame:
    """Return every start as a column: its parts in ms, what was read, faulted and locked."""
    columns: dict[str, list[str]] = {}
    for start in view.planned:
        counts = view.estimate("first_token_s", start).n
        cells = {"trials": view.how_ended(start), "n": str(counts or "–")}
        for name, column in view.parts.items():
            cells[f"{name}, ms"] = phrases.median(view.estimate(column, start).times(MS))
        for name, column in {"load and TTFT": "first_token_s", "whole start": "start_s"}.items():
            cells[f"{name}, ms"] = phrases.short(view.estimate(column, start), "ms")
        against = Start("resident", start.way)
        if start.page_cache == "evicted" and (against, start) in view.pairs():
            cells["against the file in RAM"] = phrases.change(
                view.compare("first_token_s", against, start)
            )
            extra = view.difference("first_token_s", against, start)
            cells["the disk's part, ms"] = phrases.short(extra, "ms")
        beyond = view.beyond_later("ttft_s", start)
        cells["first TTFT beyond the next, ms"] = phrases.short(beyond, "ms")
        for name, (column, factor) in {
            "read while loading, MiB": ("read_bytes", MIB),
            "read in the first generation, MiB": ("read_in_first_bytes", MIB),
            "major faults": ("major_faults", 1.0),
            "locked, MiB": ("locked_after_load_bytes", MIB),
            "file in RAM before, %": ("resident_before", 100.0),
        }.items():
            values = np.round(view.samples(column, start).to_numpy(dtype=float) * factor, 1)
            cells[name] = span(float(values.min()), float(values.max())) if len(values) else "–"
        columns[start.words] = cells  # type: ignore[assignment]
    made = pd.DataFrame(columns).fillna("–").rename_axis("").reset_index()
    made.attrs["caption"] = (
        f"Parts: medians over processes, whose sum need not be the median of the whole. "
        f"{phrases.BRACKETS} Bytes, faults and shares: smallest–largest."
    )
    return made


HEIGHT = 0.66


@style.styled
def figure(view: View, ax: Axes | None = None) -> Axes:
    """Draw each start as one bar, part after part, from the engine's import to the last token.

    Parts are medians over processes; the whole has its median and interval as a black mark, and
    a point per process.
    """
    own = ax is None
    ax = ax or style.new_axes(8.0, 1.9 + 0.42 * max(len(view.planned), 2))
    ax.set_title("What a start takes, from the engine's import to the last token", pad=26)
    if not view.measured:
        return style.say_unmeasured(ax, view.data)
    medians = {
        start: {n: view.estimate(c, start).median * MS for n, c in view.parts.items()}
        for start in view.measured
    }
    longest = [sum(v for v in parts.values() if v == v) for parts in medians.values()]
    longest += [float(v) * MS for start in view.measured for v in view.samples("start_s", start)]
    reach = max(longest) * 1.16
    ax.set_xlim(0, reach)
    y, ticks, state = 0.0, [], ""
    for start in view.planned:
        if start.page_cache != state:
            head = f"{loading.STATES[start.page_cache]} at the start"
            ax.text(0, y, head, va="center", fontweight="bold", fontsize=9.5)
            state, y = start.page_cache, y + 0.85
        ticks.append((y, start.way))
        if start in view.measured:
            end = fig.stack(
                ax, y, medians[start], clock.COLOURS, thickness=HEIGHT, lying=True, reach=reach
            )
            _mark_whole(ax, view, start, y, end)
        else:
            style.hatch_box(ax, 0, y - HEIGHT / 2, reach / 2, HEIGHT, view.how_ended(start))
        y += 1.0
    layout.rows(ax, ticks, -0.6, y - 0.4)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("ms; parts: medians; black: median and interval of the whole; points: processes")
    layout.key(ax, {name: clock.COLOURS[name] for name in view.parts}, -0.06)
    style.say_below(ax, style.say_failures(view.data), own)
    return ax


def _mark_whole(ax: Axes, view: View, start: Start, y: float, end: float) -> None:
    """Mark the median and interval of a whole start, and its processes, under its bar."""
    whole = view.estimate("start_s", start).times(MS)
    if not whole.n:
        return
    points, low = view.samples("start_s", start) * MS, y + HEIGHT / 2 + 0.1
    ink: dict[str, Any] = {"color": style.INK, "label": "_whole", "solid_capstyle": "butt"}
    ax.scatter(points, [low] * len(points), s=16, color=style.MUTED, alpha=0.8, label="_processes")
    ax.plot([whole.low, whole.high], [low, low], linewidth=1.4, zorder=1.5, **ink)
    ax.plot([whole.median] * 2, [y - HEIGHT / 2, low + 0.06], linewidth=2.0, **ink)
    right = max(end, whole.high, float(points.max()))
    layout.write(ax, f"{number(whole.median)} ms", (right, y), (6, 0), fontweight="bold")
