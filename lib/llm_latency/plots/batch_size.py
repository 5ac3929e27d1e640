"""What ``n_ubatch`` and ``n_batch`` bring: prefill speed, and the compute buffers they cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from llm_latency.plots.series import draw_series
from llm_latency.records import frame as fr
from llm_latency.report import style
from llm_latency.report.labels import End, label_ends
from llm_latency.report.style import styled
from llm_latency.stats.estimate import estimates, per_process
from llm_latency.words import MIB

ALIKE = 0.01
"""Compute buffers that differ by less are drawn as one line."""


@styled
def batch_size(df: pd.DataFrame, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw prefill speed and compute buffers by ``n_ubatch``, a line per ``n_batch``.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    axes
        Two axes to draw into; a new figure if not given.
    """
    data, own = fr.prepare(df), axes is None
    left, right = style.two_axes(axes)
    _draw_prefill(data, left)
    _draw_compute(data, right)
    style.say_below(left, style.say_failures(data), own)
    return np.array([left, right])


def _draw_prefill(data: pd.DataFrame, ax: Axes) -> None:
    ax.set_title("Prefill by n_ubatch")
    by = ["n_batch", "n_ubatch"]
    samples = per_process(data, "prefill_tps", by).dropna() if len(data) else pd.DataFrame()
    if samples.empty:
        style.say_empty(ax, f"Nothing was measured:\n{fr.status_words(data)}")
        return
    found = estimates(fr.ok(data), "prefill_tps", by)
    batches = sorted(samples["n_batch"].unique())
    ends = []
    for place, (batch, colour) in enumerate(zip(batches, style.ramp(len(batches)), strict=True)):
        mine = samples[samples["n_batch"] == batch]
        # On a logarithmic axis: side by side, so that none hides another.
        aside = 2 ** (0.09 * (place - (len(batches) - 1) / 2))
        steps = sorted(mine["n_ubatch"].unique())
        values = [found[batch, step] for step in steps]
        at = [step * aside for step in steps]
        draw_series(
            ax,
            (mine["n_ubatch"] * aside, mine["prefill_tps"]),
            at,
            values,
            label=f"n_batch {batch:.0f}",
            colour=colour,
            marker=style.MARKERS[place % len(style.MARKERS)],
            dash=style.DASHES[place % len(style.DASHES)],
        )
        ends.append(End(at[-1], values[-1].median, f"{batch:.0f}", colour))
    ax.set_ylim(0, samples["prefill_tps"].max() * 1.08)
    _by_ubatch(ax, data)
    ax.set_ylabel("prompt tokens per second")
    style.subtitle(ax, "Lines: n_batch. Points: processes.")
    label_ends(ax, ends)


def _draw_compute(data: pd.DataFrame, ax: Axes) -> None:
    ax.set_title("Compute buffers by n_ubatch")
    good = fr.ok(data)
    table = (good.groupby(["n_ubatch", "n_batch"])["compute_bytes"].max() * MIB).unstack()
    table = table.dropna(how="all")
    if table.empty:
        why = "llama.cpp named no compute buffers" if len(good) else fr.status_words(data)
        style.say_empty(ax, f"Nothing was measured:\n{why}")
        return
    apart = (table.max(axis=1) / table.min(axis=1) - 1).max()
    lines = {f"{batch:.0f}": table[batch].dropna() for batch in table}
    if len(lines) > 1 and apart <= ALIKE:
        lines = {"every n_batch": table.max(axis=1)}
    ends = []
    for place, ((name, line), colour) in enumerate(
        zip(lines.items(), style.ramp(len(lines)), strict=True)
    ):
        ax.plot(
            line.index,
            line,
            color=colour,
            linestyle=style.DASHES[place % len(style.DASHES)],
            marker=style.MARKERS[place % len(style.MARKERS)],
            markersize=5,
            linewidth=1.8,
            label=name,
        )
        ends.append(End(float(line.index[-1]), float(line.iloc[-1]), name, colour))
    ax.set_ylim(0, float(np.nanmax(table.to_numpy())) * 1.1)
    _by_ubatch(ax, data)
    ax.set_ylabel("MiB")
    style.subtitle(ax, f"n_ctx {good['n_ctx'].max():.0f}. Lines: n_batch.")
    label_ends(ax, ends)


def _by_ubatch(ax: Axes, data: pd.DataFrame) -> None:
    sizes = sorted(data["n_ubatch"].dropna().unique())
    ax.set_xscale("log", base=2)
    ax.set_xlim(sizes[0] / 1.25, sizes[-1] * 1.25)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
    ax.set_xlabel("n_ubatch, tokens computed at once")
