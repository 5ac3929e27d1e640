"""What the settings cost: latency against memory, and memory part by part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llm_latency.questions.sweep.grouping import levels
from llm_latency.questions.sweep.view import View
from llm_latency.records import frame as fr
from llm_latency.report import figure as fig
from llm_latency.report import style
from llm_latency.report.labels import End, label_ends, label_points
from llm_latency.words import MIB, MS, number, setting

MOST_LABELS = 24
"""More points than that keep their colour and marker, without a name."""
COLOURS = dict(zip(fr.PARTS, style.PART_COLOURS, strict=True))


@style.styled
def latency_by_memory(view: View, ax: Axes | None = None) -> Axes:
    """Draw how long each cell takes at the longest prompt against the memory that it takes.

    A stem per cell, from TTFT (hollow) to total latency (filled). The memory is that of the
    process that took most: VRAM where a GPU held layers, else resident memory. The label says
    which, and why.
    """
    own = ax is None
    ax = ax or style.new_axes(8.0, 4.2)
    ax.set_title("Latency by memory")
    good = fr.ok(view.at_longest)
    table = fr.cells(good[good["cell"].isin(view.memory)])
    if table.empty:
        why = f"no {view.memory_word} is known" if len(good) else fr.status_words(view.data)
        return style.say_empty(ax, f"Nothing was measured:\n{why}")
    names = [n for n in fr.keys(view.data) if table[n].map(setting).nunique() > 1] or ["n_batch"]
    hues, marks = levels(table, "n_batch"), levels(table, "n_ctx")
    palette = style.ramp(len(hues))
    points, feet = [], []
    for _, cell in table.iterrows():
        name = cell["cell"]
        if name not in view.ttft or name not in view.total:
            continue
        x = view.memory[name] * MIB
        low, high = view.ttft[name].times(MS), view.total[name].times(MS)
        colour = palette[hues.index(setting(cell["n_batch"]))]
        marker = style.MARKERS[marks.index(setting(cell["n_ctx"])) % len(style.MARKERS)]
        look: dict[str, Any] = {"color": colour, "marker": marker, "ls": "none", "ms": 7}
        ax.vlines([x], low.median, high.median, color=colour, linewidth=1.0, alpha=0.6)
        for value in (low, high):
            ax.vlines([x], value.low, value.high, color=colour, linewidth=4, alpha=0.35)
        ax.plot([x], [low.median], **look, markerfacecolor="white", label=f"_TTFT {name}")
        ax.plot([x], [high.median], **look, markeredgecolor="white", label=name)
        points.append(End(x, high.median, " · ".join(setting(cell[n]) for n in names), colour))
        feet.append(low.median)
    if not points:
        return style.say_empty(ax, "Nothing was measured:\nno latency is known")
    at = np.array([point.x for point in points])
    middle = (at.min() + at.max()) / 2
    # As with the colours of the heatmap: a difference of a few per cent must not fill the axes.
    half = max(0.1 * middle, (at.max() - at.min()) * 0.58)
    ax.set_xlim(middle - half, middle + half)
    ax.set_ylim(0, max(value.high for value in view.total.values()) * MS * 1.16)
    style.subtitle(
        ax,
        f"Prompt of {view.longest:,.0f} tokens. Hollow: TTFT; filled: total latency. "
        f"Labels: {' · '.join(names)}.",
    )
    ax.set_xlabel(f"{view.memory_word}, MiB ({view.memory_why})")
    ax.set_ylabel("latency, ms")
    shown = points[: 2 * MOST_LABELS]
    label_points(ax, shown, feet[: len(shown)])
    style.say_below(ax, style.say_failures(view.data), own)
    return ax


@style.styled
def memory_by_n_ctx(view: View, ax: Axes | None = None) -> Axes:
    """Draw what llama.cpp allocated in each cell, part upon part, and what the system measured.

    Cells of one ``n_ctx`` that take the same memory share a bar.
    """
    ax = ax or style.new_axes(8.0, 4.2)
    ax.set_title("Memory by n_ctx")
    bars = _bars(view.data)
    if not any(bar.parts for bar in bars):
        why = "llama.cpp named no buffers" if len(view.good) else fr.status_words(view.data)
        return style.say_empty(ax, f"No memory was measured:\n{why}")
    top = max(max(sum(bar.parts.values()), bar.peak or 0) for bar in bars)
    places = [float(place) for place in range(len(bars))]
    for later in range(1, len(bars)):  # a gap between one n_ctx and the next
        if bars[later].n_ctx != bars[later - 1].n_ctx:
            places[later:] = [place + 0.5 for place in places[later:]]
    for place, bar in zip(places, bars, strict=True):
        _draw_bar(ax, place, bar, top)
    ax.set_ylim(0, top * 1.1)
    ax.set_xlim(-0.6, places[-1] + 0.6)
    ax.set_xticks(places, [bar.label for bar in bars], fontsize=8.5)
    ax.tick_params(axis="x", length=0)
    lines = 1 + max(bar.label.count("\n") for bar in bars)
    for n_ctx in dict.fromkeys(bar.n_ctx for bar in bars):
        middle = np.mean([x for x, bar in zip(places, bars, strict=True) if bar.n_ctx == n_ctx])
        ax.annotate(
            f"n_ctx {n_ctx}",
            (float(middle), 0),
            (0, -9 - 13 * lines),
            fontweight="bold",
            xycoords=ax.get_xaxis_transform(),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=10,
            annotation_clip=False,
        )
    others = [name for name in fr.keys(view.data) if name != "n_ctx"]
    ax.set_xlabel(f"bars: {' / '.join(others)}", labelpad=24)
    ax.set_ylabel("MiB")
    _label_parts(ax, places[-1] + 0.6, [bar for bar in bars if bar.parts][-1])
    return ax


@dataclass(frozen=True)
class Bar:
    """One bar of memory: cells of one ``n_ctx`` that take the same."""

    n_ctx: str
    label: str
    parts: dict[str, float]
    peak: float | None
    status: str


def _bars(data: pd.DataFrame) -> list[Bar]:
    good = fr.ok(data)
    others = [name for name in fr.keys(data) if name != "n_ctx"]
    found: dict[tuple[Any, ...], list[Bar]] = {}
    for _, cell in fr.cells(data).iterrows():
        mine = good[good["cell"] == cell["cell"]]
        sizes = {name: float(mine[column].median() * MIB) for name, column in fr.PARTS.items()}
        peak = float(mine["rss_peak_bytes"].max() * MIB)
        bar = Bar(
            n_ctx=setting(cell["n_ctx"]),
            label="\n".join(setting(cell[name]) for name in others),
            parts={name: size for name, size in sizes.items() if np.isfinite(size)},
            peak=peak if np.isfinite(peak) else None,
            status="" if len(mine) else fr.status_words(data[data["cell"] == cell["cell"]]),
        )
        alike = tuple(round(part, 1) for part in bar.parts.values())
        found.setdefault((bar.n_ctx, bar.status, alike), []).append(bar)
    return [_merge(bars) for bars in found.values()]


def _merge(bars: list[Bar]) -> Bar:
    """Return the one bar that stands for all that take the same."""
    peaks = [bar.peak for bar in bars if bar.peak is not None]
    # One line per setting; of a bar that stands for several cells, each setting's values.
    levels = [
        list(dict.fromkeys(line)) for line in zip(*(b.label.split("\n") for b in bars), strict=True)
    ]
    label = "\n".join(one[0] if len(one) == 1 else f"{one[0]}–{one[-1]}" for one in levels)
    return replace(bars[0], label=label, peak=max(peaks, default=None))


def _draw_bar(ax: Axes, x: float, bar: Bar, top: float) -> None:
    if not bar.parts:
        word = bar.status or "no buffers named"
        style.hatch_box(ax, x - 0.36, 0, 0.72, top * 0.55, word, rotation=90)
        return
    fig.stack(ax, x, bar.parts, COLOURS, thickness=0.72)
    if bar.peak is not None:
        mark: dict[str, Any] = {"color": style.INK, "solid_capstyle": "butt", "linewidth": 1.6}
        ax.plot([x - 0.42, x + 0.42], [bar.peak] * 2, **mark, label="_RSS peak")
        ax.plot([x], [bar.peak], "D", color=style.INK, markersize=5, label="_RSS peak marker")


def _label_parts(ax: Axes, x: float, bar: Bar) -> None:
    base, ends = 0.0, []
    for name, size in bar.parts.items():
        if size > 0:
            ends.append(End(x, base + size / 2, f"{name} {number(size)}", COLOURS[name]))
        base += size
    if bar.peak is not None:
        text = f"resident at its\npeak {number(bar.peak)}"
        ends.append(End(x, bar.peak, text, style.INK))
    label_ends(ax, ends, leader=True)
