"""Memory three times over, as stacked bars: predicted, allocated, and resident phase by phase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llm_latency.records import frame as fr
from llm_latency.report import style
from llm_latency.report.style import styled
from llm_latency.views.ledger import Ledger, ledgers
from llm_latency.words import MIB, number

MOST_CELLS = 4
"""More cells than that are left to the table: the smallest and the largest are drawn."""

SEEN = {
    "model_file": "model's file",
    "engine": "engine's buffers",
    "work_space": "work space",
    "heap": "small pieces",
    "python": "Python",
    "code": "libraries",
}
"""What is drawn of the places, from the left, and their short names."""
COLOURS = ("#27375f", "#2f8f9d", "#7fb7a6", "#e3b04b", "#c9cdd4", "#e4e6ea")
HATCHES = ("", "", "", "", "///", "...")


@styled
def memory_ledger(df: pd.DataFrame, info: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Draw each cell's memory as predicted, as allocated, and as seen in three phases.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    info
        The content of ``run.json``, which holds the model's header.
    ax
        Axes to draw into; a new figure if not given.
    """
    data, own = fr.prepare(df), ax is None
    found = ledgers(df, info)
    shown = found if len(found) <= MOST_CELLS else [found[0], found[-1]]
    height = 1.4 + 1.35 * max(1, len(shown))
    ax = ax or style.new_axes(8.0, height)
    ax.set_title("Memory: predicted, allocated, resident")
    if not shown:
        return style.say_empty(ax, f"Nothing was measured:\n{fr.status_words(data)}")
    at, ticks, labels = 0.0, [], []
    for one in shown:
        ax.text(0, at - 0.72, one.cell, fontsize=9.5, fontweight="bold", va="center")
        for label, kind, values in _bars(one):
            _bar(ax, at, kind, values)
            ticks.append(at)
            labels.append(label)
            at += 0.82
        at += 1.0
    ax.set_yticks(ticks, labels)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(at - 1.1, -1.15)
    ax.grid(axis="x")
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("MiB")
    ax.margins(x=0.1)
    ax.set_xlim(left=0)
    _legend(ax)
    left_out = len(found) - len(shown)
    more = f" {left_out} more cells are in the table." if left_out else ""
    style.say_above(ax, f"Medians over processes.{more}", own)
    style.say_below(ax, style.say_failures(data), own)
    return ax


def _bars(one: Ledger) -> list[tuple[str, str, list[float]]]:
    bars = []
    for label, parts in (("predicted", one.predicted), ("allocated", one.allocated)):
        if parts:
            bars.append((label, "part", [parts[name] for name in fr.PARTS]))
    for phase, label in (
        ("after_load", "resident, loaded"),
        ("after_first", "resident, first answer"),
        ("after_last", "resident, last answer"),
    ):
        if phase in one.resident:
            bars.append((label, "place", [one.resident[phase][place] for place in SEEN]))
    return bars


def _bar(ax: Axes, at: float, kind: str, values: list[float]) -> None:
    colours = style.PART_COLOURS if kind == "part" else COLOURS
    hatches = ("",) * 4 if kind == "part" else HATCHES
    starts = np.cumsum([0.0, *values[:-1]])
    for value, start, colour, hatch in zip(values, starts, colours, hatches, strict=True):
        ax.barh(
            at, value * MIB, 0.66, left=start * MIB, color=colour, hatch=hatch,
            edgecolor=style.HATCH if hatch else "white", linewidth=0.5,
        )  # fmt: skip
    total = sum(values) * MIB
    ax.annotate(
        number(total), (total, at), (4, 0), textcoords="offset points", va="center", fontsize=9
    )


def _legend(ax: Axes) -> None:
    """Two rows of names: parts of what is allocated, places of what is resident."""
    entries = [
        *zip(style.PART_COLOURS, ("",) * 4, fr.PARTS, strict=True),
        *zip(
            COLOURS,
            HATCHES,
            SEEN.values(),
            strict=True,
        ),
    ]
    handles = [
        ax.barh(0, 0, 0, color=c, hatch=h, edgecolor=style.HATCH if h else "white", label=str(n))
        for c, h, n in entries
    ]
    first = ax.legend(
        handles=handles[:4], title="predicted, allocated", ncols=1, fontsize=8.5,
        title_fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.02), alignment="left",
    )  # fmt: skip
    ax.add_artist(first)
    ax.legend(
        handles=handles[4:], title="resident", ncols=1, fontsize=8.5, title_fontsize=8.5,
        loc="lower left", bbox_to_anchor=(1.0, -0.02), alignment="left",
    )  # fmt: skip
