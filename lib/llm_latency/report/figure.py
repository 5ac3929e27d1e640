"""What figures are made of: lines with intervals, fitted lines, stacked bars.

A question names what is drawn, this room knows how: points are samples (one per process, since
the process is the sample), lines are medians with their interval, or the range where there are
fewer than six processes; what failed is drawn as what it is. Colours, fonts and notes are in
:mod:`llm_latency.report.style`, what lies where in :mod:`llm_latency.report.layout`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llm_latency.report import style
from llm_latency.report.labels import End, label_ends
from llm_latency.report.phrases import FACTORS
from llm_latency.stats import fit
from llm_latency.stats.estimate import Estimate, estimate
from llm_latency.words import number

MOST_LABELS = 12
"""More lines than that are named in a legend."""
LABELLED = 0.055
"""Share of the axes from which a part of a bar bears its number."""


@dataclass(frozen=True)
class Line:
    """One line: where each process lies, and the medians with their bounds, on the screen's scale.

    Attributes
    ----------
    label : str
        Its name, beside its end; empty: it needs none.
    samples : pandas.DataFrame
        Columns ``x`` and ``y``: a row per process.
    values : dict
        By x: the estimate that is drawn there.
    colour, marker, dash
        How it looks; by default its place among the lines decides.
    """

    label: str
    samples: pd.DataFrame
    values: dict[float, Estimate]
    colour: Any = None
    marker: str | None = None
    dash: Any = None


def line_of(label: str, samples: pd.DataFrame, x: str, y: str, unit: str = "", **look: Any) -> Line:
    """Return the line of one number per process, such as :func:`per_process` returns them.

    Parameters
    ----------
    label
        Its name.
    samples
        A row per process.
    x, y
        Columns: the place on the axis, and what was measured, in SI units.
    unit
        Unit of the screen, ``ms`` or ``MiB``.
    **look
        ``colour``, ``marker``, ``dash`` of :class:`Line`.
    """
    known = samples[[x, y]].dropna().astype(float)
    points = pd.DataFrame({"x": known[x], "y": known[y] * FACTORS.get(unit, 1.0)})
    places = sorted(set(points["x"]))
    values = {at: estimate(points.loc[points["x"] == at, "y"]) for at in places}
    return Line(label, points, values, **look)


def lines(
    ax: Axes, drawn: Sequence[Line], *, apart: float = 0.0, names: bool = True, zero: bool = True
) -> None:
    """Draw lines: a point per process, medians joined, each with its interval or range.

    Parameters
    ----------
    ax
        Axes to draw into; its limits are set here.
    drawn
        The lines, in the order of their colours.
    apart
        How far the samples of neighbouring lines stand apart, as a share of the axis, so that
        none hides another.
    names
        Write the lines' names at their ends, or in a legend where there are too many.
    zero
        Begin both axes at zero, where comparison is honest.
    """
    shown = [one for one in drawn if one.values]
    if not shown:
        return
    right = max(max(one.values) for one in shown)
    palette = style.ramp(len(shown))
    ends = []
    for place, one in enumerate(shown):
        colour = palette[place] if one.colour is None else one.colour
        marker = one.marker or style.MARKERS[place % len(style.MARKERS)]
        dash = style.DASHES[place % len(style.DASHES)] if one.dash is None else one.dash
        aside = (place - (len(shown) - 1) / 2) * apart * (right or 1.0)
        at, values = list(one.values), list(one.values.values())
        ax.scatter(
            one.samples["x"] + aside,
            one.samples["y"],
            s=15,
            marker=marker,
            color=colour,
            alpha=0.4,
            linewidths=0,
            label=f"_samples {one.label}",
        )
        lows, highs = [value.low for value in values], [value.high for value in values]
        ax.vlines(at, lows, highs, color=colour, linewidth=2.2, alpha=0.55)
        medians = [value.median for value in values]
        ax.plot(
            at,
            medians,
            color=colour,
            linestyle=dash,
            marker=marker,
            markersize=5,
            linewidth=1.8,
            label=one.label or "_line",
        )
        if one.label:
            ends.append(End(at[-1], medians[-1], one.label, colour))
    if zero:
        top = max(
            max(one.samples["y"].max(), max(v.high for v in one.values.values())) for one in shown
        )
        ax.set_xlim(0, right * 1.04 if right else 1)
        ax.set_ylim(0, top * 1.08 if top > 0 else 1)
    if names:
        name_ends(ax, ends)


def name_ends(ax: Axes, ends: Sequence[End]) -> None:
    """Write the names of lines at their ends, or in a legend where there are too many."""
    if len(ends) <= MOST_LABELS:
        label_ends(ax, list(ends))
    else:
        ax.legend(ncols=3, fontsize=7.5, loc="upper left")


def stack(
    ax: Axes,
    at: float,
    parts: Mapping[str, float],
    colours: Mapping[str, Any],
    *,
    thickness: float = 0.7,
    lying: bool = False,
    reach: float | None = None,
) -> float:
    """Draw one bar of parts, one after the other, and return where it ends.

    Parameters
    ----------
    ax
        Axes to draw into.
    at
        Its place on the other axis.
    parts
        Sizes by name, in their order, on the screen's scale; what is missing is left out.
    colours
        By the same names. Neighbours should differ in lightness, for greyscale.
    thickness
        Of the bar.
    lying
        To the right instead of up.
    reach
        Length of the axis, where parts that are long enough are to bear their number.
    """
    base = 0.0
    for name, size in parts.items():
        if not size > 0:  # missing, or less than can be told
            continue
        look = {"color": colours[name], "edgecolor": "white", "linewidth": 0.6, "label": f"_{name}"}
        if lying:
            ax.barh(at, size, thickness, left=base, **look)
        else:
            ax.bar(at, size, thickness, bottom=base, **look)
        if reach and size > LABELLED * reach:
            ink = "white" if style.luminance(colours[name]) < 0.45 else style.INK
            middle = (base + size / 2, at) if lying else (at, base + size / 2)
            ax.text(*middle, number(size), ha="center", va="center", color=ink, fontsize=9)
        base += size
    return base


def straight(
    ax: Axes, line: fit.Line, places: Iterable[float], label: str, unit: str, colour: Any
) -> None:
    """Draw a fitted line, and the band of all slopes within its interval.

    Parameters
    ----------
    ax
        Axes to draw into.
    line
        What was fitted, in SI units.
    places
        Where on the axis.
    label
        Its name in the legend.
    unit
        Unit of the screen, ``ms`` or ``MiB``.
    colour
        Of both.
    """
    xs, factor = list(places), FACTORS.get(unit, 1.0)
    low, high = np.array([line.bounds(x) for x in xs]).T * factor
    ax.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0, label="_band")
    ax.plot(xs, [line.at(x) * factor for x in xs], color=colour, label=label)
