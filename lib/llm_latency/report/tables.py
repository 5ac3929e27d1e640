"""The tables that reports show: tidy frames in, frames with units in their headers out.

:func:`show` puts any of them on the page. Nothing in a table is trusted: the names of models,
reasons and logs come from outside, and are escaped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Hashable
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from llm_latency.plan.spec import Settings, Start
from llm_latency.records import frame as fr
from llm_latency.records.record import STATUSES
from llm_latency.words import setting, visible


def settings_in_force(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the settings that are not in force as they were asked for, with both values.

    A setting that was left to the engine, or ``n_gpu_layers`` -1, has no value to compare; what
    it came to is shown.

    Parameters
    ----------
    frame
        Rows of a run, ``run.frame()``.
    """
    data = fr.prepare(frame)
    loaded = data[data["effective_n_ctx"].notna()]
    found: dict[tuple[str, str, str], list[str]] = {}
    for name in (*Settings.model_fields, *Start.model_fields):
        effective = f"effective_{name}"
        if name not in data or effective not in data:
            continue
        pairs = loaded[["cell", name, effective]].dropna(subset=[effective])
        for cell, asked, came in pairs.itertuples(index=False, name=None):
            key = (name, setting(asked), setting(came))
            if key[1] != key[2] and cell not in found.setdefault(key, []):
                found[key].append(cell)
    rows = [
        {
            "setting": name,
            "asked": asked,
            "in force": came,
            "cells": fr.describe(loaded, where),
        }
        for (name, asked, came), where in found.items()
    ]
    return pd.DataFrame(rows, columns=["setting", "asked", "in force", "cells"])


def failures(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the trials that did not end ``ok``, with their reasons and logs; empty if none.

    Parameters
    ----------
    frame
        Rows of a run, ``run.frame()``.
    """
    data = fr.prepare(frame)
    names = fr.keys(data)
    columns = [*names, "prompt, tokens", "status", "meaning", "trials", "reason", "log"]
    each = fr.processes(data)
    rows = []
    for cell in fr.cells(data)["cell"]:
        bad = each[(each["cell"] == cell) & (each["status"] != "ok")]
        # Equal reasons name different logs; one of them stands in its column.
        said = bad["reason"].str.replace(r"; llama\.cpp's log: \S+\.log", "", regex=True)
        for (status, reason), part in bad.groupby(["status", said]):
            lengths = sorted(part["prompt_tokens"].dropna().unique())
            rows.append(
                {key: setting(part[key].iloc[0]) for key in names}
                | {
                    "prompt, tokens": ", ".join(setting(length) for length in lengths) or "–",
                    "status": status,
                    "meaning": STATUSES.get(status, ""),
                    "trials": str(len(part)),
                    "reason": reason or "none given",
                    "log": f"logs/{part['trial_id'].iloc[0]}.log",
                }
            )
    return pd.DataFrame(rows, columns=columns, dtype=object)


def show(table: pd.DataFrame) -> Styler:
    """Return a table as it displays in JupyterLab and in reports: no index, everything escaped.

    Statuses other than ``ok`` stand out; an empty table says that it is empty.

    Parameters
    ----------
    table
        Any table of this room.
    """
    if table.empty:
        return show(pd.DataFrame({"": ["Nothing to show: there are no such rows."]}))
    styler = table.style.hide(axis="index")
    styler = styler.format(_two_lines, escape="html", na_rep="–")
    styler = styler.format_index(escape="html", axis=1)
    if caption := table.attrs.get("caption"):
        styler = styler.set_caption(html.escape(visible(caption)))
    kind = "card" if table.attrs.get("card") else "grid"
    styler = styler.set_table_attributes(f'class="lab {kind}"')
    # Reports bring a style sheet for these classes, JupyterLab sees only what is set here.
    styler = styler.set_td_classes(table.apply(lambda column: column.map(_css_class(column.name))))
    return styler.set_table_styles(
        [
            {"selector": "th, td", "props": "text-align: left; vertical-align: top"},
            {"selector": "td.bad", "props": "font-weight: bold"},
            {"selector": "td", "props": "white-space: " + ("normal" if kind == "card" else "pre")},
            {
                "selector": "td.long",
                "props": "white-space: normal; min-width: 15em; overflow-wrap: anywhere",
            },
            {"selector": "caption", "props": "caption-side: bottom; text-align: left"},
        ]
    )


def _two_lines(value: Any) -> str:
    """Return a cell's text, an estimate on one line and what is known of it on the next."""
    return re.sub(r"^([\d.,]+) (?=[\[(]|n \d)", r"\1\n", visible(value))


def _css_class(column: Hashable) -> Callable[[Any], str]:
    """Return what tells the class of a column's cells."""

    def css_class(value: Any) -> str:
        text = str(value)
        if column in ("status", "trials") and re.search(r"[a-z]", text):
            return "" if re.fullmatch(r"ok \d+", text) else "bad"
        return "long" if column in ("notes", "reason", "meaning", "cells") and text else ""

    return css_class
