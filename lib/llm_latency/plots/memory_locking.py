"""Ways of reading a model under memory limits: how long an answer takes, and how steady it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llm_latency.plan.loading import ranked
from llm_latency.report import style
from llm_latency.report.style import styled
from llm_latency.views.held_memory import HeldMemory, Kind
from llm_latency.words import MS, counts, number, span

PANELS = (
    ("total_s", "Total latency", "a whole generation, ms"),
    ("itl_mad_s", "Spread of the ITL within a process", "median absolute deviation, ms"),
)
"""What the two panels show: column, title, axis."""
GAP = 0.7
"""Space between one limit and the next, in places."""


@styled
def memory_locking(df: pd.DataFrame, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw the latency of answers and the spread of the ITL by memory limit and way of reading.

    A point per process, a bar at the median with its interval. A kind of which no process ended
    well is a hatched box with its status. Major faults stand over the points that had them.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    axes
        Two axes to draw into; a new figure if not given.
    """
    own, held = axes is None, HeldMemory(df)
    pair = style.two_axes(axes, 4.2)
    for ax, (column, title, label) in zip(pair, PANELS, strict=True):
        ax.set_title(title)
        if not held.measured:
            word = counts(held.counting["status"]) or "not run"
            style.say_empty(ax, f"Nothing was measured:\n{word}")
            continue
        _panel(ax, held, column, label)
    if held.measured:
        style.say_above(pair[0], "Points: processes; lines: medians with their interval.", own)
    return np.array(pair)


def _panel(ax: Axes, held: HeldMemory, column: str, label: str) -> None:
    ways = ranked([kind.way for kind in held.planned])
    colours = dict(zip(ways, style.ramp(len(ways)), strict=True))
    highest = [float(held.good(kind)[column].max()) for kind in held.measured]
    top = max([value for value in highest if value == value], default=0.0) * MS * 1.35 or 1.0
    ax.set_ylim(0, top)
    place, ticks = 0.0, []
    for memory in held.memories:
        start = place
        for kind in held.of_memory(memory):
            ticks.append((place, kind.way))
            if kind in held.measured:
                mark = style.MARKERS[ways.index(kind.way) % len(style.MARKERS)]
                _points(ax, held, kind, column, place, colours[kind.way], mark)
            else:
                word = counts(held.of(kind)["status"])
                style.hatch_box(ax, place - 0.36, 0, 0.72, top * 0.5, word, rotation=90)
            place += 1.0
        ax.annotate(
            memory,
            ((start + place - 1) / 2, 0),
            (0, -24),
            xycoords=ax.get_xaxis_transform(),
            textcoords="offset points",
            ha="center",
            va="top",
            fontweight="bold",
            fontsize=9.5,
            annotation_clip=False,
        )
        place += GAP
    ax.set_xlim(-0.6, place - GAP - 0.4)
    ax.set_xticks([x for x, _ in ticks], [way for _, way in ticks])
    ax.tick_params(axis="x", length=0)
    ax.set_xlabel("memory of the process", labelpad=26)
    ax.set_ylabel(label)


def _points(
    ax: Axes, held: HeldMemory, kind: Kind, column: str, x: float, colour: object, mark: str
) -> None:
    good = held.good(kind)
    values = (good[column] * MS).dropna()
    if len(values):
        aside = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else [0.0]
        ax.scatter(
            x + np.array(aside),
            values,
            s=20,
            marker=mark,
            color=colour,
            alpha=0.55,
            linewidths=0,
            label=f"_{kind.memory} {kind.way}",
        )
        found = held.estimate(column, kind).times(MS)
        ax.vlines([x], found.low, found.high, color=colour, linewidth=2.2, alpha=0.6)
        ax.plot([x - 0.3, x + 0.3], [found.median] * 2, color=colour, linewidth=2.2,
                label="_median")  # fmt: skip
        said = [number(found.median)]
    else:
        said = ["not known"]
    faults = good["major_faults"].dropna()
    if column == "total_s" and len(faults) and faults.max() > 0:
        said.append(f"{span(faults.min(), faults.max())}\nmajor faults")
    bad = held.of(kind)
    bad = bad[bad["status"] != "ok"]
    if len(bad):
        said.append(counts(bad["status"]))
    ax.annotate(
        "\n".join(reversed(said)),
        (x, float(values.max()) if len(values) else 0.0),
        (0, 6),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=9,
        color=style.INK,
        annotation_clip=False,
    )
