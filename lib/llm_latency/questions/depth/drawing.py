"""A token and TTFT by depth, with the lines that were fitted, and the memory beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llm_latency.questions.depth.view import Kind, View
from llm_latency.report import figure as fig
from llm_latency.report import layout, phrases, style
from llm_latency.words import MIB, MS, several

PARTS = {"KV cache": "kv_bytes", "compute": "compute_bytes"}
"""What is drawn of the memory: the parts that these settings change."""


@style.styled
def figure(view: View, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw a token's time and TTFT by depth with their lines, and the memory of each kind."""
    measured = len(view.depths) > 0
    note = " Hollow: the other tool." * bool(len(view.beside))
    note += f" Red: {phrases.amount(view.bound_s, 'ms')}, the bound." * bool(view.bound_s)
    panels = {"A token": _draw_tokens, "TTFT of a message": _draw_waits, "Memory": _draw_memory}
    above = f"Points: processes; lines: fitted, up to where they end.{note}"
    return layout.pair(axes, view, panels, measured=measured, above=above, height=4.2)


def _draw_tokens(ax: Axes, view: View) -> None:
    _draw(ax, view, "token_s", "ms per token")


def _draw_waits(ax: Axes, view: View) -> None:
    _draw(ax, view, "ttft_s", "ms")
    if view.bound_s:
        ax.axhline(view.bound_s * MS, color=style.ALARM, linewidth=1.0, label="_bound")


def _draw(ax: Axes, view: View, column: str, label: str) -> None:
    top, far = 0.0, view.depths[-1]
    for place, (kind, colour) in enumerate(_coloured(view)):
        curves = view.curves(kind, column)
        points = view.of(kind).dropna(subset=[column])
        if points.empty:
            continue
        marker = style.MARKERS[place % len(style.MARKERS)]
        look: dict[str, Any] = {"s": 13, "marker": marker, "linewidths": 0, "alpha": 0.4}
        ax.scatter(points["depth_tokens"], points[column] * MS, color=colour, label="_", **look)
        if curves.slope.n:
            xs = np.linspace(curves.places[0], curves.places[-1], 200)
            fitted = np.nanmedian(curves.fitted(xs), axis=0) * MS
            if curves.broken:  # a gap where nobody knows
                fitted[(xs > curves.broken.last) & (xs < curves.broken.first)] = np.nan
            dash = style.DASHES[place % len(style.DASHES)]
            ax.plot(xs, fitted, color=colour, linestyle=dash, label=kind.words)
        others = view.beside_of(kind) if column == "token_s" else pd.Series(dtype=float)
        hollow: dict[str, Any] = {"facecolors": "none", "edgecolors": [colour]}
        ax.scatter(others.index, others * MS, s=34, marker=marker, label="_beside", **hollow)
        # One disturbed step must not press all others flat.
        typical = float(np.nanmax(np.nanmedian(curves.values, axis=0)))
        top = max(top, min(float(points[column].max()), 1.6 * typical) * MS)
    ax.set_xlim(0, far * 1.04 or 1)
    ax.set_ylim(0, max(top, view.bound_s * MS * (column == "ttft_s")) * 1.1 or 1)
    beyond = int((view.good[column] * MS > ax.get_ylim()[1]).sum())
    if beyond:
        style.subtitle(ax, f"{several(beyond, 'point')} above.")
    ax.set_xlabel("tokens in the context")
    ax.set_ylabel(label)
    ax.xaxis.set_major_formatter(layout.WHOLE)
    ax.locator_params(axis="x", nbins=4)


def _draw_memory(ax: Axes, view: View) -> None:
    sizes = {
        kind: {name: float(view.of(kind)[c].max()) * MIB for name, c in PARTS.items()}
        for kind in view.kinds
    }
    far = max((float(np.nansum(list(parts.values()))) for parts in sizes.values()), default=0.0)
    if not far > 0:
        style.say_empty(ax, "llama.cpp named no buffers")
        return
    colours = dict(zip(PARTS, style.PART_COLOURS[1:], strict=False))
    for place, (kind, colour) in enumerate(_coloured(view)):
        fig.stack(ax, place, sizes[kind], colours, lying=True, reach=far, thickness=0.5)
        look: dict[str, Any] = {"color": style.deep(colour), "fontweight": "bold"}
        layout.write(ax, kind.words, (0, place - 0.42), (14, 0), **look)
        marker = style.MARKERS[place % len(style.MARKERS)]
        ax.plot([far * 0.03], [place - 0.42], marker, color=colour, markersize=6, label="_key")
    layout.rows(ax, [], -0.7, len(sizes) - 0.5)
    ax.set_xlim(0, far * 1.02)
    ax.set_xlabel("MiB")
    style.subtitle(ax, "KV cache, then compute.")


def _coloured(view: View) -> list[tuple[Kind, Any]]:
    return list(zip(view.kinds, style.ramp(len(view.kinds)), strict=True))
