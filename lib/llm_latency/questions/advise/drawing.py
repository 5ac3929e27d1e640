"""The candidates of an advice, a row each: how late they answer, and what they take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from llm_latency.questions.advise.judgement import View
from llm_latency.report import figure as fig
from llm_latency.report import layout, style
from llm_latency.words import MIB, MS, number

NEAR = 1.4
"""A bound further away than that many times what was measured is not drawn."""
COLOUR, PREDICTED = style.RAMP(0.3), style.RAMP(0.95)
APART = 0.13
"""How far TTFT stands above its row, and the answer below."""
SHORT = 0.18
"""Share of the axis up to which a bar is too short to bear its number."""


@style.styled
def figure(view: View, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw each candidate's TTFT and answer, and beside it the memory that it takes."""
    options = view.advice.options
    return layout.pair(
        axes,
        view,
        {"How late each answers": _draw_times, "What each takes": _draw_memory},
        measured=any(one.answer.n for one in options),
        below="",
        height=1.6 + 0.34 * max(2, len(options)),
    )


def _draw_times(ax: Axes, view: View) -> None:
    advice, needs = view.advice, view.advice.needs
    reach = max(one.answer.high for one in advice.options if one.answer.n) * MS
    _rows(ax, [one.name for one in advice.options])
    for label, one in zip(ax.get_yticklabels(), advice.options, strict=True):
        label.set_fontweight("bold" if one is advice.chosen else "normal")
    for at, one in enumerate(advice.options):
        if one.measured != "ok" or not one.answer.n:
            style.hatch_box(ax, 0, at - 0.3, reach * 0.5, 0.6, one.measured or "not measured")
            continue
        first, last = one.ttft.times(MS), one.answer.times(MS)
        ends = [first.median, last.median], [at - APART, at + APART]
        ax.plot(*ends, color=COLOUR, linewidth=1.0, alpha=0.6)
        # One above the other, so that wide intervals do not hide each other.
        for value, fill, y in ((first, "white", at - APART), (last, COLOUR, at + APART)):
            ax.hlines(y, value.low, value.high, color=COLOUR, linewidth=4, alpha=0.35)
            ax.plot(value.median, y, "o", color=COLOUR, markersize=6.5, markerfacecolor=fill)
    _draw_bound(ax, reach, (needs.ttft_s or 0.0) * MS, "TTFT asked for")
    whole = "loading and answer" if needs.waits_for_load else "answer"
    style.subtitle(ax, f"Hollow: TTFT; filled: {whole}.")
    ax.set_xlabel("ms")


def _draw_memory(ax: Axes, view: View) -> None:
    options, needs = view.advice.options, view.advice.needs
    reach = max(max(one.need_bytes or 0, one.predicted_bytes) * MIB for one in options)
    _rows(ax, [""] * len(options))
    for at, one in enumerate(options):
        takes, predicted = (one.need_bytes or 0.0) * MIB, one.predicted_bytes * MIB
        fig.stack(ax, at, {"takes": takes}, {"takes": COLOUR}, thickness=0.55, lying=True)
        if predicted:
            ax.plot(predicted, at, "D", color=PREDICTED, markersize=6.5, markeredgecolor="white")
        # Measured: at the foot of its bar, away from the diamond; else beside the diamond.
        if takes >= SHORT * reach:
            layout.write(ax, number(takes), (0, at), (7, 0), color="white")
        else:
            beside = max(takes, predicted)
            layout.write(ax, number(takes or predicted), (beside, at), (7, 0), color=style.MUTED)
    _draw_bound(ax, reach, needs.limit_bytes * MIB, "may be taken")
    style.subtitle(ax, "Bars: measured; diamonds: predicted.")
    ax.set_xlabel(f"MiB of {needs.word}")


def _rows(ax: Axes, names: Sequence[str]) -> None:
    layout.rows(ax, list(enumerate(names)), -0.7, len(names) - 0.1)


def _draw_bound(ax: Axes, reach: float, bound: float, text: str) -> None:
    """Draw a dashed line where a bound is near, its name on the side where there is room."""
    near = 0 < bound <= NEAR * reach
    ax.set_xlim(0, max(reach * 1.16, bound * 1.06 if near else 0.0))
    if not near:
        return
    left = bound > ax.get_xlim()[1] / 2
    ax.axvline(bound, color=style.INK, linewidth=1.2, linestyle=(0, (4, 3)))
    layout.write(
        ax,
        text,
        (bound, ax.get_ylim()[0]),
        (-4 if left else 4, 8),
        ha="right" if left else "left",
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )
