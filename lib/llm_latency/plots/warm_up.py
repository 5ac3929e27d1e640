"""Warm-ups: what was paid before the question and what the user waits after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from llm_latency.records import frame as fr
from llm_latency.report import style
from llm_latency.report.labels import End, label_ends
from llm_latency.report.style import styled
from llm_latency.views.first_replies import NONE, ORDER, STATES, FirstReplies, Place
from llm_latency.words import MS, number

PAID, WAITED = "#c3ccd6", "#27375f"
"""Colours of the warm-up and of the first TTFT: light and dark, in print too."""
HEIGHT = 0.62
Row = tuple[Place, str]


@styled
def warm_up(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the warm-up to the left of the question and the first TTFT to its right.

    One bar per strategy and state of the page cache, at the longest prompt; points are
    processes. Both parts begin at zero, so that both can be compared.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    ax
        Axes to draw into; a new figure if not given.
    """
    data, own = fr.prepare(df), ax is None
    replies = FirstReplies(df)
    rows = _rows(data)
    groups = list(dict.fromkeys(place for place, _ in rows))
    ax = ax or style.new_axes(8.0, 1.5 + 0.33 * (len(rows) + len(groups)))
    ax.set_title("Warm-up and first reply")
    if not replies.measured:
        return style.say_empty(ax, f"Nothing was measured:\n{fr.status_words(data)}")
    left, right = _reach(replies, rows)
    y, ticks = 0.0, []
    for place in groups:
        ax.text(
            -left * 1.18, y, f"model's {place.words}", va="center", fontweight="bold", fontsize=9.5
        )
        for kind in (kind for at, kind in rows if at == place):
            y += 1
            ticks.append((y, kind))
            if kind in replies.measured.get(place, []):
                _bar(ax, replies, y, place, kind)
            else:
                mine = _of(data, place, kind)
                style.hatch_box(
                    ax, 0, y - HEIGHT / 2, right * 0.5, HEIGHT, fr.status_words(data[mine])
                )
        y += 1.3
    ax.axvline(0, color=style.INK, linewidth=1.0)
    ax.set_xlim(-left * 1.2, right * 1.16)
    ax.set_ylim(y - 0.6, -0.8)
    ax.set_yticks([at for at, _ in ticks], [kind for _, kind in ticks])
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.grid(visible=True, axis="x")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{abs(x):,.10g}"))
    ax.set_xlabel("◀ warm-up, paid before the question   |   first TTFT, waited ▶   (ms)")
    tokens = groups[0].prompt
    style.subtitle(ax, f"First prompt of {tokens:,.0f} tokens. Bars: medians; points: processes.")
    style.say_below(ax, style.say_failures(data), own)
    return ax


def _rows(data: pd.DataFrame) -> list[Row]:
    """Return every strategy planned at the longest prompt, by state of the page cache."""
    if data.empty:
        return []
    part = data[data["prompt_tokens"] == data["prompt_tokens"].max()]
    found = {
        (Place(str(state), float(tokens)), str(kind))
        for state, tokens, kind in part[["page_cache", "prompt_tokens", "warm_up"]].itertuples(
            index=False, name=None
        )
    }
    return sorted(found, key=lambda row: (list(STATES).index(row[0].page_cache), _order(row[1])))  # type: ignore[arg-type]


def _order(kind: str) -> int:
    return ORDER.index(kind)


def _of(data: pd.DataFrame, place: Place, kind: str) -> pd.Series[bool]:
    return (
        (data["page_cache"] == place.page_cache)
        & (data["prompt_tokens"] == place.prompt)
        & (data["warm_up"] == kind)
    )


def _reach(replies: FirstReplies, rows: Sequence[Row]) -> tuple[float, float]:
    """Return how far the bars go to either side, in ms."""
    mine = [row for row in rows if row[1] in replies.measured.get(row[0], [])]
    before, after = (
        max((replies.samples(name, *row).max() * MS for row in mine), default=0.0)
        for name in ("warm_up_s", "ttft_s")
    )
    after = after or 1.0
    # Without any warm-up the group's name still needs a place.
    return max(before, 0.25 * after), after


def _bar(ax: Axes, replies: FirstReplies, y: float, place: Place, kind: str) -> None:
    for name, sign, colour in (("warm_up_s", -1, PAID), ("ttft_s", 1, WAITED)):
        each = replies.samples(name, place, kind) * MS
        middle = float(each.median())
        if not middle > 0:
            continue
        ax.barh(y, sign * middle, HEIGHT, color=colour, label=f"_{name} {kind}")
        ax.scatter(
            sign * each,
            # Below its bar, whose end has the number.
            np.full(len(each), y + HEIGHT / 2 + 0.1),
            s=13,
            color=style.MUTED,
            edgecolors="white",
            linewidths=0.5,
            zorder=3,
            label="_samples",
        )
        ax.annotate(
            number(middle),
            (sign * middle, y),
            (sign * 6, 0),
            textcoords="offset points",
            va="center",
            ha="left" if sign > 0 else "right",
            fontsize=9.5,
            color=style.INK if sign > 0 else style.MUTED,
        )


@styled
def warm_up_by_prompt(df: pd.DataFrame, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw first TTFT and warm-up against the length of the first prompt, a line per strategy.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    axes
        Two axes to draw into; a new figure if not given.
    """
    data, own = fr.prepare(df), axes is None
    pair = style.two_axes(axes)
    replies = FirstReplies(df)
    for ax, column, title in (
        (pair[0], "warm_up_s", "Warm-up, paid before"),
        (pair[1], "ttft_s", "First TTFT, waited"),
    ):
        ax.set_title(title)
        if not replies.measured:
            style.say_empty(ax, f"Nothing was measured:\n{fr.status_words(data)}")
            continue
        _lines(ax, replies, column)
    if replies.measured:
        state = next(iter(replies.measured)).words
        style.say_above(pair[0], f"Model's {state}. Points: processes; lines: medians.", own)
    style.say_below(pair[0], style.say_failures(data), own)
    return np.array(pair)


def _lines(ax: Axes, replies: FirstReplies, column: str) -> None:
    """Draw one column against the prompt, in the state of the page cache that leads."""
    state = next(iter(replies.measured)).page_cache
    places = [place for place in reversed(replies.measured) if place.page_cache == state]
    palette = style.ramp(len(ORDER))
    ends, top = [], 0.0
    for index, kind in enumerate(ORDER):
        mine = [place for place in places if kind in replies.measured[place]]
        if not mine or (kind == NONE and column == "warm_up_s"):
            continue
        look = {"color": palette[index], "marker": style.MARKERS[index]}
        middle = [replies.estimate(column, place, kind).median * MS for place in mine]
        for place in mine:
            each = replies.samples(column, place, kind) * MS
            top = max(top, float(each.max()))
            ax.scatter([place.prompt] * len(each), each, s=13, alpha=0.4, linewidths=0, **look)
        lengths = [place.prompt for place in mine]
        ax.plot(lengths, middle, **look, markersize=5, linewidth=1.8, label=kind)
        ends.append(End(lengths[-1], middle[-1], kind, palette[index]))
    lengths = [place.prompt for place in places]
    ax.set_xlim(0, max(lengths) * 1.04)
    ax.set_xticks(lengths)
    ax.set_xlabel("first prompt, tokens")
    ax.set_ylabel("ms")
    ax.set_ylim(0, top * 1.08 if top > 0 else 1)
    label_ends(ax, ends)
