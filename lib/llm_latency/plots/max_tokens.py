"""``max_tokens``: latency by tokens generated, with its line, and the error of predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from llm_latency.records import frame as fr
from llm_latency.report import style
from llm_latency.report.style import styled
from llm_latency.views.answer_lengths import AnswerLengths, Place, signed_percent
from llm_latency.words import MS, number

LINEAR = 10.0
"""Errors up to so many per cent are drawn in proportion, larger ones logarithmically."""
LOOKS = {
    "line": ("o", 0, "this line"),
    "naive": ("D", 1, "on tokens asked"),
    "original": ("^", 3, "0.5 s + n / 16"),
}
"""Marker, place in the ramp, and name of each way to predict."""


@styled
def max_tokens(
    df: pd.DataFrame,
    held_out: float | Iterable[float] | None = None,
    axes: Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw total latency by tokens generated with its line, and errors where it saw nothing.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    held_out
        Value or values of ``max_tokens`` that the line does not see, as the plan's parameters
        have them; by default those of the default plan.
    axes
        Two axes to draw into; a new figure if not given.
    """
    own = axes is None
    pair = style.two_axes(axes, 4.1)
    answers = AnswerLengths(df, held_out)
    for ax, title, draw in (
        (pair[0], "Latency by tokens generated", _time),
        (pair[1], "Error at held-out lengths", _errors),
    ):
        ax.set_title(title)
        if answers.good.empty:
            style.say_empty(ax, f"Nothing was measured:\n{fr.status_words(answers.data)}")
            continue
        draw(ax, answers)
    if len(answers.good):
        said = "Points: processes; filled: seen by the line; hollow: held out."
        style.say_above(pair[0], said, own)
        style.say_below(pair[0], style.say_failures(answers.data), own)
    return np.array(pair)


def _time(ax: Axes, answers: AnswerLengths) -> None:
    palette = style.ramp(4)
    looks = {"fixed": ("o", palette[0]), "natural": ("s", palette[2])}
    points = answers.points
    far = float(points["generated"].max())
    for kind in answers.kinds:
        marker, colour = looks.get(kind, ("D", style.MUTED))
        for held, fill in ((False, colour), (True, "white")):
            mine = points[(points["length"] == kind) & (points["held_out"] == held)]
            ax.scatter(
                mine["generated"] + (far * 0.008 if kind == "natural" else -far * 0.008),
                mine["total_s"] * MS,
                s=22,
                marker=marker,
                facecolors=[fill],
                edgecolors=[colour],
                linewidths=0.9,
                alpha=0.75,
                zorder=2.5,
                label=f"{kind} length" if not held else f"_{kind} held out",
            )
    found = answers.line
    if found is not None:
        xs = np.linspace(0, far, 60)
        low, high = np.array([found.bounds(x) for x in xs]).T * MS
        ax.fill_between(xs, low, high, color=style.INK, alpha=0.12, linewidth=0, label="_band")
        text = f"{number(found.intercept * MS)} ms + {number(found.slope * MS)} ms × tokens"
        ax.plot(
            xs, [found.at(x) * MS for x in xs], color=style.INK, linewidth=1.5, label=text, zorder=2
        )
    ax.set_xlim(0, far * 1.06)
    ax.set_ylim(0, float(points["total_s"].max()) * MS * 1.3 or 1)
    ax.set_xlabel("tokens generated")
    ax.set_ylabel("total latency, ms")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.legend(loc="upper left", borderaxespad=0.0)


def _errors(ax: Axes, answers: AnswerLengths) -> None:
    places = answers.held_places
    if not places or answers.line is None:
        why = "No held-out length was measured" if not places else "Too few processes for a line"
        style.say_empty(ax, why)
        return
    palette = style.ramp(4)
    reach = LINEAR
    ticks: dict[float, str] = {}
    for row, place in enumerate(places):
        top = row * (len(LOOKS) + 1.2)
        ax.annotate(
            _name(place),
            (0, top),
            (4, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            fontweight="bold",
        )
        for step, (formula, (marker, hue, word)) in enumerate(LOOKS.items(), start=1):
            found = answers.test(formula, place)
            if found is None:
                continue
            y = top + step
            error = found.error.times(100)
            colour = palette[hue]
            ax.hlines(y, error.low, error.high, color=colour, linewidth=2.6, alpha=0.5)
            ax.plot(
                [error.median],
                [y],
                marker=marker,
                markersize=6,
                color=colour,
                linestyle="none",
                label=f"_{formula}",
            )
            # Left of a point below zero, so that no number stands upon the line, if there is room.
            left = error.high < 0 and error.low > -LINEAR
            ax.annotate(
                signed_percent(error.median / 100),
                (error.low if left else error.high, y),
                (-7 if left else 7, 0),
                textcoords="offset points",
                ha="right" if left else "left",
                va="center",
                fontsize=8.8,
                color=style.deep(colour),
            )
            ticks[y] = word
            reach = max(reach, abs(error.low), abs(error.high))
    ax.axvline(0, color=style.INK, linewidth=0.9, zorder=0.8)
    ax.set_xscale("symlog", linthresh=LINEAR, linscale=1.0)
    _ticks(ax, reach)
    ax.set_yticks(list(ticks), list(ticks.values()), fontsize=8.8)
    ax.set_ylim(max(ticks) + 0.8, -0.8)
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")
    ax.grid(True, axis="x")
    ax.set_xlabel("error of the prediction, %" + (" (log beyond ±10)" * (reach > LINEAR)))


def _ticks(ax: Axes, reach: float) -> None:
    """Choose limits and ticks: negative errors end at -100 %, positive ones nowhere."""
    decades = [10.0**power for power in range(1, 9) if 10.0**power <= reach * 1.01]
    left = -100.0 if reach > LINEAR else -LINEAR
    ax.set_xlim(left * 1.3, max(reach, LINEAR) * 8)
    marks = sorted({-d for d in decades if d <= 100} | {0.0} | set(decades) | {-LINEAR, LINEAR})
    ax.set_xticks(marks)
    ax.tick_params(axis="x", labelsize=8.5)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+,.0f}" if value else "0"))


def _name(place: Place) -> str:
    came = f", {place.generated:,.0f} came" if place.asked != place.generated else ""
    return f"{place.asked:,.0f} asked{came}"
