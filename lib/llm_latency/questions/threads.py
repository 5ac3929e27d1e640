"""How many threads, and on which cores: for decode, for prefill, and what one too many costs.

Decode reads every weight for one token, so it is bound by the memory's bandwidth, which a few
cores use up: more threads soon bring nothing. Prefill computes many tokens per pass and is bound
by arithmetic: each further core helps. llama.cpp's threads wait for each other after every
operation. One thread more than there are CPUs, and at each of these barriers all wait for the one
that the system has set aside. ``n_threads`` is for decode and ``n_threads_batch`` for prefill.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from itertools import product
from typing import Annotated, Any, Literal, cast, get_args

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llm_latency.errors import ParameterError
from llm_latency.machine import affinity, limits
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.cores import choices
from llm_latency.plan.own_prompt import PROMPT, PROMPT_FILE
from llm_latency.plan.parameters import as_list, plain, shown
from llm_latency.plan.spec import CoreKind, Cores, Plan, Trial
from llm_latency.records import frame as fr
from llm_latency.records.machines import on_one
from llm_latency.report import figure as fig
from llm_latency.report import layout, phrases, style, tables
from llm_latency.report.page import Answer, Run, model_name, no_answer, parameters_of
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimates, per_process
from llm_latency.words import cpus_listed, percent, several

Part = Literal["decode", "prefill"]
Cell = tuple[int, str]
"""Threads, and the cores that they are kept on."""
THREADS: dict[Part, str] = {"decode": "n_threads", "prefill": "n_threads_batch"}
"""The setting on which each part of an answer depends; it does not depend on the other."""
STEADY = {"faster": "steadier", "slower": "less steady"}
"""Verdicts on how far apart the tokens' times lie."""


def plan(
    model: str = "synthetic:tiny",
    n_threads: Annotated[
        Grid, "threads for decode; []: 1, half, the usable CPUs, one more, twice as many"
    ] = (),
    n_threads_batch: Annotated[Grid, "threads for prefill; 0: as n_threads"] = (0,),
    cores: Annotated[
        Grid, "any, physical, performance or lists, [[0], [0, 1]]; []: the kinds that differ"
    ] = (),
    prompt_tokens: int = 256,
    prompt: Annotated[str, PROMPT] = "",
    prompt_file: Annotated[str, PROMPT_FILE] = "",
    max_tokens: int = 32,
    repeats: int = 1,
    rounds: int = 6,
    **options: Any,
) -> Plan:
    """Plan every combination of threads and cores; what is left open, the machine decides."""
    request = Request("threads", locals(), names.check)
    work = request.asked() | {name: request.one(name) for name in ("max_tokens", "repeats")}
    work["page_cache"] = "resident"
    batches = request.many("n_threads_batch")
    if 0 in batches and len(batches) > 1:
        raise ParameterError(
            f"n_threads_batch={shown(batches)} is refused: 0 stands for n_threads; give it alone, "
            "or numbers."
        )
    return request.plan(
        [
            request.cell(n_threads=threads, n_threads_batch=batch, cores=kept, **work)
            for threads in _threads(request.given["n_threads"]) or [0]
            for batch in batches
            for kept in _cores(request.given["cores"]) or [None]
        ]
    )


def _threads(given: Grid) -> list[Any]:
    """Return the threads that were asked for; none where the machine is to decide."""
    value = plain(given)
    counts = [] if value in ([], (), None) else as_list("n_threads", value)
    if 0 in counts and len(counts) > 1:
        raise ParameterError(
            f"n_threads={shown(counts)} is refused: 0 leaves the choice to the lab; give numbers "
            "alone."
        )
    return [] if counts == [0] else counts


def _cores(given: Grid) -> list[Cores | None]:
    """Return the cores that were asked for; none where the machine is to decide."""
    value = plain(given)
    return [] if value in ([], (), "", None) else choices(value)


def for_this_machine(plan: Plan) -> Plan:
    """Return the plan with the threads and cores that are worth comparing on this machine."""
    given, base = plan.parameters, plan.cells[0]
    if "usable_cpus" in given:  # a stored run goes on with what there was when it began
        return plan
    usable = limits.usable_cpus()
    threads = _threads(given["n_threads"]) or around(usable)
    batches = dict.fromkeys(cell.settings.n_threads_batch for cell in plan.cells)
    every = product(threads, batches, _cores(given["cores"]) or kinds())
    cells = [_cell(base, *values) for values in every]
    # A cell with threads beyond the CPUs would show the noise of a collapse.
    within = [cell for cell in cells if (cell.settings.n_threads or 0) <= usable]
    twin = (within or cells)[-1].model_copy(update={"twin": True})
    here = {"usable_cpus": usable, "why_usable": limits.why_usable()}
    return plan.model_copy(update={"cells": (*cells, twin), "parameters": given | here})


def _cell(base: Trial, threads: int, batch: int | None, cores: Cores | None) -> Trial:
    settings = {"n_threads": threads, "n_threads_batch": batch}
    return base.model_copy(
        update={
            "twin": False,
            "settings": base.settings.model_copy(update=settings),
            "start": base.start.model_copy(update={"cores": cores}),
        }
    )


def around(usable: int) -> list[int]:
    """Return the counts of threads to try: 1, half, the usable, one more, and twice as many."""
    return sorted({1, usable // 2 or 1, usable, usable + 1, 2 * usable})


def kinds() -> list[Cores | None]:
    """Return the kinds of cores that are not the same CPUs here, any first."""
    found: dict[tuple[int, ...], Cores | None] = {limits.allowed_cpus(): None}
    for kind in get_args(CoreKind):
        with contextlib.suppress(ParameterError):  # this system does not tell them
            found.setdefault(affinity.chosen(kind) or (), kind)
    return list(found.values())


class View:
    """The threads and cores of a run, and how each compares with the quickest.

    Attributes
    ----------
    speed, best, against : dict
        By part: tokens per second of each cell, the quickest one, and how each other compares.
    usable : int or None
        Threads that the machine may keep busy, by its affinity, quota and cores.
    """

    def __init__(self, run: Run) -> None:
        run = on_one(run)
        self.info, rows = run.info, run.frame()
        batch = rows["n_threads_batch"].fillna(rows["n_threads"])
        self.rows = rows.assign(n_threads_batch=batch, itl_spread=rows["itl_s"].map(_spread))
        self.data = fr.by_cell(self.rows)
        self.speed = {part: self._speed(part) for part in THREADS}
        self.best = {part: _quickest(cells) for part, cells in self.speed.items()}
        self.against = {
            part: {c: self.compare(part, best, c) for c in self.speed[part] if best and c != best}
            for part, best in self.best.items()
        }
        given = parameters_of(self.info)
        self.usable: int | None = given.get("usable_cpus")

    def _speed(self, part: Part) -> dict[Cell, Estimate]:
        found = estimates(self.data, f"{part}_tps", [THREADS[part], "cores"])
        return {(int(key[0]), key[1]): value for key, value in found.items() if value.n}

    def compare(self, part: Part, a: Cell, b: Cell, column: str = "") -> Comparison:
        """Compare the times of cell B with those of cell A, round by round."""
        column = column or f"{part}_s"

        def times(cell: Cell) -> pd.Series[float]:
            named: dict[str, Any] = dict(zip((THREADS[part], "cores"), cell, strict=True))
            return samples(self.rows, column, **named)

        pair = times(a), times(b)
        return compare(pair[0], pair[1], noise_floor(self.rows, column))

    def enough(self, part: Part) -> tuple[Cell | None, list[Cell]]:
        """Return the fewest threads that are as quick as the quickest, and what is undecided."""
        best, against = self.best[part], self.against[part]
        if best is None:
            return None, []
        equal = [cell for cell, found in against.items() if found.verdict in ("same", "faster")]
        chosen = min([best, *equal], key=_size)
        doubtful = [cell for cell, found in against.items() if found.verdict == "undecided"]
        return chosen, sorted((c for c in doubtful if c[0] < chosen[0]), key=_size)

    def too_many(self, part: Part) -> tuple[Cell, Cell, Comparison] | None:
        """Return the most threads within the usable CPUs, the fewest beyond, and what they cost."""
        every = {kept for _, kept in self.speed[part]}
        cores = "any" if "any" in every else (self.best[part] or (0, ""))[1]
        room = self.usable or 0
        if cores[:1].isdigit():
            room = min(room, len(cpus_listed(cores)))
        counts = sorted(threads for threads, kept in self.speed[part] if kept == cores)
        within = [count for count in counts if count <= room]
        beyond = [count for count in counts if count > room]
        if not within or not beyond:
            return None
        a, b = (within[-1], cores), (beyond[0], cores)
        return a, b, self.compare(part, a, b)

    def pinned(self) -> tuple[Cell, Cell] | None:
        """Return decode's quickest unpinned cell, and the quickest pinned with as many threads."""
        speed = self.speed["decode"]
        free = _quickest({cell: value for cell, value in speed.items() if cell[1] == "any"})
        alike = {c: value for c, value in speed.items() if free and c[0] == free[0] and c != free}
        kept = _quickest(alike)
        return (free, kept) if free and kept else None

    def between(self, cell: Cell) -> float:
        """Return how far a cell's processes are apart in decode, relative to their median."""
        each = per_process(self.data, "decode_tps", ["n_threads", "cores"]).dropna()
        mine = each.loc[(each["n_threads"] == cell[0]) & (each["cores"] == cell[1]), "decode_tps"]
        return float((mine.max() - mine.min()) / mine.median()) if len(mine) else float("nan")


def _quickest(speed: dict[Cell, Estimate]) -> Cell | None:
    return max(speed, key=lambda cell: speed[cell].median, default=None)


def _spread(itl_s: Any) -> float:
    """Return how far apart the times between tokens lie: four fifths of them, by their median."""
    if not isinstance(itl_s, list) or len(itl_s) < 3:
        return float("nan")
    low, middle, high = np.quantile(itl_s[1:], [0.1, 0.5, 0.9])
    return float((high - low) / middle) if middle else float("nan")


def _size(cell: Cell) -> tuple[int, bool, str]:
    """Order cells by what they take: fewer threads first, and unpinned before pinned."""
    return cell[0], cell[1] != "any", cell[1]


def deciding(view: View) -> list[Comparison]:
    """Return the comparisons on which the answer rests."""
    return [found for against in view.against.values() for found in against.values()]


def answer(view: View) -> Answer:
    """Answer how many threads are enough for each part, and what others cost."""
    if nothing := no_answer(view.data):
        return nothing
    chosen = {part: cell for part in THREADS if (cell := view.enough(part)[0])}
    if not chosen:
        return Answer("no speed could be timed", "none", "", ("No speed could be timed.",))
    found = deciding(view)
    sentences = [_enough(view, part, chosen[part]) for part in chosen]
    sentences += [_too_many(view), _pinned(view), phrases.noise(found)]
    return Answer(
        "; ".join(f"{part}: {several(cell[0], 'thread')}" for part, cell in chosen.items()),
        _verdict(view, next(iter(chosen))),
        phrases.sureness(found) if found else "nothing to compare with",
        tuple(filter(None, sentences)),
    )


def _verdict(view: View, part: Part) -> str:
    """Return the word on fewer threads than are advised."""
    chosen, undecided = view.enough(part)
    if undecided or not view.against[part]:
        return "undecided" if undecided else "measured"
    fewer = [cell for cell in view.against[part] if chosen and cell[0] < chosen[0]]
    told_apart = chosen == view.best[part] and fewer
    return view.against[part][max(fewer, key=_size)].verdict if told_apart else "same"


def _enough(view: View, part: Part, chosen: Cell) -> str:
    """Say how many threads are enough, and how fast that is."""
    best, against = view.best[part], view.against[part]
    speed = phrases.estimate(view.speed[part][chosen], "tok/s", bold=False)
    head = f"With {model_name(view.info)}, decode" if part == "decode" else "Prefill"
    text = f"{head} needs **{_name(chosen)}**: {speed}"
    if chosen != best and best is not None:
        text += f", not told from the quickest, {_name(best)}"
    fewer = [cell for cell in against if cell[0] < chosen[0]]
    if undecided := view.enough(part)[1]:
        return f"{text}; whether {_name(undecided[0])} would do is {phrases.UNDECIDED}."
    if fewer and chosen == best:
        nearest = max(fewer, key=_size)
        return f"{text}; {_name(nearest)} takes {phrases.difference(against[nearest])}."
    return f"{text}."


def _too_many(view: View) -> str:
    """Say what threads beyond the usable CPUs cost."""
    if (found := view.too_many("decode")) is None:
        return ""
    a, b, compared = found
    return (
        f"Beyond what can be kept busy, {_name(b)} in place of {a[0]} decode in a time "
        f"{phrases.difference(compared)}."
    )


def _pinned(view: View) -> str:
    """Say whether it steadies to keep the process on its cores."""
    if (pair := view.pinned()) is None:
        return ""
    free, kept = pair
    steady = view.compare("decode", free, kept, "itl_spread")
    return (
        f"Kept on {_where(kept[1])}, {several(kept[0], 'thread')} decode in a time "
        f"{phrases.difference(view.compare('decode', free, kept))}; its tokens' times lie apart "
        f"{phrases.difference(steady, 'more', 'less', STEADY)}, and its processes "
        f"{percent(view.between(kept))}, free {percent(view.between(free))}."
    )


def _where(cores: str) -> str:
    """Return where threads are kept, in words; empty: anywhere."""
    if cores in get_args(CoreKind):
        return f"{cores} cores"
    return "" if cores == "any" else f"CPU{'' if cores.isdigit() else 's'} {cores}"


def _name(cell: Cell) -> str:
    where = _where(cell[1])
    return several(cell[0], "thread") + (f" on {where}" if where else "")


def table(view: View) -> pd.DataFrame:
    """Return one row per combination: speeds, against the quickest, and how steady they are."""
    keys = [*THREADS.values(), "cores"]
    spread = estimates(view.data, "itl_spread", keys) if len(view.data) else {}
    rows = []
    for combination, part in view.data.groupby(keys):
        decoding, reading, cores = cast(tuple[int, int, str], combination)
        cells: dict[Part, Cell] = {"decode": (decoding, cores), "prefill": (reading, cores)}
        row: dict[str, Any] = {
            "n_threads": f"{decoding:.0f}",
            "n_threads_batch": f"{reading:.0f}",
            "cores": cores,
            "ran on": ", ".join(part["effective_cores"].dropna().unique()) or "–",
            "trials": fr.status_words(part),
        }
        for name, cell in cells.items():
            speed = view.speed[name].get(cell)
            word = "quickest" if cell == view.best[name] else "–"
            found = view.against[name].get(cell)
            row[f"{name}, tok/s"] = phrases.short(speed) if speed else "–"
            row[f"{name} against the quickest"] = phrases.change(found) if found else word
        row["decode, between processes"] = percent(view.between(cells["decode"]))
        row["times between tokens"] = percent(spread[decoding, reading, cores].median)
        rows.append(row)
    return tables.captioned(
        rows,
        "Decode depends on n_threads, prefill on n_threads_batch: each is one estimate over all "
        "rows that share it. Between processes: largest less smallest, by the median. Times "
        f"between tokens: how far apart four fifths of them lie, by the median. {phrases.BRACKETS}",
    )


@style.styled
def figure(view: View, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw decode and prefill speed by threads, a line per choice of cores."""
    panels = {
        "Decode by n_threads": _drawn("decode"),
        "Prefill by n_threads_batch": _drawn("prefill"),
    }
    return layout.pair(axes, view, panels, measured=any(view.speed.values()))


def _drawn(part: Part) -> Callable[[Axes, View], None]:
    """Return what draws one part; each count of threads stands one step beside the next."""

    def draw(ax: Axes, view: View) -> None:
        column, speed = THREADS[part], f"{part}_tps"
        each = per_process(view.data, speed, [column, "cores"]).dropna()
        if each.empty:
            style.say_unmeasured(ax, view.data)
            return
        counts = sorted(view.data[column].dropna().unique())
        each = each.assign(place=each[column].map(counts.index))
        ax.set_xlim(-0.4, len(counts) - 0.6)
        ax.set_ylim(0, each[speed].max() * 1.08)
        ax.set_xticks(range(len(counts)), [f"{count:.0f}" for count in counts])
        ax.set_xlabel(f"{column}, of equal distance")
        ax.set_ylabel("tokens per second")
        if view.usable and counts[-1] > view.usable:
            edge = sum(count <= view.usable for count in counts) - 0.5
            ax.axvline(edge, color=style.INK, linewidth=1.2, linestyle=(0, (4, 3)))
            layout.write(ax, "more than can be busy", (edge, ax.get_ylim()[1]), (4, -8), fontsize=9)
        by_cores = dict(list(each.groupby("cores", sort=False)))
        several_lines = len(by_cores) > 1
        style.subtitle(ax, "Lines: cores. " * several_lines + "Points: processes.")
        drawn = [
            fig.line_of((_where(str(kept)) or "any") * several_lines, rows, "place", speed)
            for kept, rows in by_cores.items()
        ]
        fig.lines(ax, drawn, zero=False)

    return draw
