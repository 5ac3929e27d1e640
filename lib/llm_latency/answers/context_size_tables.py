"""The tables on ``n_ctx``: what each costs, and what conversations need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from llm_latency.records import frame as fr
from llm_latency.report.tables import CAPTION, short
from llm_latency.stats.estimate import Estimate, estimate, estimates, per_process
from llm_latency.views.contexts import needs, with_costs
from llm_latency.words import MIB, MS, number


def context_size_table(df: pd.DataFrame) -> pd.DataFrame:
    """Return one row per ``n_ctx``: its memory phase by phase, and its speed empty and full.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    data = with_costs(df)
    column, word, _ = fr.memory_choice(data)
    rows = []
    for size, part in data.groupby("n_ctx"):
        good = fr.ok(part)
        row: dict[str, Any] = {"n_ctx": f"{size:.0f}", "trials": fr.status_words(part)}
        for name, source in (
            ("KV cache", "kv_bytes"),
            ("compute", "compute_bytes"),
            ("RSS after loading", "rss_after_load_bytes"),
        ):
            row[f"{name}, MiB"] = number(good[source].max() * MIB)
        depths = sorted(part["prompt_tokens"].dropna().unique())
        named = {"least filled": depths[:1], "most filled": depths[-1:]}
        for name, at in named.items():
            mine = good[good["prompt_tokens"].isin(at)]
            row[f"first generation adds, {name}, MiB"] = number(mine["growth_bytes"].max() * MIB)
        row[f"{word} at most, MiB"] = number(good[column].max() * MIB)
        for name, at in named.items():
            value = _token(part[part["prompt_tokens"].isin(at)])
            row[f"token, {name}, ms"] = short(value, MS)
        row["load, ms"] = short(estimates(part, "load_s", ["n_ctx"])[size], MS)
        rows.append(row)
    table = pd.DataFrame(rows)
    table.attrs["caption"] = f"Memory is that of the process that took most. {CAPTION}"
    return table


def _token(part: pd.DataFrame) -> Estimate:
    """Return the time per token over the processes of some rows."""
    return estimate(per_process(part, "token_s", ["n_ctx"])["token_s"].dropna())


def context_size_turns(df: pd.DataFrame, info: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row per length of conversation: its tokens, and where they come from.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    info
        The content of ``run.json``.
    """
    names = ["turns", "prompt, tokens", "room for the answer, tokens", "n_ctx needed", "known from"]
    rows = [
        (
            f"{need.turns}",
            f"{need.prompt:,}",
            f"{need.answer:,}",
            f"{need.tokens:,}",
            "counted" if need.counted else "the rate of the turns that were counted",
        )
        for need in needs(df, info)
    ]
    return pd.DataFrame(rows, columns=names)
