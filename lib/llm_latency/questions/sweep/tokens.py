"""Latency by tokens: TTFT by the length of the prompt, total latency by what is generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from llm_latency.questions.sweep.grouping import Grouping, grouping_of
from llm_latency.questions.sweep.view import View
from llm_latency.records import frame as fr
from llm_latency.report import figure as fig
from llm_latency.report import style
from llm_latency.report.labels import End
from llm_latency.stats.estimate import per_process
from llm_latency.words import MS


@style.styled
def figure(view: View, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw how TTFT grows with the prompt, and total latency with the tokens generated.

    Cells that lie within 10 % of each other are drawn as one line, which the figure says: by
    ``n_batch`` alone, or ``n_ctx`` alone, if the other setting makes no such difference.
    """
    own, grouping = axes is None, grouping_of(view.data)
    left, right = style.two_axes(axes, 3.7)
    _draw_ttft(view, left, grouping)
    _draw_total(view, right, grouping)
    style.say_above(left, grouping.sentence, own)
    style.say_below(left, style.say_failures(view.data, crosses=True), own)
    return np.array([left, right])


@style.styled
def ttft_by_prompt(view: View, ax: Axes | None = None) -> Axes:
    """Draw TTFT against the length of the prompt: a point per process, a line per setting."""
    own, grouping = ax is None, grouping_of(view.data)
    ax = ax or style.new_axes(6.4, 4.0)
    _draw_ttft(view, ax, grouping)
    style.say_above(ax, grouping.sentence, own)
    style.say_below(ax, style.say_failures(view.data, crosses=True), own)
    return ax


@style.styled
def total_by_generated(view: View, ax: Axes | None = None) -> Axes:
    """Draw the time to each generated token after the longest prompt: thin for a process."""
    own, grouping = ax is None, grouping_of(view.data)
    ax = ax or style.new_axes(6.4, 4.0)
    _draw_total(view, ax, grouping)
    style.say_above(ax, grouping.sentence, own)
    style.say_below(ax, style.say_failures(view.data), own)
    return ax


def _draw_ttft(view: View, ax: Axes, grouping: Grouping) -> None:
    ax.set_title("TTFT by length of the prompt")
    samples = per_process(view.data, "ttft_s", ["cell", "prompt_tokens"]).dropna()
    if samples.empty:
        style.say_unmeasured(ax, view.data)
        return
    lines = [
        fig.line_of(
            group.label,
            samples[samples["cell"].isin(group.cells)],
            *("prompt_tokens", "ttft_s", "ms"),
            colour=group.colour,
            marker=group.marker,
            dash=group.dash,
        )
        for group in grouping.groups
    ]
    # Neighbours' samples stand side by side, a little apart, so that none hides another.
    fig.lines(ax, lines, apart=0.012)
    bad = view.data[(view.data["status"] == "invalid") & view.data["ttft_s"].notna()]
    if len(bad):
        look: dict[str, Any] = {"marker": "x", "color": style.HATCH, "zorder": 1.5}
        ax.scatter(bad["prompt_tokens"], bad["ttft_s"] * MS, s=26, label="invalid", **look)
        ax.set_ylim(0, max(ax.get_ylim()[1], bad["ttft_s"].max() * MS * 1.06))
    lengths = sorted(samples["prompt_tokens"].unique())
    if len(lengths) == 1:
        ax.set_xlim(0, 2 * lengths[0])
    ax.set_xticks(lengths)
    ax.set_xlabel("prompt, tokens")
    ax.set_ylabel("TTFT, ms")


def _draw_total(view: View, ax: Axes, grouping: Grouping) -> None:
    ax.set_title("Total latency by tokens generated")
    curves = _curves(view)
    if not curves:
        style.say_unmeasured(ax, view.data)
        return
    ends = []
    for group in grouping.groups:
        mine = [curve for (cell, _), curve in curves.items() if cell in group.cells]
        if not mine:
            continue
        look = {"color": group.colour, "linestyle": group.dash}
        for curve in mine:
            at = range(1, len(curve) + 1)
            thin = {"color": group.colour, "linewidth": 0.7, "alpha": 0.3, "label": "_process"}
            ax.plot(at, curve * MS, **thin)
        length = min(len(curve) for curve in mine)
        middle = np.median([curve[:length] for curve in mine], axis=0) * MS
        ax.plot(range(1, length + 1), middle, **look, linewidth=2.0, label=group.label or "_line")
        dot = {"marker": group.marker, "markersize": 5, "color": group.colour, "label": "_first"}
        ax.plot([1], middle[:1], **dot)
        if group.label:
            ends.append(End(length, float(middle[-1]), group.label, group.colour))
    ax.set_xlim(0, max(map(len, curves.values())) * 1.04)
    ax.set_ylim(0, max(float(curve[-1]) for curve in curves.values()) * MS * 1.06)
    ax.set_xlabel(f"tokens generated, after a prompt of {view.longest:,.0f}")
    ax.set_ylabel("time since the start, ms")
    fig.name_ends(ax, ends)


def _curves(view: View) -> dict[tuple[str, str], np.ndarray]:
    """Return, for each process, the time to each token: the median over its generations."""
    curves: dict[tuple[str, str], np.ndarray] = {}
    for (cell, process), part in fr.ok(view.at_longest).groupby(["cell", "process"], sort=False):
        sums = [np.cumsum(itl) for itl in part["itl_s"] if isinstance(itl, list) and itl]
        if sums:
            shortest = min(map(len, sums))
            curves[str(cell), str(process)] = np.median([one[:shortest] for one in sums], axis=0)
    return curves
