"""The table on ``n_batch`` and ``n_ubatch``: every pair, its speed, its memory, its verdict."""

from __future__ import annotations

from typing import Any

import pandas as pd

from llm_latency.answers.batch_size import against, prefills, spreads
from llm_latency.records import frame as fr
from llm_latency.report.tables import CAPTION, short
from llm_latency.stats.estimate import estimates
from llm_latency.words import MIB, MS, number, percent


def batch_size_table(df: pd.DataFrame) -> pd.DataFrame:
    """Return one row per cell: speeds, spread, memory, and the verdict against the quickest.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    data = fr.prepare(df)
    by = ["n_batch", "n_ubatch"]
    found = prefills(data) if len(data) else {}
    best = min(found, key=lambda cell: found[cell].median) if found else None
    wide = spreads(data) if len(data) else {}
    column, word, _ = fr.memory_choice(data)
    rows = []
    for key, part in data.groupby(by):
        batch, ubatch = (int(value) for value in part[by].iloc[0])
        cell = (batch, ubatch)
        good = fr.ok(part)
        verdict = "–"
        if best and cell in found:
            verdict = "quickest" if cell == best else against(df, best, cell).verdict
        row: dict[str, Any] = {
            "n_batch": f"{batch}",
            "n_ubatch": f"{ubatch}",
            "trials": fr.status_words(part),
            "prefill, ms": short(estimates(part, "prefill_s", by)[key], MS),
            "prefill, tok/s": short(estimates(part, "prefill_tps", by)[key]),
            "against the quickest": verdict,
            "spread of prefill": percent(wide.get(cell, float("nan"))),
            "decode, tok/s": short(estimates(part, "decode_tps", by)[key]),
            "compute, MiB": number(good["compute_bytes"].max() * MIB),
            f"{word}, MiB": number(good[column].max() * MIB),
        }
        rows.append(row)
    table = pd.DataFrame(rows)
    table.attrs["caption"] = f"Spread: largest less smallest process, by the median. {CAPTION}"
    return table
