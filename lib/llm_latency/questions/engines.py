"""Which build of the engine is faster, and at what? The same trial by each, in the same rounds.

An engine is an environment with its own llama.cpp: another backend, other instructions of the CPU,
another release. Prefill is bound by arithmetic, and there a device or wider instructions show;
decode reads every weight once per token and is bound by memory, so it gains less; loading also has
to make a device ready. Builds that are measured on two days differ by the days: here each round has
every engine, in shuffled order, and one of them twice, to show what equal ones differ by.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llm_latency.machine import interpreters
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.spec import HOME, Plan
from llm_latency.records import frame as fr
from llm_latency.records.machines import on_one
from llm_latency.report import cards, layout, phrases, style
from llm_latency.report.page import Answer, Run, model_name, no_answer
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimate, per_process
from llm_latency.words import MIB, MS, escape, file_name, number

TIMES = {"token": "token_s", "TTFT": "ttft_s", "load": "load_s"}
"""What is compared, and its columns."""
DECIDING = ("token_s", "ttft_s")
MEMORY = {"slower": "more", "faster": "less"}
"""What the verdicts on times mean of memory."""
ANOTHER = "make another with 'python bootstrap.py --engine … --name …'"


def plan(
    model: str = "synthetic:tiny",
    engine: Annotated[
        Grid, "environments of bootstrap.py --name; home: this one; all: all that there are"
    ] = "all",
    prompt_tokens: Annotated[int, "length of the prompt, in tokens"] = 256,
    max_tokens: int = 32,
    n_ctx: int = 512,
    rounds: int = 6,
    repeats: int = 2,
    **options: Any,
) -> Plan:
    """Plan the same trial by every engine; the others are compared with the first."""
    request = Request("engines", locals(), names.check)
    asked = request.many("engine")
    if "all" in asked:
        request.given["engine"] = asked = interpreters.there_are()
    cells = [
        request.cell(
            prompt_tokens=request.one("prompt_tokens"),
            max_tokens=request.one("max_tokens"),
            repeats=request.one("repeats"),
            page_cache="resident",
            engine=one,
        )
        for one in asked
    ]
    for cell in cells:  # a misspelt name is told before the page makes a model
        interpreters.interpreter(cell.start.engine)
    return request.plan(cells, twins=cells[:1])


class View:
    """The engines of a run, each beside the first.

    Attributes
    ----------
    data, good : pandas.DataFrame
        Rows that count, and those that may enter an estimate, with ``token_s``: seconds per token
        after the first.
    planned, measured : list of str
        The engines that were tried, and those that were measured, in their order.
    base : str
        The first, with which the others are compared.
    """

    def __init__(self, run: Run) -> None:
        run = on_one(run)
        rows = run.frame()
        later = (rows["generated_tokens"] - 1).where(lambda count: count > 0)
        self.rows = rows.assign(token_s=rows["decode_s"] / later)
        self.info, self.data = run.info, fr.by_cell(self.rows)
        self.good = fr.ok(self.data)
        cells = (self.info.get("plan") or {}).get("cells") or []
        asked = [start.get("engine") or HOME for cell in cells if (start := cell.get("start"))]
        # Of rows alone the twin tells which was the first.
        told = [*asked, *rows.loc[rows["twin"], "engine"], *self.data["engine"]]
        order = list(dict.fromkeys(one for one in told if one is not None))
        tried, known = (set(part["engine"]) for part in (self.data, self.good))
        self.planned = [name for name in order if name in tried]
        self.measured = [name for name in self.planned if name in known]
        self.base = order[0] if order else HOME

    @property
    def others(self) -> list[str]:
        """The engines that can be compared with the first."""
        return [one for one in self.measured if one != self.base and self.base in self.measured]

    def estimate(self, name: str, column: str) -> Estimate:
        """Return the estimate of a column over the processes of an engine."""
        part = self.good[self.good["engine"] == name]
        return estimate(per_process(part, column, ["engine"])[column])

    def against(self, name: str, column: str) -> Comparison:
        """Compare an engine with the first, round by round."""
        pair = [samples(self.rows, column, engine=one) for one in (self.base, name)]
        return compare(pair[0], pair[1], noise_floor(self.rows, column))

    def farthest(self, columns: Sequence[str]) -> tuple[str, Comparison]:
        """Return the engine that differs most from the first in one of these, and by what."""
        found = [(one, self.against(one, column)) for column in columns for one in self.others]
        return max(found, key=lambda pair: _size(pair[1]))


def _size(found: Comparison) -> float:
    return abs(math.log(found.ratio.median)) if found.ratio.n else -1.0


def deciding(view: View) -> list[Comparison]:
    """Return the comparisons on which the answer rests."""
    return [view.against(name, column) for name in view.others for column in DECIDING]


def answer(view: View) -> Answer:
    """Answer which engine is faster at a token, at the prompt and at loading, and what it takes."""
    if nothing := no_answer(view.data):
        return nothing
    base = escape(file_name(view.base))
    if not view.others:
        lacking = f"{base} was not measured"
        if view.measured == [view.base]:
            lacking = f"{base} is the only engine that was measured; {ANOTHER}"
        return Answer(lacking, "undecided", "", (f"Nothing is compared: {lacking}.",))
    tokens = int(view.good["prompt_tokens"].max())
    sentences = (
        f"With {model_name(view.info)}, {_told(view, 'a token takes', 'token_s')}",
        _told(view, f"TTFT after a prompt of {tokens:,} tokens is", "ttft_s"),
        _told(view, "Loading takes", "load_s"),
        _memory(view),
        phrases.noise(deciding(view)),
    )
    name, found = view.farthest(DECIDING)
    told = "; ".join(
        f"{word} {phrases.change(view.against(name, column))}"
        for word, column in TIMES.items()
        if column in DECIDING
    )
    line = f"{escape(file_name(name))} against {base}: {told}"
    sure = phrases.sureness(deciding(view))
    return Answer(line, found.verdict, sure, tuple(filter(None, sentences)))


def _told(view: View, what: str, column: str) -> str:
    """Say what the first engine takes, and every other against it, the farthest at length."""
    name, found = view.farthest([column])
    rest = [
        f"by {escape(file_name(one))} {phrases.change(view.against(one, column))}"
        for one in view.others
        if one != name
    ]
    first = phrases.estimate(view.estimate(view.base, column), "ms")
    long = f"by {escape(file_name(name))} {phrases.difference(found)}"
    return f"{what} {first} by {escape(file_name(view.base))}; {'; '.join([long, *rest])}."


def _memory(view: View) -> str:
    """Say what a process holds at its peak, and what of a device."""
    told = [
        f"{escape(file_name(one))} {phrases.change(view.against(one, 'rss_peak_bytes'), MEMORY)}"
        for one in view.others
    ]
    peak = view.estimate(view.base, "rss_peak_bytes")
    if not peak.n:
        return ""
    first = escape(file_name(view.base))
    return f"RAM at its peak: {first} {phrases.median(peak, 'MiB')}; {'; '.join(told)}."


def table(view: View) -> pd.DataFrame:
    """Return one row per engine: its times, each against the first, its speed and its memory."""
    rows = []
    for name in view.planned:
        part = view.data[view.data["engine"] == name]
        row = {"engine": file_name(name), "trials": fr.status_words(part)}
        for title, column in TIMES.items():
            row[f"{title}, ms"] = phrases.short(view.estimate(name, column), "ms")
            row[f"{title} against {file_name(view.base)}"] = _change(view, name, column)
        row["prefill, tok/s"] = phrases.short(view.estimate(name, "prefill_tps"))
        row["decode, tok/s"] = phrases.short(view.estimate(name, "decode_tps"))
        row["import of the library, ms"] = number(view.estimate(name, "import_s").median * MS)
        row["layers on a device"] = number(view.estimate(name, "effective_n_gpu_layers").median, 0)
        row["RSS peak, MiB"] = number(view.estimate(name, "rss_peak_bytes").median * MIB)
        row["RSS peak against it"] = _change(view, name, "rss_peak_bytes", MEMORY)
        row["VRAM, MiB"] = number(view.estimate(name, "vram_process_bytes").median * MIB)
        rows.append(row)
    made = pd.DataFrame(rows)
    made.attrs["caption"] = f"Token: each after the first. {phrases.BRACKETS}"
    return made


def _change(view: View, name: str, column: str, words: dict[str, str] | None = None) -> str:
    return phrases.change(view.against(name, column), words) if name in view.others else "–"


def builds(view: View) -> pd.DataFrame:
    """Return the builds side by side, and the features in which they differ."""
    return cards.engines(view.info)


@style.styled
def figure(view: View, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw what a token, the first token and loading take by each engine, from zero."""
    return layout.pair(
        axes,
        view,
        {
            "Each token": partial(_bars, column="token_s", named=True),
            "First token": partial(_bars, column="ttft_s"),
            "Loading": partial(_bars, column="load_s"),
        },
        measured=bool(view.measured),
        above="Bars: medians; points: processes; lines: intervals; words: against the first.",
        height=1.9 + 0.62 * max(2, len(view.planned)),
    )


def _bars(ax: Axes, view: View, column: str, named: bool = False) -> None:
    every = per_process(view.good, column, ["engine"])
    reach = float(np.nan_to_num(every[column].max())) * MS or 1.0
    for at, name in enumerate(view.planned):
        if name not in view.measured:
            word = fr.status_words(view.data[view.data["engine"] == name])
            style.hatch_box(ax, 0, at - 0.26, reach * 0.6, 0.52, word)
            continue
        found = view.estimate(name, column).times(MS)
        if not found.n:
            continue
        colour = style.RAMP(0.3) if name == view.base else style.RAMP(0.62)
        ax.barh(at, found.median, 0.5, color=colour, label="_median")
        points = every.loc[every["engine"] == name, column] * MS
        ax.scatter(points, [at + 0.34] * len(points), s=12, color=style.MUTED, alpha=0.7,
                   linewidths=0, label="_processes")  # fmt: skip
        ax.hlines(at + 0.34, found.low, found.high, color=style.INK, linewidth=1.3)
        told = re.sub(r" [\[(].*[\])]", "", _change(view, name, column)).removesuffix("–")
        text = f"{number(found.median)} ms\n{told}".rstrip()
        layout.write(ax, text, (found.median, at), (5, 0), fontsize=8.5)
    shown = [(at, file_name(name) if named else "") for at, name in enumerate(view.planned)]
    layout.rows(ax, shown, -0.6, len(view.planned) - 0.3)
    ax.set_xlim(0, reach * 1.8)
    ax.set_xlabel("ms")
