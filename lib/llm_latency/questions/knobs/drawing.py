"""A row for each knob, the largest effect first: what it does to TTFT, decode and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from llm_latency.questions.knobs.judgement import Effect, View
from llm_latency.report import layout, phrases, style
from llm_latency.stats.compare import Comparison
from llm_latency.words import MIB

LOOKS: dict[str, dict[str, Any]] = {
    "decided": {"color": style.RAMP(0.3)},
    "same": {"color": style.HATCH, "alpha": 0.6},
    "undecided": {"facecolor": "white", "edgecolor": style.HATCH, "hatch": "////"},
}
"""How a bar looks by its verdict."""
SMALLEST, LARGEST = 5.0, 40.0
"""The axes of times show so many per cent at least, and at most; a longer bar is cut."""


@style.styled
def figure(view: View, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw each knob's change of TTFT, decode and memory, with intervals and the noise floor."""
    knobs = view.effects
    return layout.pair(
        axes,
        view,
        {
            "TTFT": partial(_draw_times, word="TTFT", names=True),
            "Decode": partial(_draw_times, word="decode"),
            view.memory[1]: _draw_memory,
        },
        measured=bool(knobs),
        above="Dark: beyond the noise of all together (band); grey: same; hatched: undecided; "
        "lines: intervals; ›: cut.",
        below="",
        height=1.7 + 0.31 * max(3, len(knobs)),
    )


def _draw_times(ax: Axes, view: View, word: str, names: bool = False) -> None:
    found = [one.times[word] for one in view.effects]
    known = [one for one in found if one.ratio.n]
    floor = next((one.noise_floor for one in known if one.noise_floor), 0.0) * 100
    ends = [abs(end - 1) * 100 for one in known for end in (one.ratio.low, one.ratio.high)]
    reach = min(LARGEST, max([SMALLEST, 1.5 * floor, *ends]) * 1.08)
    _rows(ax, view.effects, names)
    ax.set_xlim(-reach, reach)
    ax.set_xlabel("change, %")
    ax.axvspan(-floor, floor, color=style.FAINT, alpha=0.7, linewidth=0, label="_floor")
    for at, one in enumerate(found):
        if not one.ratio.n:
            style.hatch_box(ax, -reach, at - 0.31, 2 * reach, 0.62, view.effects[at].trials)
            continue
        _bar(ax, at, one.change * 100, "decided" if _decided(one) else one.verdict)
        low, high = ((end - 1) * 100 for end in (one.ratio.low, one.ratio.high))
        if one.ratio.n > 1:
            ax.hlines(at, low, high, color=style.INK, linewidth=1.3, label="_interval")
        if abs(one.change) * 100 > reach:
            _cut(ax, at, math.copysign(reach, one.change))
        _beside(ax, at, phrases.change(one).split(" [")[0].split(" (")[0].removesuffix(one.verdict))


def _decided(one: Comparison) -> bool:
    return one.verdict in ("faster", "slower")


def _draw_memory(ax: Axes, view: View) -> None:
    sizes = [one.memory_bytes * MIB for one in view.effects]
    equal = view.equal_bytes * MIB
    reach = np.nanmax([1.0, equal, *np.abs(sizes)]) * 1.12
    _rows(ax, view.effects)
    ax.set_xlim(-reach, reach)
    ax.set_xlabel("more, MiB")
    if equal > 0:
        ax.axvspan(-equal, equal, color=style.FAINT, alpha=0.7, linewidth=0, label="_floor")
    for at, (one, size) in enumerate(zip(view.effects, sizes, strict=True)):
        if np.isnan(size):
            _beside(ax, at, "–")
            continue
        _bar(ax, at, size, "decided" if one.memory_matters else "same")
        _beside(ax, at, phrases.more_mib(one.memory_bytes))


def _rows(ax: Axes, knobs: Sequence[Effect], names: bool = False) -> None:
    named = [(at, one.name if names else "") for at, one in enumerate(knobs)]
    layout.rows(ax, named, -0.7, len(knobs) - 0.3)
    ax.tick_params(axis="y", labelsize=8.5)
    ax.axvline(0, color=style.MUTED, linewidth=0.8)


def _bar(ax: Axes, at: int, size: float, kind: str) -> None:
    ax.barh(at, size, 0.62, linewidth=0.6, label=f"_{kind}", **LOOKS[kind])


def _cut(ax: Axes, at: int, end: float) -> None:
    white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    layout.write(ax, "›" if end > 0 else "‹", (end, at), (0, 0), ha="center", bbox=white)


def _beside(ax: Axes, at: int, text: str) -> None:
    """Write a number at the right end of a row, where no bar can cover it."""
    layout.write(ax, text.strip(), (1, at), (4, 0), xycoords=ax.get_yaxis_transform(), fontsize=8)
