"""One line of a figure: a point per process, the medians joined, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from llm_latency.stats.estimate import Estimate


def draw_series(
    ax: Axes,
    samples: tuple[pd.Series, pd.Series],
    at: Sequence[float],
    values: Sequence[Estimate],
    *,
    label: str,
    colour: Any,
    marker: str,
    dash: Any,
) -> None:
    """Draw the processes of a line, its medians, and their intervals or ranges.

    Parameters
    ----------
    ax
        Axes to draw into.
    samples
        Places and values of the processes.
    at, values
        Places and estimates of the line's points, as they are to be shown.
    label
        Name of the line; its samples have none in a legend.
    colour, marker, dash
        How it looks.
    """
    ax.scatter(
        *samples,
        s=15,
        marker=marker,
        color=colour,
        alpha=0.4,
        linewidths=0,
        label=f"_samples {label}",
    )
    ax.vlines(
        at,
        [value.low for value in values],
        [value.high for value in values],
        color=colour,
        linewidth=2.2,
        alpha=0.55,
    )
    ax.plot(
        at,
        [value.median for value in values],
        color=colour,
        linestyle=dash,
        marker=marker,
        markersize=5,
        linewidth=1.8,
        label=label,
    )
