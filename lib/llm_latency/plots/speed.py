"""Speed over the grid of ``n_ctx`` and ``n_batch``."""

from __future__ import annotations

from itertools import product
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from llm_latency.errors import ParameterError
from llm_latency.records import frame as fr
from llm_latency.report import style
from llm_latency.report.style import styled
from llm_latency.stats.estimate import FEWEST, Estimate, estimates
from llm_latency.words import counts, number, percent, setting


@styled
def speed_heatmap(
    df: pd.DataFrame, metric: fr.Metric = "decode_tps", ax: Axes | None = None
) -> Axes:
    """Draw speed over ``n_ctx`` and ``n_batch``, with n, and failed cells as what they are.

    The colours span at least 10 % of the median to either side, so that noise does not look
    like a result; the title says how far the cells really are apart.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    metric
        ``"decode_tps"`` or ``"prefill_tps"``, at the longest prompt that was measured.
    ax
        Axes to draw into; a new figure if not given.
    """
    titles = {"decode_tps": "Decode speed, tok/s", "prefill_tps": "Prefill speed, tok/s"}
    if metric not in titles:
        raise ParameterError(f"metric={metric!r} is refused: give 'decode_tps' or 'prefill_tps'.")
    data = fr.prepare(df)
    table = fr.cells(data)
    row_names = [name for name in fr.keys(data) if name != "n_batch"]
    rows = list(dict.fromkeys(_row_label(cell, row_names) for _, cell in table.iterrows()))
    columns = [setting(value) for value in sorted(table["n_batch"].unique())]
    if ax is None:
        ax = style.new_axes(8.0, 1.65 + 0.62 * max(1, len(rows)))
    ax.set_title(titles[metric])
    if table.empty:
        return style.say_empty(ax, "Nothing was measured")
    longest = fr.longest_prompt(data)
    at_length = data if longest is None else data[data["prompt_tokens"] == longest]
    found = estimates(at_length, metric, ["cell"])
    measured = [value.median for value in found.values() if value.n]
    norm = _honest_range(measured)
    for y, x in product(range(len(rows)), range(len(columns))):
        _draw_empty_cell(ax, x, y)
    for _, cell in table.iterrows():
        x = columns.index(setting(cell["n_batch"]))
        y = rows.index(_row_label(cell, row_names))
        part = at_length[at_length["cell"] == cell["cell"]]
        _draw_cell(ax, x, y, found.get(cell["cell"]), part, metric, norm)
    ax.set(xlim=(0, len(columns)), ylim=(0, len(rows)))
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns)
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows)
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("n_batch")
    ax.set_ylabel(" · ".join(row_names))
    if measured:
        style.subtitle(ax, _say_span(measured, longest, found))
        scale = mpl.cm.ScalarMappable(norm, style.SHADES)
        ax.figure.colorbar(scale, ax=ax, label="tok/s", shrink=0.9, pad=0.02)
    return ax


def _row_label(cell: pd.Series, names: list[str]) -> str:
    return " · ".join(setting(cell[name]) for name in names)


def _honest_range(values: list[float]) -> Normalize:
    if not values:
        return Normalize(0, 1)
    middle = float(np.median(values))
    return Normalize(min(0.9 * middle, *values), max(1.1 * middle, *values))


def _say_span(values: list[float], longest: float | None, found: dict[Any, Estimate]) -> str:
    samples = sorted({value.n for value in found.values() if value.n})
    text = f"Medians after a prompt of {longest:,.0f} tokens; n: processes"
    if len(values) > 1:
        apart = (max(values) - min(values)) / float(np.median(values))
        text += f"; slowest to fastest {percent(apart)}"
        if samples[0] < FEWEST:
            text += " (n < 6: may be noise)"
    return text


def _draw_empty_cell(ax: Axes, x: int, y: int) -> None:
    # Lies under every cell: what still shows was not part of the plan.
    ax.add_patch(Rectangle((x, y), 1, 1, facecolor="white", edgecolor=style.FAINT))
    ax.text(
        x + 0.5,
        y + 0.5,
        "not planned",
        ha="center",
        va="center",
        fontsize=9,
        color=style.HATCH,
        zorder=0.5,
    )


def _draw_cell(
    ax: Axes,
    x: int,
    y: int,
    value: Estimate | None,
    part: pd.DataFrame,
    metric: str,
    norm: Normalize,
) -> None:
    if value is not None and value.n:
        colour = style.SHADES(norm(value.median))
        ax.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white", linewidth=2))
        ink = "white" if style.luminance(colour) < 0.5 else style.INK
        others = fr.processes(part)["status"].loc[lambda status: status != "ok"]
        below = f"n {value.n}" + (f", {counts(others)}" if len(others) else "")
        ax.text(
            x + 0.5,
            y + 0.56,
            number(value.median),
            ha="center",
            va="center",
            color=ink,
            fontsize=12,
            fontweight="bold",
        )
        ax.text(x + 0.5, y + 0.24, below, ha="center", va="center", color=ink, fontsize=8.5)
        return
    words = fr.status_words(part)
    seen = part.loc[part["status"] == "invalid", metric].median()
    if np.isfinite(seen):
        words = f"invalid: {number(float(seen))}"
    style.hatch_box(ax, x + 0.01, y + 0.02, 0.98, 0.96, words)
