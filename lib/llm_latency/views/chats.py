"""Runs over conversations: which chats were measured, turn by turn, and how speed is counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from llm_latency.records import frame as fr
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimate, estimates, per_process

LANGUAGES = {"fr": "French", "en": "English"}
MODES = {"kept": "with the prompt cache", "cold": "without the prompt cache"}
NOTHING = estimate([])


class Kind(NamedTuple):
    """What was asked in a process: a chat in a language, or short prompts; and how."""

    language: str | None
    mode: str

    @property
    def cell(self) -> dict[str, Any]:
        """Columns and values that name its rows."""
        return {"conversation": self.language, "cache_mode": self.mode}


SHORT = Kind(None, "cold")
"""Short prompts, without the prompt cache."""


def prepared(df: pd.DataFrame) -> pd.DataFrame:
    """Return the prepared rows with what a token takes and how speed can be counted.

    ``token_s``: seconds per token after the first; ``count_tps``: tokens by total latency;
    ``early_tps``: the same, had the answer ended after a quarter of its tokens;
    ``prefill_share``: TTFT by total latency.
    """
    data = fr.prepare(df)
    data["token_s"] = 1 / data["decode_tps"]
    data["count_tps"] = data["generated_tokens"] / data["total_s"]
    data["prefill_share"] = data["ttft_s"] / data["total_s"]
    data["early_tps"] = [_early(times) for times in data["itl_s"]]
    for name in ("conversation", "cache_mode"):
        if name not in data:
            data[name] = None
    return data


def _early(times: Any) -> float:
    if not isinstance(times, list | tuple | np.ndarray) or not len(times):
        return float("nan")
    count = quarter(len(times))
    return count / float(np.sum(times[:count]))


def quarter(tokens: float) -> int:
    """Return a quarter of an answer's tokens, at least one."""
    return max(1, int(tokens) // 4)


def of(data: pd.DataFrame, kind: Kind) -> pd.DataFrame:
    """Return the rows of one kind."""
    chat = data["conversation"]
    mine = chat.isna() if kind.language is None else chat == kind.language
    return data[mine & (data["cache_mode"] == kind.mode)]


def languages(data: pd.DataFrame) -> list[str]:
    """Return the languages of the chats that were planned."""
    return [str(one) for one in data["conversation"].dropna().unique()]


def kinds(data: pd.DataFrame) -> list[Kind]:
    """Return what was measured: the chats, and the short prompts last."""
    every = [Kind(one, mode) for one in sorted(languages(data), reverse=True) for mode in MODES]
    return [kind for kind in [*every, SHORT] if len(fr.ok(of(data, kind)))]


def turns(data: pd.DataFrame) -> int:
    """Return how many turns a process has; 0 where nothing was measured."""
    repeats = fr.ok(data)["repeat"].dropna()
    return int(repeats.max()) + 1 if len(repeats) else 0


def third(count: int) -> int:
    """Return how many turns stand for the first, or the last, of a conversation."""
    return max(1, count // 3)


def late(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the rows of the last turns."""
    return frame[frame["repeat"] >= count - third(count)]


def early(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the rows of the first turns."""
    return frame[frame["repeat"] < third(count)]


def by_turn(data: pd.DataFrame, kind: Kind, column: str) -> dict[int, Estimate]:
    """Return the estimate of a column in each turn, from 1."""
    found = estimates(fr.ok(of(data, kind)), column, ["repeat"])
    return {int(repeat) + 1: value for repeat, value in sorted(found.items()) if value.n}


def over(part: pd.DataFrame, kind: Kind, column: str) -> Estimate:
    """Return the estimate of a column over all of a kind's rows in a part of the turns."""
    times = per_process(of(part, kind), column, ["cache_mode"])
    return estimate(times[column]) if len(times) else NOTHING


def against(df: pd.DataFrame, column: str, count: int, base: Kind, other: Kind) -> Comparison:
    """Compare the last turns of two kinds, each process with its quickest turn."""
    part = late(df, count)
    pair = [samples(part, column, **kind.cell) for kind in (base, other)]
    return compare(pair[0], pair[1], noise_floor(part, column))


def against_own_start(df: pd.DataFrame, column: str, count: int, kind: Kind) -> Comparison:
    """Compare the last turns of a kind with the first ones of the same processes."""
    before = samples(early(df, count), column, **kind.cell)
    after = samples(late(df, count), column, **kind.cell)
    return compare(before, after, noise_floor(late(df, count), column))


def slope(data: pd.DataFrame, kinds_: Sequence[Kind], column: str = "token_s") -> Estimate:
    """Return what a further token of context adds to a column: one slope per process.

    The first turn is left out: it is the first generation after loading.
    """
    found = []
    for kind in kinds_:
        part = fr.ok(of(data, kind)).dropna(subset=[column, "prompt_tokens"])
        for _, one in part[part["repeat"] > 0].groupby("process"):
            if one["prompt_tokens"].nunique() > 1:
                found.append(float(np.polyfit(one["prompt_tokens"], one[column], 1)[0]))
    return estimate(found)
