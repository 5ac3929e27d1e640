"""What lies where in a figure: two axes side by side, rows below each other, words beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from llm_latency.report import style

WHOLE = "{x:,.0f}"
"""Format of ticks that are whole numbers."""


def pair(
    axes: Sequence[Axes] | None,
    view: Any,
    panels: Mapping[str, Callable[[Axes, Any], None]],
    *,
    measured: bool = True,
    above: str = "",
    below: str | None = None,
    height: float = 3.9,
) -> np.ndarray:
    """Draw a view into axes side by side; where nothing was measured, say how it ended.

    Parameters
    ----------
    axes
        As many axes to draw into as there are panels; those of a new figure if not given.
    view
        What is drawn; its ``data`` are the rows that count.
    panels
        By title: what draws the view into the axes.
    measured
        Whether there is anything to draw.
    above, below
        A sentence over the figure, and a warning under it; by default: which cells failed.
    height
        Of a new figure, in inches.
    """
    own, both = axes is None, style.axes_beside(axes, len(panels), height)
    for ax, (title, draw) in zip(both, panels.items(), strict=True):
        ax.set_title(title)
        if measured:
            draw(ax, view)
        else:
            style.say_unmeasured(ax, view.data)
    style.say_above(both[0], above if measured else "", own)
    style.say_below(both[0], style.say_failures(view.data) if below is None else below, own)
    return np.array(both)


def key(ax: Axes, colours: Mapping[str, Any], left: float) -> None:
    """Name colours in a line over the axes, from so far left of them on."""
    ax.legend(
        handles=[Patch(facecolor=colour, label=name) for name, colour in colours.items()],
        ncols=len(colours),
        loc="lower left",
        bbox_to_anchor=(left, 0.985),
        handlelength=0.9,
        handletextpad=0.4,
        columnspacing=0.9,
        fontsize=8.6,
    )


def rows(ax: Axes, names: Sequence[tuple[float, str]], first: float, last: float) -> None:
    """Name what lies in rows, from the top down, and turn the grid along them.

    Parameters
    ----------
    ax
        Axes whose rows these are.
    names
        Place and name of each row.
    first, last
        Places of the upper and of the lower edge.
    """
    ax.set_ylim(last, first)
    ax.set_yticks([at for at, _ in names], [name for _, name in names])
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.grid(visible=True, axis="x")


def write(
    ax: Axes, text: str, at: tuple[float, float], aside: tuple[float, float], **look: Any
) -> None:
    """Write a word or a number beside what it belongs to.

    Parameters
    ----------
    ax
        Axes to write into.
    text
        What is written.
    at
        The point that it belongs to.
    aside
        How far from it, in points.
    **look
        What matplotlib takes for letters.
    """
    usual: dict[str, Any] = {"va": "center", "fontsize": 9.5, "annotation_clip": False}
    ax.annotate(text, at, aside, textcoords="offset points", **usual | look)
