"""What ``n_ctx`` costs: memory before and after the first generation, and time per token."""

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
from llm_latency.views.contexts import with_costs
from llm_latency.words import MIB, MS

LINES = {
    "resident, first answer": ("rss_after_first_bytes", "-", "D"),
    "resident, loaded": ("rss_after_load_bytes", (0, (5, 2)), "o"),
    "compute buffers": ("compute_bytes", (0, (6, 2, 1.2, 2)), "^"),
    "KV cache": ("kv_bytes", (0, (1.2, 1.6)), "s"),
}
"""What is drawn of the memory, from the top: its column, dash and marker."""


@styled
def context_size(df: pd.DataFrame, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw memory by ``n_ctx`` at its fullest, and time per token by tokens in the context.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    axes
        Two axes to draw into; a new figure if not given.
    """
    data, own = with_costs(df), axes is None
    left, right = style.two_axes(axes)
    _draw_memory(data, left)
    _draw_tokens(data, right)
    style.say_below(left, style.say_failures(data), own)
    return np.array([left, right])


def _draw_memory(data: pd.DataFrame, ax: Axes) -> None:
    ax.set_title("Memory by n_ctx")
    good = fr.ok(data)
    # A context that is full has touched all that it will: the largest of its processes.
    sizes = good.groupby("n_ctx")[[name for name, _, _ in LINES.values()]].max() * MIB
    known = sizes.dropna(how="all")
    if known.empty:
        why = "no memory is known" if len(good) else fr.status_words(data)
        style.say_empty(ax, f"Nothing was measured:\n{why}")
        return
    ends = []
    for (name, (column, dash, marker)), colour in zip(
        LINES.items(), style.ramp(len(LINES)), strict=True
    ):
        line = known[column].dropna()
        if line.empty:
            continue
        ax.plot(
            line.index,
            line,
            color=colour,
            linestyle=dash,
            marker=marker,
            markersize=5,
            linewidth=1.8,
            label=name,
        )
        ends.append(End(float(line.index[-1]), float(line.iloc[-1]), name, colour))
    both = known[["rss_after_load_bytes", "rss_after_first_bytes"]].dropna()
    if len(both) > 1:
        ax.fill_between(both.index, *both.to_numpy().T, color=style.FAINT, label="_growth", lw=0)
    ax.set_ylim(0, float(np.nanmax(known.to_numpy())) * 1.1)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(list(known.index), [f"{size:.0f}" for size in known.index])
    if len(known) > 6:
        ax.tick_params(axis="x", rotation=45)
    ax.set_xlabel("n_ctx, tokens")
    ax.set_ylabel("MiB")
    style.subtitle(ax, "Each context at its fullest.")
    label_ends(ax, ends)


def _draw_tokens(data: pd.DataFrame, ax: Axes) -> None:
    ax.set_title("Decode by tokens in the context")
    good = fr.ok(data)
    by = ["n_ctx", "prompt_tokens"]
    samples = per_process(data, "token_s", by).dropna() if len(data) else pd.DataFrame()
    if samples.empty:
        why = "one token shows no decode" if len(good) else fr.status_words(data)
        style.say_empty(ax, f"Nothing was measured:\n{why}")
        return
    found = estimates(good, "token_s", by)
    sizes = sorted(samples["n_ctx"].unique())
    ends = []
    for place, (size, colour) in enumerate(zip(sizes, style.ramp(len(sizes)), strict=True)):
        mine = samples[samples["n_ctx"] == size]
        depths = sorted(mine["prompt_tokens"].unique())
        values = [found[size, depth].times(MS) for depth in depths]
        draw_series(
            ax,
            (mine["prompt_tokens"], mine["token_s"] * MS),
            depths,
            values,
            label=f"n_ctx {size:.0f}",
            colour=colour,
            marker=style.MARKERS[place % len(style.MARKERS)],
            dash=style.DASHES[place % len(style.DASHES)],
        )
        ends.append(End(depths[-1], values[-1].median, f"{size:.0f}", colour))
    # Points of a disturbed process may lie far above: the medians' intervals set the scale.
    top = max(samples["token_s"].max() * MS, max(value.high for value in found.values()) * MS)
    ax.set_ylim(0, top * 1.08)
    ax.set_xlim(-0.04 * max(samples["prompt_tokens"]), max(samples["prompt_tokens"]) * 1.06)
    ax.set_xlabel("tokens in the context")
    ax.set_ylabel("ms per token")
    style.subtitle(ax, "Lines: n_ctx. Points: processes.")
    label_ends(ax, ends)
