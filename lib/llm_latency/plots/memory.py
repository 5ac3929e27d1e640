"""What the settings cost: latency against memory, and memory part by part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llm_latency.plots.grouping import levels
from llm_latency.records import frame as fr
from llm_latency.report import style
from llm_latency.report.labels import End, label_ends, label_points
from llm_latency.report.style import styled
from llm_latency.stats.estimate import estimates
from llm_latency.words import MIB, MS, number, setting

MOST_LABELS = 24
"""More points than that keep their colour and marker, without a name."""


@styled
def latency_by_memory(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw how long each cell takes at the longest prompt against the memory that it takes.

    A stem per cell, from TTFT (hollow) to total latency (filled). The memory is that of the
    process that took most: VRAM where a GPU held layers, else resident memory. The label says
    which, and why.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    ax
        Axes to draw into; a new figure if not given.
    """
    data, own = fr.prepare(df), ax is None
    ax = ax or style.new_axes(8.0, 4.2)
    ax.set_title("Latency by memory")
    column, word, why = fr.memory_choice(data)
    longest = fr.longest_prompt(data)
    part = data[(data["prompt_tokens"] == longest) & data[column].notna()]
    first, total = (estimates(part, name, ["cell"]) for name in ("ttft_s", "total_s"))
    memory = fr.ok(part).groupby("cell")[column].max()
    table = fr.cells(fr.ok(part))
    if table.empty:
        what = f"no {word} is known" if longest is not None else fr.status_words(data)
        return style.say_empty(ax, f"Nothing was measured:\n{what}")
    names = [n for n in fr.keys(data) if table[n].map(setting).nunique() > 1] or ["n_batch"]
    hues, marks = levels(table, "n_batch"), levels(table, "n_ctx")
    palette = style.ramp(len(hues))
    points, feet = [], []
    for _, cell in table.iterrows():
        name = cell["cell"]
        x = memory[name] * MIB
        low, high = first[name].times(MS), total[name].times(MS)
        look = {
            "color": palette[hues.index(setting(cell["n_batch"]))],
            "marker": style.MARKERS[marks.index(setting(cell["n_ctx"])) % len(style.MARKERS)],
        }
        ax.vlines([x], low.median, high.median, color=look["color"], linewidth=1.0, alpha=0.6)
        for value in (low, high):
            ax.vlines([x], value.low, value.high, color=look["color"], linewidth=4, alpha=0.35)
        ax.plot(
            [x],
            [low.median],
            **look,
            markersize=6.5,
            markerfacecolor="white",
            linestyle="none",
            label=f"_TTFT {name}",
        )
        ax.plot(
            [x],
            [high.median],
            **look,
            markersize=7.5,
            markeredgecolor="white",
            markeredgewidth=0.8,
            linestyle="none",
            label=name,
        )
        text = " · ".join(setting(cell[n]) for n in names)
        points.append(End(x, high.median, text, look["color"]))
        feet.append(low.median)
    at = np.array([point.x for point in points])
    middle = (at.min() + at.max()) / 2
    # As with the colours of the heatmap: a difference of a few per cent must not fill the axes.
    half = max(0.1 * middle, (at.max() - at.min()) * 0.58)
    ax.set_xlim(middle - half, middle + half)
    ax.set_ylim(0, max(value.high for value in total.values() if value.n) * MS * 1.16)
    style.subtitle(
        ax,
        f"Prompt of {longest:,.0f} tokens. Hollow: TTFT; filled: total latency. "
        f"Labels: {' · '.join(names)}.",
    )
    ax.set_xlabel(f"{word}, MiB ({why})")
    ax.set_ylabel("latency, ms")
    shown = points[: 2 * MOST_LABELS]
    label_points(ax, shown, feet[: len(shown)])
    style.say_below(ax, style.say_failures(data), own)
    return ax


@styled
def memory_by_n_ctx(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw what llama.cpp allocated in each cell, part upon part, and what the system measured.

    Cells of one ``n_ctx`` that take the same memory share a bar.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    ax
        Axes to draw into; a new figure if not given.
    """
    data = fr.prepare(df)
    ax = ax or style.new_axes(8.0, 4.2)
    ax.set_title("Memory by n_ctx")
    bars = _bars(data)
    if not any(bar.parts for bar in bars):
        why = "llama.cpp named no buffers" if len(fr.ok(data)) else fr.status_words(data)
        return style.say_empty(ax, f"No memory was measured:\n{why}")
    top = max(max(sum(bar.parts), bar.peak or 0) for bar in bars)
    place, ticks, last = 0.0, [], None
    for bar in bars:
        if last is not None and bar.n_ctx != last:
            place += 0.5
        last = bar.n_ctx
        ticks.append((place, bar))
        _draw_bar(ax, place, bar, top)
        place += 1.0
    ax.set_ylim(0, top * 1.1)
    ax.set_xlim(-0.6, place - 0.4)
    ax.set_xticks([x for x, _ in ticks], [bar.label for _, bar in ticks], fontsize=8.5)
    ax.tick_params(axis="x", length=0)
    lines = 1 + max(bar.label.count("\n") for bar in bars)
    for n_ctx in dict.fromkeys(bar.n_ctx for bar in bars):
        middle = np.mean([x for x, bar in ticks if bar.n_ctx == n_ctx])
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
    ax.set_xlabel(_bar_names(data), labelpad=24)
    ax.set_ylabel("MiB")
    _label_parts(ax, place - 0.4, [bar for bar in bars if bar.parts][-1])
    return ax


@dataclass(frozen=True)
class Bar:
    """One bar of memory: cells of one ``n_ctx`` that take the same."""

    n_ctx: str
    label: str
    parts: tuple[float, ...]
    peak: float | None
    status: str


def _bars(data: pd.DataFrame) -> list[Bar]:
    good = fr.ok(data)
    others = [name for name in fr.keys(data) if name != "n_ctx"]
    found: dict[tuple[Any, ...], list[Bar]] = {}
    for _, cell in fr.cells(data).iterrows():
        mine = good[good["cell"] == cell["cell"]]
        sizes = [float(mine[column].median() * MIB) for column in fr.PARTS.values()]
        known = bool(np.isfinite(sizes).any())
        peak = float(mine["rss_peak_bytes"].max() * MIB)
        bar = Bar(
            n_ctx=setting(cell["n_ctx"]),
            label="\n".join(setting(cell[name]) for name in others),
            parts=tuple(float(size) for size in np.nan_to_num(sizes)) if known else (),
            peak=peak if np.isfinite(peak) else None,
            status="" if len(mine) else fr.status_words(data[data["cell"] == cell["cell"]]),
        )
        alike = tuple(round(part, 1) for part in bar.parts)
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


def _bar_names(data: pd.DataFrame) -> str:
    others = [name for name in fr.keys(data) if name != "n_ctx"]
    return f"bars: {' / '.join(others)}"


def _draw_bar(ax: Axes, x: float, bar: Bar, top: float) -> None:
    if not bar.parts:
        word = bar.status or "no buffers named"
        style.hatch_box(ax, x - 0.36, 0, 0.72, top * 0.55, word, rotation=90)
        return
    base = 0.0
    for size, colour, name in zip(bar.parts, style.PART_COLOURS, fr.PARTS, strict=True):
        ax.bar(
            x,
            size,
            bottom=base,
            width=0.72,
            color=colour,
            edgecolor="white",
            linewidth=0.6,
            label=f"_{name}",
        )
        base += size
    if bar.peak is not None:
        ax.plot(
            [x - 0.42, x + 0.42],
            [bar.peak] * 2,
            color=style.INK,
            linewidth=1.6,
            label="_RSS peak",
            solid_capstyle="butt",
        )
        ax.plot(
            [x],
            [bar.peak],
            marker="D",
            markersize=5,
            color=style.INK,
            markeredgecolor="white",
            label="_RSS peak marker",
        )


def _label_parts(ax: Axes, x: float, bar: Bar) -> None:
    base, ends = 0.0, []
    for size, colour, name in zip(bar.parts, style.PART_COLOURS, fr.PARTS, strict=True):
        if size > 0:
            ends.append(End(x, base + size / 2, f"{name} {number(size)}", colour))
        base += size
    if bar.peak is not None:
        text = f"resident at its\npeak {number(bar.peak)}"
        ends.append(End(x, bar.peak, text, style.INK))
    label_ends(ax, ends, leader=True)
