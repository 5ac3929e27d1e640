"""Prompt size: prefill by the length of the prompt, and how fast it runs at each length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from llm_latency.records import frame as fr
from llm_latency.report import style
from llm_latency.report.style import styled
from llm_latency.views.prompt_lengths import PromptLengths
from llm_latency.words import MS, number

MOST_BORDERS = 16
"""More edges of batches than that would be a hatching."""


@styled
def prompt_size(df: pd.DataFrame, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw prefill time by prompt tokens with its line, and prefill speed; edges are dotted.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    axes
        Two axes to draw into; a new figure if not given.
    """
    own = axes is None
    pair = style.two_axes(axes, 4.0)
    lengths = PromptLengths(df)
    for ax, title, draw in (
        (pair[0], "Prefill by length of the prompt", _time),
        (pair[1], "Prefill speed", _speed),
    ):
        ax.set_title(title)
        if not lengths.lengths:
            style.say_empty(ax, f"Nothing was measured:\n{fr.status_words(lengths.data)}")
            continue
        draw(ax, lengths)
    if lengths.lengths:
        # Spaced as one line above the figure, for both panels.
        style.say_above(pair[0], _legend(lengths), own)
        failed = lengths.failed()
        style.say_below(pair[0], f"Not drawn: prompts of {failed}." if failed else "", own)
    return np.array(pair)


def _legend(lengths: PromptLengths) -> str:
    text = "Points: processes; bars: intervals of medians."
    if not lengths.borders or lengths.batch_sizes is None:
        return text
    if len(lengths.borders) > MOST_BORDERS:
        return f"{text} Batches begin at every {lengths.batch_sizes[1]} tokens."
    return f"{text} Dotted: a further batch begins (n_ubatch {lengths.batch_sizes[1]})."


def _time(ax: Axes, lengths: PromptLengths) -> None:
    colour, other = style.ramp(4)[0], style.ramp(4)[3]
    points = lengths.points("prefill_s")
    if points.empty:
        style.say_empty(ax, "No prefill time is known")
        return
    ax.scatter(
        points["prompt_tokens"],
        points["prefill_s"] * MS,
        s=16,
        color=colour,
        alpha=0.45,
        linewidths=0,
        label="_processes",
    )
    far = lengths.lengths[-1]
    xs = np.linspace(0 if len(lengths.lengths) == 1 else lengths.lengths[0], far, 120)
    found, bend = lengths.line("prefill_s"), lengths.bend
    if found is not None:
        low, high = np.array([found.bounds(x) for x in xs]).T * MS
        ax.fill_between(xs, low, high, color=colour, alpha=0.18, linewidth=0, label="_band")
        label = f"line: {number(found.slope * 1000 * MS)} ms per 1,000 tokens"
        ax.plot(xs, [found.at(x) * MS for x in xs], color=colour, linewidth=1.8, label=label)
    if bend is not None and bend.turn in ("upwards", "downwards"):
        curve = [bend.at(x) * MS for x in xs]
        label = f"with a square: bends {bend.turn}"
        ax.plot(xs, curve, color=other, linestyle=style.DASHES[1], linewidth=1.8, label=label)
    _borders(ax, lengths)
    ax.set_xlim(0, far * 1.04)
    ax.set_ylim(0, float(points["prefill_s"].max()) * MS * 1.22 or 1)
    ax.set_xlabel("prompt, tokens")
    ax.set_ylabel("prefill, ms")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if found is not None:
        ax.legend(
            loc="upper left", borderaxespad=0.0, frameon=True, facecolor="white", edgecolor="none"
        )


def _speed(ax: Axes, lengths: PromptLengths) -> None:
    colour = style.ramp(4)[1]
    points = lengths.points("prefill_tps")
    if points.empty:
        style.say_empty(ax, "No prefill speed is known")
        return
    ax.scatter(
        points["prompt_tokens"],
        points["prefill_tps"],
        s=16,
        color=colour,
        alpha=0.45,
        linewidths=0,
        label="_processes",
    )
    found = {n: value for n, value in lengths.estimates("prefill_tps").items() if value.n}
    xs = sorted(found)
    low, middle, high = (
        [getattr(found[n], bound) for n in xs] for bound in ("low", "median", "high")
    )
    ax.vlines(xs, low, high, color=colour, linewidth=2.2, alpha=0.55)
    ax.plot(xs, middle, color=colour, marker="o", markersize=4.5, linewidth=1.6, label="median")
    # Each doubling as wide as the next: the short prompts are where speed changes most.
    ax.set_xscale("log", base=2)
    _borders(ax, lengths)
    ax.set_xlim(xs[0] / 1.3, xs[-1] * 1.3)
    ax.set_ylim(0, float(points["prefill_tps"].max()) * 1.08 or 1)
    ax.set_xticks(_apart(xs))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_xlabel("prompt, tokens (log scale)")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_ylabel("prefill, tok/s")


def _apart(lengths: list[float]) -> list[float]:
    """Return those of the lengths whose names do not touch on a logarithmic axis."""
    kept: list[float] = []
    for n in reversed(lengths):
        if not kept or n * 2.8 <= kept[-1]:
            kept.append(n)
    return kept


def _borders(ax: Axes, lengths: PromptLengths) -> None:
    if len(lengths.borders) <= MOST_BORDERS:
        for border in lengths.borders:
            ax.axvline(
                border,
                color=style.MUTED,
                linewidth=0.9,
                linestyle=style.DASHES[2],
                zorder=0.5,
                label="_edge",
            )
