"""The tables of a sweep: one row per cell, with its speed, and with where its memory goes."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from llm_latency.questions.sweep.view import View
from llm_latency.records import frame as fr
from llm_latency.report import phrases, tables
from llm_latency.stats.estimate import estimate, estimates, outliers, per_process
from llm_latency.words import MIB, MS, number, setting


def table(view: View) -> pd.DataFrame:
    """Return one row per cell: how it ended, what it measured, what it cost.

    Columns: every setting that varies and ``n_ubatch`` in force; ``trials`` counts the processes
    by status, never blank; reasons and warnings; TTFT at each prompt length, what 100 tokens more
    add to it, and how the longest compares with the soonest cell; decode speed there, and what
    choosing a token took where it is not always the most likely one; load; and the memory of the
    process that took most.
    """
    lengths = sorted(view.data["prompt_tokens"].dropna().unique())
    at_length = {
        length: estimates(view.data[view.data["prompt_tokens"] == length], "ttft_s", ["cell"])
        for length in lengths
    }
    decode = view.estimates("decode_tps")
    load = estimates(view.data, "load_s", ["cell"])
    sampling = view.estimates("sampling_token_s")
    sampled = bool((view.data["sampling"] != "greedy").any())
    nothing = estimate([])
    rows = []
    for _, cell in fr.cells(view.data).iterrows():
        name, part = cell["cell"], view.data[view.data["cell"] == cell["cell"]]
        row = _head(view, cell, part)
        row["notes"] = _notes(part)
        for length in lengths:
            row[f"TTFT at {length:.0f}, ms"] = phrases.short(
                at_length[length].get(name, nothing), "ms"
            )
        row["100 tokens more, ms"] = _slope(
            {k: v[name].median for k, v in at_length.items() if name in v}
        )
        row["against the soonest"] = _against(view, name)
        if view.longest is not None:
            after = f"decode after {view.longest:.0f}, tok/s"
            row[after] = phrases.short(decode.get(name, nothing))
            if sampled:
                row["sampling, ms per token"] = phrases.short(sampling.get(name, nothing), "ms")
        row["load, ms"] = phrases.short(load.get(name, nothing), "ms")
        taken = float(fr.ok(part)[view.memory_column].max())
        row[f"{view.memory_word}, MiB"] = number(taken * MIB)
        rows.append(row)
    made = pd.DataFrame(rows)
    if "notes" in made and not made["notes"].any():
        made = made.drop(columns="notes")
    made.attrs["caption"] = (
        f"100 tokens more: what they add to TTFT, from the shortest to the longest prompt. "
        f"{phrases.BRACKETS}"
    )
    return made


def _head(view: View, cell: pd.Series, part: pd.DataFrame) -> dict[str, Any]:
    """Return a row's beginning: the cell's settings, and how its processes ended."""
    row: dict[str, Any] = {key: setting(cell[key]) for key in fr.keys(view.data)}
    ubatch = sorted(part["effective_n_ubatch"].dropna().unique())
    row["n_ubatch in force"] = ", ".join(map(setting, ubatch)) or "not loaded"
    row["trials"] = fr.status_words(part)
    return row


def _slope(medians: dict[float, float]) -> str:
    known = {length: median for length, median in medians.items() if median == median}
    if len(known) < 2:
        return "–"
    first, last = min(known), max(known)
    return phrases.amount((known[last] - known[first]) / (last - first) * 100 * MS)


def _against(view: View, cell: str) -> str:
    if cell == view.soonest:
        return "soonest"
    compared = view.against_soonest.get(cell)
    return phrases.change(compared) if compared else "–"


def memory_table(view: View) -> pd.DataFrame:
    """Return one row per cell: what llama.cpp allocated, and what the system measured."""
    rows = []
    for _, cell in fr.cells(view.data).iterrows():
        part = view.data[view.data["cell"] == cell["cell"]]
        good = fr.ok(part)
        row = _head(view, cell, part)
        for label, column in fr.PARTS.items():
            row[f"{label}, MiB"] = number(good[column].max() * MIB)
        row["sum, MiB"] = number(good[list(fr.PARTS.values())].sum(axis=1, min_count=1).max() * MIB)
        per_token = (good["kv_bytes"] / good["effective_n_ctx"]).max()
        row["KV cache per 1,000 tokens, MiB"] = number(per_token * 1000 * MIB)
        row["RSS peak, MiB"] = number(good["rss_peak_bytes"].max() * MIB)
        if view.memory_word == "VRAM":
            row["VRAM, MiB"] = number(good[view.memory_column].max() * MIB)
        rows.append(row)
    return tables.captioned(
        rows,
        "The largest of a cell's processes. RSS: resident memory of the whole process."
        + (f" VRAM: {view.memory_why}." if view.memory_word == "VRAM" else ""),
    )


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
