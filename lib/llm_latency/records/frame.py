"""How the tidy frame is read: rows are generations, processes are samples, cells are questions.

A *cell* is one combination of settings and conditions; the settings that vary name it. The
length of the prompt is not part of that name: it is an axis of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd

from llm_latency.errors import LabError, ParameterError
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Start
from llm_latency.plan.workload import Workload
from llm_latency.records.rows import COLUMNS
from llm_latency.words import counts, enumerate_words, file_name, setting, visible

AXES = ("n_ctx", "n_batch")
"""Settings that always name a cell, whether they vary or not."""

CONDITIONS = (
    *Settings.model_fields,
    *Start.model_fields,
    *(
        n
        for n in Workload.model_fields
        if n not in ("prompt", "messages", "prompt_tokens", "depths", "repeats")
    ),
    "model",
)
"""Columns that make two trials different questions."""

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


def counted(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that count: no trial that was measured again, and no twin.

    A disturbed trial that was measured again is replaced by its second attempt; a twin is its
    cell once more, to show the noise, and would make that cell's sample larger than others'.
    """
    return frame[~(frame["superseded"] | frame["twin"])]


ORIGIN = {
    "machine_id": "machines",
    "gpu_uuid": "GPUs",
    "engine_version": "versions of the engine",
    "model_sha256": "model files",
    "model": "models",
}
"""Columns that say where a row comes from, and what they tell apart."""


def of_one_origin(frame: pd.DataFrame, by: Sequence[str] = ()) -> None:
    """Refuse rows of several machines, GPUs, engines or model files, which no estimate may mix.

    Parameters
    ----------
    frame
        Rows of which something is to be estimated.
    by
        Columns that name what is estimated by itself.

    Raises
    ------
    LabError
        One sentence that says how to choose.
    """
    for name, words in ORIGIN.items():
        # One file may have several names; where checksums are known, they tell files apart.
        if name == "model" and "model_sha256" in frame and frame["model_sha256"].notna().all():
            continue
        found = list(frame[name].dropna().unique()) if name in frame else []
        if len(found) < 2:
            continue
        # An engine of another name is another cell, of whatever version.
        apart = [*by, *["engine"] * (name == "engine_version" and "engine" in frame)]
        grouped = frame[name].groupby([frame[k] for k in apart], dropna=False) if apart else None
        if grouped is not None and grouped.nunique().max() < 2:
            continue
        raise LabError(
            f"these rows are of {len(found)} {words} ({', '.join(map(str, found[:3]))}), which no "
            f"estimate mixes; choose one, frame[frame[{name!r}] == {str(found[0])!r}], or take "
            f"each by itself, frame.groupby({name!r})"
        )


def by_cell(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that count, with the name of their ``cell``: its settings, in words.

    Raises
    ------
    ParameterError
        If it is not the frame of a run.
    LabError
        If the rows are of several machines, engines or model files.
    """
    if lacking := [name for name in COLUMNS if name not in frame]:
        raise ParameterError(
            f"the frame has no column {lacking[0]!r}; give the frame of a run, run.frame(), or of "
            "several, lab.load_runs()."
        )
    data = counted(frame).copy()
    of_one_origin(data)
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
        text = " ".join(visible(file_name(name)).split())
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


VRAM = {
    "vram_process_bytes": {
        "nvml": "of the process, as NVML tells it",
        "buffers": "the buffers that llama.cpp said it allocated: its device tells no use",
    },
    "vram_delta_bytes": {
        "nvml": "change of the whole card: NVML tells no process's",
        "engine": "change of the whole device, as the engine tells it",
    },
}
"""Columns of VRAM, the better first, and how readers are told whence they are known."""


def memory_choice(data: pd.DataFrame) -> tuple[str, str, str]:
    """Return the column that tells what a cell costs, the word for it, and why that one.

    VRAM where a GPU held layers and something is known of its memory; else the process's resident
    memory at its peak.
    """
    good = ok(data)
    on_gpu = bool((good["effective_n_gpu_layers"] > 0).any())
    for column, words in VRAM.items():
        told = good[good[column].notna()]
        if on_gpu and len(told):
            known = [words[source] for source in told["vram_source"].unique() if source in words]
            return column, "VRAM", "; ".join(known)
    column = "rss_peak_bytes" if good["rss_peak_bytes"].notna().any() else "rss_bytes"
    moment = "resident at its peak" if column == "rss_peak_bytes" else "resident at the end"
    reason = "the GPU's memory could not be read" if on_gpu else "no layer was on a GPU"
    return column, "RAM", f"{moment}; {reason}"
