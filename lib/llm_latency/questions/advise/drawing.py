"""The candidates of an advice, a row each: how late they answer, and what they take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from llm_latency.questions.advise.judgement import View
from llm_latency.questions.advise.options import Option
from llm_latency.records import frame as fr
from llm_latency.report import figure as fig
from llm_latency.report import style
from llm_latency.words import MIB, MS, number

NEAR = 1.4
"""A bound further away than that many times what was measured is not drawn."""
COLOUR = style.RAMP(0.3)
APART = 0.13
"""How far TTFT stands above its row, and the answer below."""
SHORT = 0.18
"""Share of the axis up to which a bar is too short to bear its number."""


@style.styled
def figure(view: View, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw each candidate's TTFT and answer, and beside it the memory that it takes."""
    advice, needs = view.advice, view.advice.needs
    options = [*reversed(advice.options)]
    left, right = style.two_axes(axes, height=1.6 + 0.34 * max(2, len(options)))
    left.set_title("How late each answers")
    right.set_title("What each takes")
    if not any(one.answer.n for one in options):
        for ax in (left, right):
            style.say_empty(ax, f"Nothing was measured:\n{fr.status_words(view.data)}")
        return np.array([left, right])
    late = max(one.answer.high for one in options if one.answer.n) * MS
    taken = max(max(one.need_bytes or 0, one.predicted_bytes) * MIB for one in options)
    for place, one in enumerate(options):
        _draw_times(left, place, one, late)
        _draw_memory(right, place, one, taken)
    for ax, reach, bound, text in (
        (left, late, (needs.ttft_s or 0.0) * MS, "TTFT asked for"),
        (right, taken, needs.limit_bytes * MIB, "may be taken"),
    ):
        near = 0 < bound <= NEAR * reach
        ax.set_xlim(0, max(reach * 1.16, bound * 1.06 if near else 0.0))
        ax.set_ylim(-0.9, len(options) - 0.3)
        ax.grid(visible=False)
        if near:
            _draw_bound(ax, bound, text)
    left.set_yticks(range(len(options)), [one.name for one in options])
    for label, one in zip(left.get_yticklabels(), options, strict=True):
        label.set_fontweight("bold" if one is advice.chosen else "normal")
    right.set_yticks([])
    whole = "loading and answer" if needs.waits_for_load else "answer"
    style.subtitle(left, f"Hollow: TTFT; filled: {whole}.")
    style.subtitle(right, "Bars: measured; diamonds: predicted.")
    left.set_xlabel("ms")
    right.set_xlabel(f"MiB of {needs.word}")
    return np.array([left, right])


def _draw_times(ax: Axes, at: int, one: Option, reach: float) -> None:
    if one.measured != "ok" or not one.answer.n:
        style.hatch_box(ax, 0, at - 0.3, reach * 0.5, 0.6, one.measured or "not measured")
        return
    first, last = one.ttft.times(MS), one.answer.times(MS)
    ends = [first.median, last.median], [at + APART, at - APART]
    ax.plot(*ends, color=COLOUR, linewidth=1.0, alpha=0.6)
    # One above the other, so that wide intervals do not hide each other.
    for value, fill, beside in ((first, "white", APART), (last, COLOUR, -APART)):
        ax.hlines(at + beside, value.low, value.high, color=COLOUR, linewidth=4, alpha=0.35)
        ax.plot(value.median, at + beside, "o", color=COLOUR, markersize=6.5, markerfacecolor=fill)


def _draw_memory(ax: Axes, at: int, one: Option, reach: float) -> None:
    takes, predicted = (one.need_bytes or 0.0) * MIB, one.predicted_bytes * MIB
    fig.stack(ax, at, {"takes": takes}, {"takes": COLOUR}, thickness=0.55, lying=True)
    if predicted:
        ax.plot(predicted, at, "D", color=style.RAMP(0.95), markersize=6.5, markeredgecolor="white")
    # Measured: at the foot of its bar, away from the diamond; else beside the diamond.
    text, where, colour = number(takes), 0.0, "white"
    if takes < SHORT * reach:
        text, where, colour = number(takes or predicted), max(takes, predicted), style.MUTED
    ax.annotate(
        text, (where, at), (7, 0), "data", "offset points", va="center", color=colour, fontsize=9
    )


def _draw_bound(ax: Axes, at: float, text: str) -> None:
    """Draw a dashed line, its name on the side where there is room."""
    left = at > ax.get_xlim()[1] / 2
    ax.axvline(at, color=style.INK, linewidth=1.2, linestyle=(0, (4, 3)), label=f"_{text}")
    ax.annotate(
        text,
        (at, 0),
        (-4 if left else 4, 3),
        xycoords=ax.get_xaxis_transform(),
        textcoords="offset points",
        ha="right" if left else "left",
        va="bottom",
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )
