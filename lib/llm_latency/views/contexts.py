"""Runs over contexts: what each ``n_ctx`` took, and how many tokens conversations need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from llm_latency.plan.parameters import as_list
from llm_latency.records import frame as fr
from llm_latency.words import MIB

ANSWER_TOKENS = 128
"""Room for the last answer where the run does not tell."""


def grid_rows(df: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the grid: those of the counted conversation are no part of it."""
    return df[df["conversation"].isna()] if "conversation" in df else df


def with_costs(df: pd.DataFrame) -> pd.DataFrame:
    """Return the grid's prepared rows, with what a token takes and the first generation adds.

    ``token_s``: seconds per token after the first; ``growth_bytes``: resident memory after the
    first generation above that after loading.
    """
    data = fr.prepare(grid_rows(df))
    data["token_s"] = 1 / data["decode_tps"]
    for phase in ("after_load", "after_first"):
        name = f"rss_{phase}_bytes"
        data[name] = pd.to_numeric(data[name], errors="coerce") if name in data else float("nan")
    data["growth_bytes"] = data["rss_after_first_bytes"] - data["rss_after_load_bytes"]
    return data


def costs(data: pd.DataFrame) -> dict[int, float]:
    """Return, for each ``n_ctx`` that ran at all its fills, the MiB that its process takes."""
    column, _, _ = fr.memory_choice(data)
    good = fr.ok(data)
    found = {}
    for size in sorted(data["n_ctx"].dropna().unique()):
        part = data[data["n_ctx"] == size]
        mine = good[good["n_ctx"] == size]
        if set(mine["prompt_tokens"]) == set(part["prompt_tokens"]):
            found[int(size)] = float(mine[column].max() * MIB)
    return found


class Need(NamedTuple):
    """What a conversation needs.

    Attributes
    ----------
    turns, prompt, answer
        Its turns, the tokens of the last one's prompt, and those left for the answer to it.
    counted
        Whether these turns were counted; else they go on at the rate of those that were.
    """

    turns: int
    prompt: int
    answer: int
    counted: bool

    @property
    def tokens(self) -> int:
        """Tokens of context that hold it all."""
        return self.prompt + self.answer


def needs(df: pd.DataFrame, info: Mapping[str, Any]) -> list[Need]:
    """Return what each conversation that was asked about needs; empty if none was counted.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    info
        The content of ``run.json``.
    """
    if "conversation" not in df:
        return []
    good = fr.ok(fr.prepare(df[df["conversation"].notna()])).dropna(subset=["repeat"])
    counts = good.groupby("repeat")["prompt_tokens"].median().dropna()
    measured = {int(repeat) + 1: int(tokens) for repeat, tokens in counts.items()}  # type: ignore[call-overload]
    given = (info.get("plan") or {}).get("parameters") or {}
    if not measured:
        return []
    answer = int(given.get("answer_tokens") or ANSWER_TOKENS)
    asked = as_list("turns", given.get("turns") or max(measured))
    found = []
    for turns in sorted(asked):
        prompt = measured.get(turns) or _further(measured, turns)
        if prompt is not None:
            found.append(Need(turns, prompt, answer, turns in measured))
    return found


def _further(measured: dict[int, int], turns: int) -> int | None:
    """Return the prompt of a turn beyond the last counted, at the rate of those before."""
    first, last = min(measured), max(measured)
    if first == last:
        return None
    rate = (measured[last] - measured[first]) / (last - first)
    return round(measured[last] + (turns - last) * rate)
