"""Latency by tokens: TTFT by the length of the prompt, total latency by what is generated."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llm_latency.errors import ParameterError
from llm_latency.plots.grouping import Grouping, grouping_of
from llm_latency.plots.series import draw_series
from llm_latency.records import frame as fr
from llm_latency.report import style
from llm_latency.report.labels import End, label_ends
from llm_latency.report.style import styled
from llm_latency.stats.estimate import estimates, per_process
from llm_latency.words import MS

MOST_LABELS = 12
"""More lines than that are named in a legend."""


@styled
def latency_by_tokens(df: pd.DataFrame, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw how TTFT grows with the prompt, and total latency with the tokens generated.

    Cells that lie within 10 % of each other are drawn as one line, which the figure says: by
    ``n_batch`` alone, or ``n_ctx`` alone, if the other setting makes no such difference.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    axes
        Two axes to draw into; a new figure if not given.

    Returns
    -------
    numpy.ndarray
        The two axes. :func:`ttft_by_prompt` and :func:`total_by_generated` draw one each.
    """
    if axes is not None and len(axes) != 2:
        raise ParameterError(
            f"axes holds {len(axes)} axes: give two, or use ttft_by_prompt or total_by_generated "
            "to draw into one."
        )
    data = fr.prepare(df)
    own = axes is None
    if axes is None:
        figure = plt.figure(figsize=(8.0, 3.9), layout="constrained")
        axes = list(figure.subplots(1, 2))
    left, right = axes
    grouping = grouping_of(data)
    _draw_ttft(data, left, grouping)
    _draw_total(data, right, grouping)
    style.say_above(left, grouping.sentence, own)
    style.say_below(left, style.say_failures(data, crosses=True), own)
    return np.array([left, right])


@styled
def ttft_by_prompt(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw TTFT against the length of the prompt: a point per process, a line per setting.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    ax
        Axes to draw into; a new figure if not given.
    """
    data, own = fr.prepare(df), ax is None
    ax = ax or style.new_axes(6.4, 4.0)
    grouping = grouping_of(data)
    _draw_ttft(data, ax, grouping)
    style.say_above(ax, grouping.sentence, own)
    style.say_below(ax, style.say_failures(data, crosses=True), own)
    return ax


@styled
def total_by_generated(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the time to each generated token after the longest prompt: thin for a process.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    ax
        Axes to draw into; a new figure if not given.
    """
    data, own = fr.prepare(df), ax is None
    ax = ax or style.new_axes(6.4, 4.0)
    grouping = grouping_of(data)
    _draw_total(data, ax, grouping)
    style.say_above(ax, grouping.sentence, own)
    style.say_below(ax, style.say_failures(data), own)
    return ax


def _draw_ttft(data: pd.DataFrame, ax: Axes, grouping: Grouping) -> None:
    ax.set_title("TTFT by length of the prompt")
    good = fr.ok(data)
    samples = per_process(data, "ttft_s", ["cell", "prompt_tokens"]).dropna()
    if samples.empty:
        style.say_empty(ax, f"Nothing was measured:\n{fr.status_words(data)}")
        return
    lengths = sorted(samples["prompt_tokens"].unique())
    ends = []
    for index, group in enumerate(grouping.groups):
        mine = samples[samples["cell"].isin(group.cells)]
        if mine.empty:
            continue
        # Neighbours stand side by side, a little apart, so that none hides another.
        step = (max(lengths) or 1) * 0.012
        aside = (index - (len(grouping.groups) - 1) / 2) * step
        found = estimates(good[good["cell"].isin(group.cells)], "ttft_s", ["prompt_tokens"])
        xs = sorted(found)
        values = [found[x].times(MS) for x in xs]
        draw_series(
            ax,
            (mine["prompt_tokens"] + aside, mine["ttft_s"] * MS),
            xs,
            values,
            label=group.label or "all cells",
            colour=group.colour,
            marker=group.marker,
            dash=group.dash,
        )
        if group.label:
            ends.append(End(xs[-1], values[-1].median, group.label, group.colour))
    bad = data[(data["status"] == "invalid") & data["ttft_s"].notna()]
    if len(bad):
        ax.scatter(
            bad["prompt_tokens"],
            bad["ttft_s"] * MS,
            marker="x",
            s=26,
            linewidths=1.0,
            color=style.HATCH,
            label="invalid",
            zorder=1.5,
        )
    _frame(ax, max(lengths), max(samples["ttft_s"].max(), bad["ttft_s"].max() or 0) * MS)
    if len(lengths) == 1:
        ax.set_xlim(0, 2 * lengths[0])
    ax.set_xticks(lengths)
    ax.set_xlabel("prompt, tokens")
    ax.set_ylabel("TTFT, ms")
    _name(ax, ends)


def _draw_total(data: pd.DataFrame, ax: Axes, grouping: Grouping) -> None:
    ax.set_title("Total latency by tokens generated")
    longest = fr.longest_prompt(data)
    good = fr.ok(data)
    good = good[good["prompt_tokens"] == longest]
    curves = _curves(good)
    if not curves:
        style.say_empty(ax, f"Nothing was measured:\n{fr.status_words(data)}")
        return
    ends = []
    for group in grouping.groups:
        mine = [curve for (cell, _), curve in curves.items() if cell in group.cells]
        if not mine:
            continue
        for curve in mine:
            ax.plot(
                range(1, len(curve) + 1),
                curve * MS,
                color=group.colour,
                linewidth=0.7,
                alpha=0.3,
                label="_process",
            )
        length = min(len(curve) for curve in mine)
        middle = np.median([curve[:length] for curve in mine], axis=0) * MS
        ax.plot(
            range(1, length + 1),
            middle,
            color=group.colour,
            linestyle=group.dash,
            linewidth=2.0,
            label=group.label or "all cells",
        )
        ax.plot(
            [1], middle[:1], marker=group.marker, markersize=5, color=group.colour, label="_first"
        )
        if group.label:
            ends.append(End(length, float(middle[-1]), group.label, group.colour))
    tokens = max(len(curve) for curve in curves.values())
    _frame(ax, tokens, max(float(curve[-1]) for curve in curves.values()) * MS)
    ax.set_xlabel(f"tokens generated, after a prompt of {longest:,.0f}")
    ax.set_ylabel("time since the start, ms")
    _name(ax, ends)


def _curves(good: pd.DataFrame) -> dict[tuple[str, str], np.ndarray]:
    """Return, for each process, the time to each token: the median over its generations."""
    found: dict[tuple[str, str], np.ndarray] = {}
    for (cell, process), part in good.groupby(["cell", "process"], sort=False):
        sums = [
            np.cumsum(np.asarray(itl, dtype=float))
            for itl in part["itl_s"]
            if isinstance(itl, list | tuple | np.ndarray) and len(itl)
        ]
        if sums:
            shortest = min(map(len, sums))
            found[str(cell), str(process)] = np.median([one[:shortest] for one in sums], axis=0)
    return found


def _frame(ax: Axes, right: float, top: float) -> None:
    ax.set_xlim(0, right * 1.04 if right else 1)
    ax.set_ylim(0, top * 1.06 if top > 0 else 1)


def _name(ax: Axes, ends: list[End]) -> None:
    """Write the lines' names at their ends, or in a legend where there are too many."""
    if len(ends) <= MOST_LABELS:
        label_ends(ax, ends)
    else:
        ax.legend(ncols=3, fontsize=7.5, loc="upper left")
