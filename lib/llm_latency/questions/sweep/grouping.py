"""Which cells are drawn as one line: the fewest lines that tell the truth.

Most settings make no difference to most figures; nine lines on top of each other hide the one
that does. Cells that coincide are drawn as one line, and the figure says which, and how closely.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd

from llm_latency.records import frame as fr
from llm_latency.report import style
from llm_latency.stats.estimate import estimates
from llm_latency.words import percent, setting, span

COINCIDE = 0.10
"""Cells whose medians differ by less are drawn as one line."""


@dataclass(frozen=True)
class Group:
    """Cells that are drawn as one line."""

    cells: frozenset[str]
    label: str
    colour: Any
    marker: str
    dash: Any


@dataclass(frozen=True)
class Grouping:
    """How the cells of a frame are drawn, and the sentence that says so."""

    groups: tuple[Group, ...]
    sentence: str


def grouping_of(data: pd.DataFrame) -> Grouping:
    """Choose the fewest lines that tell the truth: those settings that make a difference."""
    good = fr.ok(data)
    table = fr.cells(good)
    names = fr.keys(data)
    moving = [name for name in names if table[name].map(setting).nunique() > 1]
    first = sorted(moving, key=lambda name: name != "n_batch")
    choices = [
        [name for name in moving if name in chosen]
        for count in range(len(moving) + 1)
        for chosen in combinations(first, count)
    ]
    medians = _medians(data)
    for chosen in choices:
        parts = [table[_same(table, chosen, values)] for values in _values(table, chosen)]
        widest = max((_spread(medians, part["cell"]) for part in parts), default=0.0)
        if widest <= COINCIDE or chosen == choices[-1]:
            break
    colour_by = chosen[0] if len(chosen) == 1 else "n_batch" if "n_batch" in chosen else None
    colour_by = colour_by or (chosen[0] if chosen else None)
    dash_by = next((name for name in chosen if name != colour_by), None)
    colours = levels(table, colour_by)
    dashes = levels(table, dash_by)
    palette = style.ramp(max(1, len(colours)))
    groups = []
    for values, part in zip(_values(table, chosen), parts, strict=True):
        at = dict(zip(chosen, values, strict=True))
        hue = colours.index(at[colour_by]) if colour_by else 0
        dash = dashes.index(at[dash_by]) if dash_by else 0
        mark = dash if dash_by else hue
        label = f"{chosen[0]} {values[0]}" if len(chosen) == 1 else " · ".join(values)
        groups.append(
            Group(
                frozenset(part["cell"]),
                label,
                palette[hue],
                style.MARKERS[mark % len(style.MARKERS)],
                style.DASHES[dash % len(style.DASHES)],
            )
        )
    return Grouping(tuple(groups), _say_grouping(table, moving, chosen, widest))


def _say_grouping(table: pd.DataFrame, moving: list[str], chosen: list[str], widest: float) -> str:
    if table.empty:
        return ""
    how = "Points: processes; lines: medians."
    hidden = [name for name in moving if name not in chosen]
    if not hidden:
        return f"{how} Labels: {' · '.join(chosen)}." if len(chosen) > 1 else how
    ranges = " and ".join(f"{name} {_range_of(table, name)}" for name in hidden)
    if not chosen:
        return f"{how} All {len(table)} cells lie within {percent(widest)}: one line for {ranges}."
    return f"{how} {ranges} differ by at most {percent(widest)}: one line per {' · '.join(chosen)}."


def _range_of(table: pd.DataFrame, name: str) -> str:
    values = [setting(value) for value in sorted(table[name].dropna().unique(), key=str)]
    if pd.api.types.is_numeric_dtype(table[name]) and not pd.api.types.is_bool_dtype(table[name]):
        return span(table[name].min(), table[name].max()).replace(",", "")
    return "/".join(values)


def levels(table: pd.DataFrame, name: str | None) -> list[str]:
    """Return the values of a setting among some cells, in words and in order."""
    if name is None:
        return []
    column = table[name]
    if column.dtype == object:  # words, or words beside flags, which have no order of their own
        column = column.map(str, na_action="ignore")
    ordered = table.loc[column.sort_values().index, name]
    return list(dict.fromkeys(setting(value) for value in ordered))


def _values(table: pd.DataFrame, chosen: list[str]) -> list[tuple[str, ...]]:
    every = product(*(levels(table, name) for name in chosen))
    return [values for values in every if _same(table, chosen, values).any()]


def _same(table: pd.DataFrame, chosen: list[str], values: tuple[str, ...]) -> pd.Series:
    same = pd.Series(True, index=table.index)
    for name, value in zip(chosen, values, strict=True):
        same &= table[name].map(setting) == value
    return same


def _medians(data: pd.DataFrame) -> pd.DataFrame:
    """Return the medians that the lines go through: one row per cell, one column per place."""
    good = fr.ok(data)
    columns = {}
    for length in sorted(good["prompt_tokens"].dropna().unique()):
        part = good[good["prompt_tokens"] == length]
        found = estimates(part, "ttft_s", ["cell"])
        columns[f"ttft {length}"] = {cell: value.median for cell, value in found.items()}
    longest = fr.longest_prompt(data)
    found = estimates(good[good["prompt_tokens"] == longest], "total_s", ["cell"])
    columns["total"] = {cell: value.median for cell, value in found.items()}
    return pd.DataFrame(columns)


def _spread(medians: pd.DataFrame, cells: Iterable[str]) -> float:
    """Return the widest relative distance between the medians of some cells, over all places."""
    part = medians.reindex(list(cells))
    wide = ((part.max() - part.min()) / part.median()).max()
    return float(wide) if np.isfinite(wide) else 0.0
