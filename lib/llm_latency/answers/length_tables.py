"""Tables beside the answers on long prompts and long answers: every length, with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from llm_latency.answers.max_tokens import held_out
from llm_latency.records import frame as fr
from llm_latency.report.tables import CAPTION, short
from llm_latency.stats.estimate import estimate, estimates
from llm_latency.views.answer_lengths import AnswerLengths, Place, signed_percent
from llm_latency.views.prompt_lengths import PromptLengths
from llm_latency.words import MS, counts, number

PER = 1000
"""Tokens for which a cost is told."""


def prompt_size_table(df: pd.DataFrame) -> pd.DataFrame:
    """Return one row per length: words, tokens, batches, TTFT, prefill, and its speed.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    lengths = PromptLengths(df)
    names = ("ttft_s", "prefill_s", "total_s", "prefill_tps")
    found = {name: lengths.estimates(name) for name in names}
    nothing = estimate([])
    rows = []
    for n in lengths.asked:
        part = lengths.data[lengths.data["prompt_tokens"] == n]
        at = {name: found[name].get(n, nothing) for name in names}
        batches = lengths.batches(n)
        base = lengths.lengths[0] if lengths.lengths else n
        against = lengths.against("ttft_s", base, n) if at["ttft_s"].n and n != base else None
        rows.append(
            {
                "tokens": f"{n:,.0f}",
                "words": number(lengths.words(n), 0),
                "batches": "–" if batches is None else str(batches),
                "trials": fr.status_words(part),
                "TTFT, ms": short(at["ttft_s"], MS),
                "prefill, ms": short(at["prefill_s"], MS),
                "prefill, tok/s": short(at["prefill_tps"]),
                f"ms per {PER:,} tokens": number(at["prefill_s"].median / n * PER * MS),
                "total, ms": short(at["total_s"], MS),
                "TTFT against the shortest": against.verdict if against else "–",
            }
        )
    table = pd.DataFrame(rows)
    table.attrs["caption"] = CAPTION
    return table


def max_tokens_table(df: pd.DataFrame, info: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row per kind of end and length: what came, TTFT, total, prediction, error.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    info
        The content of ``run.json``.
    """
    answers = AnswerLengths(df, held_out(info))
    data = answers.data[answers.data["max_tokens"].notna()]
    rows = []
    for key, part in data.groupby(["length", "max_tokens"], sort=True):
        kind, asked = str(key[0]), float(part["max_tokens"].iloc[0])
        good = answers.good[answers.good["cell"].isin(part["cell"].unique())]
        by = ["length", "max_tokens"]
        found = {c: estimates(part, c, by)[(kind, asked)] for c in ("ttft_s", "total_s")}
        came = good["generated_tokens"]
        tested = None
        if came.nunique() == 1:
            tested = answers.test("line", Place(asked, float(came.iloc[0])), kind)
        rows.append(
            {
                "length": kind,
                "max_tokens": f"{asked:,.0f}",
                "generated": _range(came),
                "finish": counts(good["finish_reason"].astype(str)) or "–",
                "trials": fr.status_words(part),
                "in the fit": "held out" if asked in answers.held_out else "yes",
                "TTFT, ms": short(found["ttft_s"], MS),
                "total, ms": short(found["total_s"], MS),
                "line, ms": number(tested.predicted_s * MS) if tested else "–",
                "error": signed_percent(tested.error.median) if tested else "–",
            }
        )
    table = pd.DataFrame(rows)
    table.attrs["caption"] = f"{CAPTION} Error: the line's prediction against the measurement."
    return table


def _range(values: pd.Series) -> str:
    if values.empty:
        return "–"
    low, high = f"{values.min():,.0f}", f"{values.max():,.0f}"
    return low if low == high else f"{low}–{high}"
