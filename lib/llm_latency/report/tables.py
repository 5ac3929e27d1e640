"""The tables that reports show: tidy frames in, frames with units in their headers out."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from llm_latency.plan.spec import Settings, Start
from llm_latency.records import frame as fr
from llm_latency.records.record import STATUSES
from llm_latency.report.show import show as show
from llm_latency.stats.estimate import Estimate, estimate, estimates, outliers, per_process
from llm_latency.words import MIB, MS, decimals, number, setting

CAPTION = (
    "Median [95 % interval] or, with fewer than six processes, median (smallest–largest); "
    "n: processes. A dash: not measured."
)


def short(value: Estimate, factor: float = 1.0) -> str:
    """Return an estimate as a table's cell: ``402 [398–410] n 6``, ``402 (395–410) n 2``."""
    if value.n == 0:
        return "–"
    shown = value.times(factor)
    if shown.n == 1:
        return f"{number(shown.median)} n 1"
    left, right = "[]" if shown.kind == "interval" else "()"
    places = decimals(shown.median)
    bounds = f"{number(shown.low, places)}–{number(shown.high, places)}"
    return f"{number(shown.median, places)} {left}{bounds}{right} n {shown.n}"


def cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per cell of the grid: how it ended, what it measured, what it cost.

    Columns: ``n_ctx``, ``n_batch``, every other setting that varies and ``n_ubatch`` in force;
    ``trials`` counts the processes by status, never blank; reasons and warnings; TTFT at each
    prompt length; decode speed at the longest one; load; and the memory, VRAM or RAM, of the
    process that took most. What that is made of: :func:`memory`.

    Parameters
    ----------
    frame
        Rows of a run, ``run.frame()``.
    """
    data = fr.prepare(frame)
    names = fr.keys(data)
    lengths = sorted(data["prompt_tokens"].dropna().unique())
    longest = fr.longest_prompt(data)
    at_length = {
        length: estimates(data[data["prompt_tokens"] == length], "ttft_s", ["cell"])
        for length in lengths
    }
    decode = estimates(data[data["prompt_tokens"] == longest], "decode_tps", ["cell"])
    load = estimates(data, "load_s", ["cell"])
    column, word, _ = fr.memory_choice(data)
    nothing = estimate([])
    rows = []
    for _, cell in fr.cells(data).iterrows():
        name, part = cell["cell"], data[data["cell"] == cell["cell"]]
        row: dict[str, Any] = {key: setting(cell[key]) for key in names}
        row["n_ubatch in force"] = _in_force(part["effective_n_ubatch"])
        row["trials"] = fr.status_words(part)
        row["notes"] = _notes(part)
        for length in lengths:
            row[f"TTFT at {length:.0f}, ms"] = short(at_length[length].get(name, nothing), MS)
        if longest is not None:
            row[f"decode after {longest:.0f}, tok/s"] = short(decode.get(name, nothing))
        row["load, ms"] = short(load.get(name, nothing), MS)
        row[f"{word}, MiB"] = number(fr.ok(part)[column].max() * MIB)
        rows.append(row)
    table = pd.DataFrame(rows)
    if "notes" in table and not table["notes"].any():
        table = table.drop(columns="notes")
    table.attrs["caption"] = CAPTION
    return table


def memory(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per cell: what llama.cpp allocated, and what the system measured.

    Parameters
    ----------
    frame
        Rows of a run, ``run.frame()``.
    """
    data = fr.prepare(frame)
    column, word, why = fr.memory_choice(data)
    rows = []
    for _, cell in fr.cells(data).iterrows():
        part = data[data["cell"] == cell["cell"]]
        good = fr.ok(part)
        row: dict[str, Any] = {key: setting(cell[key]) for key in fr.keys(data)}
        row["n_ubatch in force"] = _in_force(part["effective_n_ubatch"])
        row["trials"] = fr.status_words(part)
        for label, name in fr.PARTS.items():
            row[f"{label}, MiB"] = number(good[name].max() * MIB)
        row["sum, MiB"] = number(good[list(fr.PARTS.values())].sum(axis=1, min_count=1).max() * MIB)
        row["RSS peak, MiB"] = number(good["rss_peak_bytes"].max() * MIB)
        if word == "VRAM":
            row["VRAM, MiB"] = number(good[column].max() * MIB)
        rows.append(row)
    table = pd.DataFrame(rows)
    table.attrs["caption"] = (
        "The largest of a cell's processes. RSS: resident memory of the whole process."
        + (f" VRAM: {why}." if word == "VRAM" else "")
    )
    return table


def _in_force(values: pd.Series) -> str:
    found = sorted(values.dropna().unique())
    return ", ".join(setting(value) for value in found) or "not loaded"


def _notes(part: pd.DataFrame) -> str:
    """Return the reasons and warnings of a cell, each once, with the number of processes."""
    each = fr.processes(part)
    said: dict[str, list[str]] = {}
    for text in [*each["reason"], *each["warnings"]]:
        if text:
            said.setdefault(re.sub(r"\d+", "#", text), []).append(text)
    notes = [
        _one_text(texts) + ("" if len(texts) == len(each) else f" ({len(texts)} of {len(each)})")
        for texts in said.values()
    ]
    times = per_process(part, "ttft_s", ["prompt_tokens"])
    far = sum(int(outliers(group).sum()) for _, group in times.groupby("prompt_tokens")["ttft_s"])
    if far:
        notes.append(f"TTFT of {far} of {len(each)} far from the rest (kept)")
    return "; ".join([*notes[:2], f"{len(notes) - 2} more"] if len(notes) > 2 else notes)


ADVICE = re.compile(r"(?:close|free|give|let|lower|measure|raise|run|set|stop|use|wait)\b")


def _one_text(texts: list[str]) -> str:
    """Return texts that differ only in their numbers as one, ``took 7–23% of the time``."""
    pieces = re.split(r"\d+", texts[0])
    ranges = []
    for digits in zip(*(re.findall(r"\d+", text) for text in texts), strict=True):
        low, high = min(digits, key=int), max(digits, key=int)
        ranges.append(low if low == high else f"{low}–{high}")
    text = "".join(map("".join, zip(pieces, [*ranges, ""], strict=True)))
    # A warning ends in advice, which stands once on the page and not in each row.
    return "; ".join(part for part in text.split("; ") if not ADVICE.match(part))


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
