"""The candidates of an advice: how late each answers against what it takes, and the limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from llm_latency.plots.memory import latency_by_memory
from llm_latency.questions.advise.judgement import judge
from llm_latency.questions.advise.options import timed
from llm_latency.records import frame as fr
from llm_latency.report import style
from llm_latency.report.style import styled
from llm_latency.words import MIB, MS

NEAR = 1.25
"""A limit further away than that many times the largest candidate is not drawn."""


@styled
def advise(df: pd.DataFrame, info: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Draw each candidate's latency against the memory that it takes, and ring the one advised.

    Parameters
    ----------
    df
        Rows of a run of ``advise``, ``run.frame()``.
    info
        The content of ``run.json``.
    ax
        Axes to draw into; a new figure if not given.
    """
    found = judge(df, info)
    rows = timed(df, found.needs)
    ax = latency_by_memory(rows, ax)
    ax.set_title("The candidates", loc="left", pad=22)
    limit = found.needs.limit_bytes * MIB
    low, high = ax.get_xlim()
    if limit <= NEAR * high and fr.longest_prompt(fr.prepare(rows)) is not None:
        ax.axvline(limit, color=style.INK, linewidth=1.2, linestyle=(0, (4, 3)))
        ax.set_xlim(min(low, limit - (high - low) * 0.05), max(high, limit + (high - low) * 0.05))
        ax.annotate(
            "may be taken",
            (limit, 1.0),
            (-4, -4),
            xycoords=ax.get_xaxis_transform(),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=9,
        )
    chosen = found.chosen
    data = fr.ok(fr.prepare(rows))
    if chosen is not None and len(data):
        column = fr.memory_choice(data)[0]
        mine = data[
            (data["n_ubatch"] == chosen.settings.n_ubatch)
            & (data["flash_attn"] == chosen.settings.flash_attn)
            & (data["n_gpu_layers"] == chosen.settings.n_gpu_layers)
        ]
        at = (float(mine[column].max() * MIB), float(mine["total_s"].median() * MS))
        ax.plot(
            *at,
            marker="o",
            markersize=15,
            markerfacecolor="none",
            markeredgecolor=style.INK,
            markeredgewidth=1.6,
            linestyle="none",
            label="_advised",
        )
    return ax
