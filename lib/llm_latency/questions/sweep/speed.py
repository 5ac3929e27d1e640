"""Speed over the grid of ``n_ctx`` and ``n_batch``."""

from __future__ import annotations

from itertools import product

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from llm_latency.errors import ParameterError
from llm_latency.questions.sweep.view import View
from llm_latency.records import frame as fr
from llm_latency.report import style
from llm_latency.stats.estimate import FEWEST, Estimate, per_process
from llm_latency.words import counts, number, percent, setting

TITLES = {"decode_tps": "Decode speed, tok/s", "prefill_tps": "Prefill speed, tok/s"}


@style.styled
def speed_heatmap(view: View, metric: fr.Metric = "decode_tps", ax: Axes | None = None) -> Axes:
    """Draw speed over ``n_ctx`` and ``n_batch``, with n, and failed cells as what they are.

    The colours span at least 10 % of the median to either side, so that noise does not look
    like a result; the title says how far the cells are apart, and processes of one cell.

    Parameters
    ----------
    view
        The sweep.
    metric
        ``"decode_tps"`` or ``"prefill_tps"``, at the longest prompt that was measured.
    ax
        Axes to draw into; a new figure if not given.
    """
    if metric not in TITLES:
        raise ParameterError(f"metric={metric!r} is refused: give 'decode_tps' or 'prefill_tps'.")
    table = fr.cells(view.data)
    row_names = [name for name in fr.keys(view.data) if name != "n_batch"]
    rows = list(dict.fromkeys(_row_label(cell, row_names) for _, cell in table.iterrows()))
    columns = [setting(value) for value in sorted(table["n_batch"].unique())]
    if ax is None:
        ax = style.new_axes(8.0, 1.65 + 0.62 * max(1, len(rows)))
    ax.set_title(TITLES[metric])
    if table.empty:
        return style.say_empty(ax, "Nothing was measured")
    part = view.data if view.longest is None else view.at_longest
    speeds = view.estimates(metric)
    norm = _honest_range([speed.median for speed in speeds.values()])
    for y, x in product(range(len(rows)), range(len(columns))):
        _draw_empty_cell(ax, x, y)
    for _, cell in table.iterrows():
        x = columns.index(setting(cell["n_batch"]))
        y = rows.index(_row_label(cell, row_names))
        mine = part[part["cell"] == cell["cell"]]
        _draw_cell(ax, x, y, speeds.get(cell["cell"]), mine, metric, norm)
    ax.set(xlim=(0, len(columns)), ylim=(0, len(rows)))
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns)
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows)
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("n_batch")
    ax.set_ylabel(" · ".join(row_names))
    if speeds:
        style.subtitle(ax, _say_span(view, metric, speeds))
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


def _say_span(view: View, metric: str, speeds: dict[str, Estimate]) -> str:
    """Say how far the cells are apart, and how far processes of one and the same cell."""
    text = f"Medians after a prompt of {view.longest:,.0f} tokens; n: processes"
    medians = [speed.median for speed in speeds.values()]
    if len(medians) < 2:
        return text
    apart = (max(medians) - min(medians)) / float(np.median(medians))
    text += f"; slowest to fastest {percent(apart)}"
    each = per_process(view.at_longest, metric, ["cell"]).dropna().groupby("cell")[metric]
    within = ((each.max() - each.min()) / each.median())[each.count() > 1]
    if len(within):
        text += f", within a cell up to {percent(float(within.max()))}"
    return text + (" (n < 6)" if int(each.count().min()) < FEWEST else "")


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
