"""A conversation turn by turn: TTFT with and without the prompt cache, and time per token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llm_latency.plots.series import draw_series
from llm_latency.records import frame as fr
from llm_latency.report import style
from llm_latency.report.labels import End, label_ends
from llm_latency.report.style import styled
from llm_latency.views import chats
from llm_latency.views.chats import SHORT, Kind
from llm_latency.words import MS

LOOKS = {"kept": ("-", "o"), "cold": ((0, (5, 2)), "s")}
"""Dash and marker of a chat with the prompt cache and without."""


@styled
def conversation(df: pd.DataFrame, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw TTFT by turn, and time per token by turn beside that after short prompts.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    axes
        Two axes to draw into; a new figure if not given.
    """
    data, own = chats.prepared(df), axes is None
    left, right = style.two_axes(axes)
    kinds = chats.kinds(data)
    talks = [kind for kind in kinds if kind.language]
    left.set_title("TTFT by turn")
    right.set_title("Decode by turn")
    _draw(data, left, talks, "ttft_s", "TTFT, ms")
    # As an application holds them: the prompt cache changes TTFT, and lines would cover lines.
    held = [kind for kind in talks if kind.mode == "kept"] or talks
    shown = [*held, SHORT] if SHORT in kinds else held
    _draw(data, right, shown, "token_s", "ms per token")
    if left.axison:
        style.subtitle(left, "kept, cold: with the prompt cache and without.")
    _say_context(data, right, held)
    style.say_below(left, style.say_failures(data), own)
    return np.array([left, right])


def _draw(data: pd.DataFrame, ax: Axes, kinds: list[Kind], column: str, label: str) -> None:
    colours = _colours(kinds)
    ends, top = [], 0.0
    for place, kind in enumerate(kinds):
        found = chats.by_turn(data, kind, column)
        if not found:
            continue
        colour = colours[kind]
        dash, marker = ((0, (1.2, 1.6)), "^") if kind == SHORT else LOOKS[kind.mode]
        # Neighbours stand a little apart, so that none hides another.
        aside = 0.14 * (place - (len(kinds) - 1) / 2)
        at = [turn + aside for turn in found]
        values = [value.times(MS) for value in found.values()]
        good = fr.ok(chats.of(data, kind))
        name = _name(kind, kinds)
        draw_series(
            ax,
            (good["repeat"] + 1 + aside, good[column] * MS),
            at,
            values,
            label=name,
            colour=colour,
            marker=marker,
            dash=dash,
        )
        ends.append(End(at[-1], values[-1].median, name, colour))
        top = max(top, float(np.nanmax(good[column])) * MS)
    if not ends:
        style.say_empty(ax, f"Nothing was measured:\n{fr.status_words(data)}")
        return
    ax.set_ylim(0, top * 1.06)
    count = chats.turns(data)
    ax.set_xlim(0.4, count + 0.6)
    ax.set_xticks(range(1, count + 1, 1 if count <= 12 else -(-count // 10)))
    ax.set_xlabel("turn")
    ax.set_ylabel(label)
    label_ends(ax, ends)


def _colours(kinds: list[Kind]) -> dict[Kind, Any]:
    languages = list(dict.fromkeys(kind.language for kind in kinds if kind.language))
    ramp = dict(zip(languages, style.ramp(max(2, len(languages) + 1)), strict=False))
    return {kind: ramp.get(str(kind.language), style.MUTED) for kind in kinds}


def _name(kind: Kind, kinds: list[Kind]) -> str:
    """Return a line's name: no longer than what tells it from the others."""
    if kind == SHORT:
        return "short\nprompts"
    several = len({one.mode for one in kinds if one.language}) > 1
    return f"{kind.language}, {kind.mode}" if several else f"{kind.language}"


def _say_context(data: pd.DataFrame, ax: Axes, held: list[Kind]) -> None:
    chat = fr.ok(data)
    sizes = chat.loc[chat["conversation"].notna(), "prompt_tokens"].dropna()
    if ax.axison and held and len(sizes):
        style.subtitle(ax, f"Context: {sizes.min():,.0f} to {sizes.max():,.0f} tokens.")
