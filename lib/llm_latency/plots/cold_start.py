"""The ledger of a start: one bar per start, its parts in the order in which they come."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from llm_latency.plots import style
from llm_latency.plots.style import styled
from llm_latency.records import frame as fr
from llm_latency.views.start_ledger import PARTS, STATES, Start, StartLedger
from llm_latency.words import MS, number

COLOURS = dict(
    zip(
        PARTS,
        (
            *("#c9ced6", "#5d6675", "#1b2a5e", "#4794ad", "#b5dccb"),
            *("#7d4f9e", "#8c4a12", "#dd9a2b", "#f3dfae"),
        ),
        strict=True,
    )
)
"""Neighbours differ in lightness, so that they are told apart in greyscale too."""
HEIGHT = 0.66
WIDE_ENOUGH = 0.055
"""Share of the axes from which a part bears its number."""


@styled
def cold_start(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw what each start takes, part after part, from the engine's import to the last token.

    Parts are medians over processes; the whole has its median and interval as a black mark, and
    a point per process. Medians of parts need not add up to the median of the whole.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    ax
        Axes to draw into; a new figure if not given.
    """
    own, ledger = ax is None, StartLedger(df)
    ax = ax or style.new_axes(8.0, 1.9 + 0.42 * max(len(ledger.planned), 2))
    ax.set_title("What a start takes, from the engine's import to the last token")
    if not ledger.measured:
        return style.say_empty(ax, f"Nothing was measured:\n{fr.status_words(fr.prepare(df))}")
    reach = max(_reach(ledger, start) for start in ledger.measured) * 1.16
    ax.set_xlim(0, reach)
    y, ticks, last = 0.0, [], ""
    for start in ledger.planned:
        if start.page_cache != last:
            head = STATES.get(start.page_cache, start.page_cache)
            ax.text(0, y, f"{head} at the start", va="center", fontweight="bold", fontsize=9.5)
            last, y = start.page_cache, y + 0.85
        ticks.append((y, start.way))
        if start in ledger.measured:
            _bar(ax, ledger, start, y, reach)
        else:
            word = ledger.how_ended(start)
            style.hatch_box(ax, 0, y - HEIGHT / 2, reach * 0.5, HEIGHT, word)
        y += 1.0
    ax.set_ylim(y - 0.4, -0.6)
    ax.set_yticks([at for at, _ in ticks], [way for _, way in ticks])
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("ms; parts: medians; black: median and interval of the whole; points: processes")
    handles = [Patch(facecolor=COLOURS[name], label=name) for name in ledger.parts]
    ax.legend(
        handles=handles,
        ncols=len(handles),
        loc="lower left",
        bbox_to_anchor=(-0.06, 0.985),
        handlelength=0.9,
        handletextpad=0.4,
        columnspacing=0.9,
        fontsize=8.6,
    )
    ax.set_title(ax.get_title(loc="left"), loc="left", pad=26)
    lost = [(start, ledger.how_ended(start)) for start in ledger.planned]
    said = [f"{start.words} ({words})" for start, words in lost if set(words.split()[::2]) - {"ok"}]
    style.say_below(ax, f"Only ok processes are drawn: {'; '.join(said)}." if said else "", own)
    return ax


def _reach(ledger: StartLedger, start: Start) -> float:
    """Return how far to the right a start goes, in ms."""
    parts = [ledger.estimate(column, start).median for column in ledger.parts.values()]
    whole = [float(value) for value in ledger.samples("start_s", start)]
    return max([sum(part for part in parts if part == part), *whole]) * MS


def _bar(ax: Axes, ledger: StartLedger, start: Start, y: float, reach: float) -> None:
    left = 0.0
    for name, column in ledger.parts.items():
        width = ledger.estimate(column, start).median * MS
        if not width > 0:  # missing, or less than the clock can tell
            continue
        colour = COLOURS[name]
        ax.barh(
            y,
            width,
            HEIGHT,
            left=left,
            color=colour,
            edgecolor="white",
            linewidth=0.5,
            label=f"_{name}",
        )
        if width > WIDE_ENOUGH * reach:
            ink = "white" if style.luminance(colour) < 0.45 else style.INK
            ax.text(
                left + width / 2, y, number(width), ha="center", va="center", color=ink, fontsize=9
            )
        left += width
    whole = ledger.estimate("start_s", start).times(MS)
    if not whole.n:
        return
    points = ledger.samples("start_s", start) * MS
    low = y + HEIGHT / 2 + 0.1
    ax.scatter(
        points, [low] * len(points), s=16, color=style.MUTED, alpha=0.8, linewidths=0,
        label="_processes",
    )  # fmt: skip
    ax.plot(
        [whole.low, whole.high],
        [low, low],
        color=style.INK,
        linewidth=1.4,
        label="_interval",
        zorder=1.5,
    )
    ax.plot([whole.median] * 2, [y - HEIGHT / 2, low + 0.06], color=style.INK, linewidth=2.0,
            label="_whole", solid_capstyle="butt")  # fmt: skip
    ax.annotate(
        f"{number(whole.median)} ms",
        (max(left, whole.high, float(points.max())), y),
        (6, 0),
        textcoords="offset points",
        va="center",
        fontsize=9.5,
        fontweight="bold",
    )
