"""A comparison in one figure: by how much each cell's figures differ, with the interval."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from llm_latency.questions.compare.judgement import View
from llm_latency.questions.compare.sides import Side
from llm_latency.report import layout, phrases, style
from llm_latency.stats.compare import SMALLEST_EFFECT, Comparison
from llm_latency.words import visible

MOST = 16
"""Cells that are drawn; of more the table tells."""
UNPAIRED: Any = (0, (1.2, 0.5))
"""Dashes of what is not paired: fine, so that short intervals show them."""
BESIDE = 4
"""Panels in a row."""
WIDE = 26
"""Letters of a cell's name in a line."""


@style.styled
def figure(view: View) -> np.ndarray:
    """Draw a panel for each figure: a row per cell, a mark with its interval per other side.

    What is paired is drawn filled, what is not hollow, with a broken line.
    """
    cells = list(view.cells)[:MOST]
    panels = list(view.measures)
    if not cells or not panels:
        ax = style.new_axes(8.0, 1.6)
        return np.array([style.say_empty(ax, "The runs have no cell in common.")])
    names = ["\n".join(textwrap.wrap(visible(view.cells[cell]), WIDE)) for cell in cells]
    lines = sum(max(name.count("\n") + 1, 0.9 * len(view.others)) for name in names)
    deep = -(-len(panels) // BESIDE)
    height = deep * (0.95 + 0.2 * lines) + 0.9
    drawn, axes = plt.subplots(
        deep, BESIDE, figsize=(8.0, height), layout="constrained", sharey=True, squeeze=False
    )
    colours = style.ramp(len(view.others))
    for ax, measure in zip(axes.flat, panels, strict=False):
        ax.set_title(measure)
        for place, other in enumerate(view.others):
            aside = (place - (len(view.others) - 1) / 2) * 0.6 / len(view.others)
            _marks(ax, view, other, measure, cells, aside, colours[place], place)
        _scale(ax)
    for ax in axes.flat:
        layout.rows(ax, list(enumerate(names)), -0.6, len(cells) - 0.4)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    drawn.legend(
        handles=[_handle(view, *each) for each in zip(view.others, colours, strict=True)],
        loc="outside upper left",
        ncols=1,
    )
    style.say_below(axes[0, 0], _below(view, cells), own=True, colour=style.MUTED)
    return np.array(axes.flat[: len(panels)])


def _marks(
    ax: Axes,
    view: View,
    other: Side,
    measure: str,
    cells: list[str],
    aside: float,
    colour: Any,
    place: int,
) -> None:
    for row, cell in enumerate(cells):
        found = view.compare(other, cell, measure)
        if not found.ratio.n:
            ax.text(0, row + aside, "–", ha="center", va="center", color=style.MUTED)
            continue
        low, middle, high = (100 * (x - 1) for x in _bounds(found))
        thin = found.ratio.kind == "range"
        dash = UNPAIRED if found.apart else "-"
        ax.hlines(
            row + aside, low, high, color=colour, linewidth=1.0 if thin else 2.2, linestyle=dash
        )
        mark = style.MARKERS[place % len(style.MARKERS)]
        ax.plot(middle, row + aside, mark, **_look(found.apart, colour))


def _bounds(found: Comparison) -> tuple[float, float, float]:
    return found.ratio.low, found.ratio.median, found.ratio.high


def _look(apart: str, colour: Any) -> dict[str, Any]:
    return {"color": colour, "markersize": 6, "markerfacecolor": "white" if apart else colour}


def _scale(ax: Axes) -> None:
    """Give the axis room on both sides of zero, and show within what nobody would care."""
    near = 100 * SMALLEST_EFFECT
    low, high = ax.get_xlim()
    ax.axvspan(-near, near, color=style.FAINT, linewidth=0, zorder=0)
    ax.axvline(0.0, color=style.MUTED, linewidth=1.0, zorder=0.5)
    room = 0.08 * max(high - low, 4 * near)
    ax.set_xlim(min(low, -1.5 * near) - room, max(high, 1.5 * near) + room)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.set_xlabel("%")


def _handle(view: View, other: Side, colour: Any) -> Line2D:
    """Return what a side looks like, and what lies between it and the base."""
    between, place = view.apart(other), view.others.index(other)
    caveat = f"{phrases.UNPAIRED}: {between}" if between else "the same run, paired"
    words = f"{visible(other.name)} against {visible(view.base.name)} ({caveat})"
    mark = style.MARKERS[place % len(style.MARKERS)]
    dash: Any = UNPAIRED if between else "-"
    label = textwrap.fill(words, 105)
    return Line2D(
        [], [], marker=mark, linestyle=dash, linewidth=2.2, label=label, **_look(between, colour)
    )


def _below(view: View, cells: list[str]) -> str:
    left = len(view.cells) - len(cells)
    more = f" {left} more cells are in the table." if left else ""
    return (
        "Above 0 it takes longer, or more memory. Thick: intervals; thin: ranges of fewer than six "
        f"processes; grey: within {100 * SMALLEST_EFFECT:.0f} %.{more}"
    )
