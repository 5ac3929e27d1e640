"""How the tidy frame is read: rows are generations, processes are samples, cells are questions.

A *cell* is one combination of settings and conditions; the settings that vary name it. The
length of the prompt is not part of that name: it is an axis of its own.
"""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd

from llm_latency.plan.spec import Settings, Start, Workload
from llm_latency.records.record import Buffers, HostState, LoadTimings, ProcessMemory, Timings, Vram
from llm_latency.stats.estimate import counted, of_one_origin
from llm_latency.words import counts, enumerate_words, setting, visible

AXES = ("n_ctx", "n_batch")
"""Settings that always name a cell, whether they vary or not."""

CONDITIONS = (
    *Settings.model_fields,
    *Start.model_fields,
    *(n for n in Workload.model_fields if n not in ("prompt", "prompt_tokens", "repeats")),
    "model",
)
"""Columns that make two trials different questions."""

NUMBERS = (
    *(name for name in Timings.model_fields if name != "itl_s"),
    *LoadTimings.model_fields,
    *(name for name in Buffers.model_fields if name != "by_device"),
    *ProcessMemory.model_fields,
    *(f"vram_{name}" for name in Vram.model_fields),
    *(name for name in HostState.model_fields if name != "gpu"),
    *("vram_delta_bytes", "prefill_tps", "decode_tps"),
    *("n_ctx", "n_batch", "n_ubatch", "round", "repeat"),
    *("prompt_tokens", "evaluated_tokens", "generated_tokens"),
    *("effective_n_ctx", "effective_n_batch", "effective_n_ubatch", "effective_n_gpu_layers"),
)
"""Columns that are numbers wherever they are not missing."""

PARTS = {
    "weights": "weights_bytes",
    "KV cache": "kv_bytes",
    "compute": "compute_bytes",
    "output": "output_bytes",
}
"""What llama.cpp allocates, in words, and the columns that hold it."""

Metric = Literal["decode_tps", "prefill_tps"]
"""Columns that are speeds."""

LONGEST = 40
"""Letters of a name beyond which its middle is left out."""

TEXTS = ("run_id", "trial_id", "status", "reason", "warnings")


def prepare(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a copy on which the other rooms can rely, whatever is missing from the frame.

    Numbers are floats with NaN for missing; ``process`` names the process that left a row, and
    ``cell`` the combination of settings, in words. Rows that count in no estimate are left out.

    Raises
    ------
    LabError
        If the rows are of several machines, engines or model files.
    """
    data = counted(frame).copy()
    of_one_origin(data)
    for name in NUMBERS:
        values = data[name] if name in data else pd.Series(float("nan"), index=data.index)
        data[name] = pd.to_numeric(values, errors="coerce").astype(float)
    for name in TEXTS:
        values = data[name] if name in data else pd.Series("", index=data.index)
        data[name] = values.astype(object).where(values.notna(), "")
    if "itl_s" not in data:
        data["itl_s"] = pd.Series(None, index=data.index, dtype=object)
    data["process"] = data["run_id"].astype(str) + "/" + data["trial_id"].astype(str)
    if "model" in data:
        data["model"] = _readable(data["model"])
    names = keys(data)
    data["cell"] = [
        cell_name(dict(zip(names, values, strict=True)))
        for values in data[names].itertuples(index=False, name=None)
    ]
    return data


def _readable(names: pd.Series) -> pd.Series:
    """Return names from outside as a figure can show them: seen, short, and still apart."""
    known: dict[Any, str] = {}
    for name in names.dropna().unique():
        text = " ".join(visible(name).split())
        text = text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}…{text[-LONGEST // 3 :]}"
        while text in known.values():
            text += "′"
        known[name] = text
    return names.map(known)


def keys(frame: pd.DataFrame) -> list[str]:
    """Return the columns that name a cell: ``n_ctx``, ``n_batch`` and whatever else varies."""
    others = [
        name
        for name in CONDITIONS
        if name not in AXES and name in frame and len({setting(value) for value in frame[name]}) > 1
    ]
    return [*AXES, *others]


def cell_name(values: dict[str, Any]) -> str:
    """Return a cell's name in words: ``n_ctx 512, n_batch 128``."""
    return ", ".join(f"{name} {setting(value)}" for name, value in values.items())


def cells(data: pd.DataFrame) -> pd.DataFrame:
    """Return one row per cell of a prepared frame, in the order of its settings."""
    names = keys(data)
    unique = data[["cell", *names]].drop_duplicates("cell")
    order = unique[names].apply(lambda c: c if c.dtype.kind in "if" else c.map(setting))
    ranked: pd.DataFrame = unique.loc[order.sort_values(names).index]
    return ranked.reset_index(drop=True)


def describe(data: pd.DataFrame, chosen: list[str]) -> str:
    """Return some of the cells of a prepared frame in words, as short as the grid allows.

    ``all cells`` if these are all; only the settings that single them out, ``n_batch 128``, if
    there are such; else each by its full name.
    """
    table = cells(data)
    if set(table["cell"]) <= set(chosen):
        return "all cells"
    shown = table[keys(data)].map(setting)
    mine = table["cell"].isin(chosen)
    parts, selected = [], pd.Series(True, index=table.index)
    for name in shown:
        values = list(dict.fromkeys(shown[name][mine]))
        if set(values) != set(shown[name]):
            selected &= shown[name].isin(values)
            parts.append(f"{name} {enumerate_words(values, len(values))}")
    if len(chosen) > 1 and selected.equals(mine):
        return ", ".join(parts)
    names = list(table.loc[mine, "cell"])
    return "; ".join([*names[:4], f"{len(names) - 4} more"] if len(names) > 4 else names)


def describe_by_status(data: pd.DataFrame, bad: pd.DataFrame) -> str:
    """Return in which cells the processes of ``bad`` failed, how, and how many."""
    return "; ".join(
        f"{describe(data, list(part['cell'].unique()))} ({status} {len(part)})"
        for status, part in bad.groupby("status")
    )


def processes(data: pd.DataFrame) -> pd.DataFrame:
    """Return one row per process of a prepared frame: its first row, with its worst status."""
    worst = data.sort_values("status", key=lambda s: s.eq("ok"), kind="stable")
    one: pd.DataFrame = worst.drop_duplicates("process").sort_index()
    return one


def ok(data: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that may enter an estimate."""
    return data[data["status"] == "ok"]


def status_words(data: pd.DataFrame) -> str:
    """Return how the processes of a prepared frame ended, ``ok 5, oom 1``."""
    return counts(processes(data)["status"]) or "not run"


def longest_prompt(data: pd.DataFrame) -> float | None:
    """Return the longest prompt, in tokens, at which anything was measured; ``None`` if nothing."""
    lengths = ok(data)["prompt_tokens"].dropna()
    return float(lengths.max()) if len(lengths) else None


def memory_choice(data: pd.DataFrame) -> tuple[str, str, str]:
    """Return the column that tells what a cell costs, the word for it, and why that one.

    VRAM where a GPU held layers and its memory was seen; else the process's resident memory at
    its peak.
    """
    good = ok(data)
    on_gpu = bool((good["effective_n_gpu_layers"] > 0).any())
    if on_gpu and good["vram_process_bytes"].notna().any():
        return "vram_process_bytes", "VRAM", "of the process, as NVML tells it"
    if on_gpu and good["vram_delta_bytes"].notna().any():
        return "vram_delta_bytes", "VRAM", "change of the whole card: NVML tells no process's"
    column = "rss_peak_bytes" if good["rss_peak_bytes"].notna().any() else "rss_bytes"
    moment = "resident at its peak" if column == "rss_peak_bytes" else "resident at the end"
    reason = "the GPU's memory could not be read" if on_gpu else "no layer was on a GPU"
    return column, "RAM", f"{moment}; {reason}"
