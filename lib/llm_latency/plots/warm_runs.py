"""Warm runs: TTFT and total latency from the first generation of a process to its last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from llm_latency.records import frame as fr
from llm_latency.report import style
from llm_latency.report.labels import End, label_ends
from llm_latency.report.style import styled
from llm_latency.views.runs_of_process import MODES, Runs
from llm_latency.words import MS


@styled
def warm_runs(df: pd.DataFrame, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw TTFT and total latency by run: thin for a process, thick for the median of all.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    axes
        Two axes to draw into; a new figure if not given.
    """
    data, own = fr.prepare(df), axes is None
    pair = style.two_axes(axes, 4.0)
    runs = Runs(df)
    for ax, column, title in (
        (pair[0], "ttft_s", "TTFT by run"),
        (pair[1], "total_s", "Total latency by run"),
    ):
        ax.set_title(title)
        if not runs.measured:
            style.say_empty(ax, f"Nothing was measured:\n{fr.status_words(data)}")
            continue
        _draw(ax, runs, column)
    if runs.measured:
        style.say_above(pair[0], "Thin: processes; thick: medians. Labels: cache · prompt.", own)
    style.say_below(pair[0], style.say_failures(data), own)
    return np.array(pair)


def _draw(ax: Axes, runs: Runs, column: str) -> None:
    hues = dict(zip(MODES, (style.ramp(4)[0], style.ramp(4)[3]), strict=True))
    ends = []
    for question in runs.measured:
        mine = runs.good[
            (runs.good["prompt_tokens"] == question.prompt)
            & (runs.good["cache_mode"] == question.mode)
        ].sort_values("repeat")
        dash = style.DASHES[runs.prompts.index(question.prompt) % len(style.DASHES)]
        hue = hues[question.mode]
        for _, one in mine.groupby("process"):
            ax.plot(
                one["repeat"],
                one[column] * MS,
                color=hue,
                linewidth=0.7,
                alpha=0.35,
                label="_process",
            )
        middle = mine.groupby("repeat")[column].median() * MS
        name = f"{question.mode} · {question.prompt:,.0f}"
        ax.plot(middle.index, middle, color=hue, linestyle=dash, linewidth=2.2, label=name)
        ax.plot(
            middle.index[:1],
            middle.iloc[:1],
            marker=style.MARKERS[list(MODES).index(question.mode)],
            markersize=5,
            color=hue,
            label="_first",
        )
        ends.append(End(float(middle.index[-1]), float(middle.iloc[-1]), name, hue))
    last = float(runs.good["repeat"].max())
    ax.set_xlim(-0.03 * last, last * 1.04)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("run in the process; 0 is the first")
    ax.set_ylabel("ms")
    ax.set_ylim(0, float(runs.good[column].max()) * MS * 1.06 or 1)
    label_ends(ax, ends)
