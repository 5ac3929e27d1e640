"""The tables that reports show: tidy frames in, frames with units in their headers out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Start
from llm_latency.records import frame as fr
from llm_latency.records.machines import Run
from llm_latency.records.record import STATUSES
from llm_latency.words import setting


def captioned(rows: Any, caption: str) -> pd.DataFrame:
    """Return rows, each a row's cells by column, as a table with what it says below itself."""
    made = pd.DataFrame(rows)
    made.attrs["caption"] = caption
    return made


def of_each(
    machines: Mapping[str, Run], table: Callable[[pd.DataFrame], pd.DataFrame]
) -> pd.DataFrame:
    """Return a table of rows of every machine, with the machine's name where there are several.

    Parameters
    ----------
    machines
        Runs by their machine, :func:`~llm_latency.records.machines.by_machine`.
    table
        One of those below.
    """
    made = {name: table(run.frame()) for name, run in machines.items()}
    if len(made) == 1:
        return next(iter(made.values()))
    for name, one in made.items():
        one.insert(0, "machine", name)
    some = [one for one in made.values() if len(one)] or [*made.values()][:1]
    return pd.concat(some, ignore_index=True)


def settings_in_force(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the settings that are not in force as they were asked for, with both values.

    A setting that was left to the engine, or ``n_gpu_layers`` -1, has no value to compare; what
    it came to is shown.

    Parameters
    ----------
    frame
        Rows of a run, ``run.frame()``.
    """
    data = fr.by_cell(frame)
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
    data = fr.by_cell(frame)
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
