"""The answer on warm runs: are they faster than the first, and how much is the prompt cache."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from IPython.display import Markdown

from llm_latency.answers import troubles
from llm_latency.answers.page import markdown
from llm_latency.answers.shares import basis, change, difference_ms, ms, part, unsure
from llm_latency.records import frame as fr
from llm_latency.stats.compare import Comparison
from llm_latency.stats.estimate import estimate
from llm_latency.views.runs_of_process import MODES, WHEN, Question, Runs
from llm_latency.words import enumerate_words, number, percent, several


def warm_runs(df: pd.DataFrame, info: Mapping[str, Any]) -> Markdown:
    """Return whether a warm run is faster, and how much of that is the prompt cache.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    info
        The content of ``run.json``.
    """
    data = fr.prepare(df)
    if data.empty:
        return markdown(troubles.NOTHING)
    if fr.ok(data).empty:
        return markdown(troubles.all_failed(data))
    runs = Runs(df)
    problems = [troubles.failed(data), troubles.disturbed(data)]
    if not runs.measured:
        text = (
            "Whether a warm run is faster is **undecided**: no process has both a first and a "
            "further generation; give repeats of 1 or more."
        )
        return markdown("\n\n".join(filter(None, [text, *problems])))
    totals = [runs.compare("total_s", question) for question in runs.measured]
    ttfts = [runs.compare("ttft_s", question) for question in runs.measured]
    noise = f"{basis(ttfts, 'this change of TTFT')} {_floor(totals)}".rstrip()
    parts = [
        f"{_lead(runs, troubles.model_name(info))} {noise}",
        "\n".join(f"- {_question(runs, question)}" for question in runs.measured),
        *(_split(runs, prompt) for prompt in runs.prompts),
        _one_process(runs),
    ]
    return markdown("\n\n".join(filter(None, [*parts, *problems])))


def _floor(found: Sequence[Comparison]) -> str:
    floor = found[0].noise_floor
    return "" if floor is None else f"In that of the total they differ by {percent(floor)}."


def _lead(runs: Runs, model: str) -> str:
    tokens = runs.good["generated_tokens"]
    low, high = int(tokens.min()), int(tokens.max())
    length = several(high, "token") if low == high else f"{low:,}–{high:,} tokens"
    count = int(runs.good["repeat"].max())
    parts = []
    for mode, words in MODES.items():
        mine = [q for q in runs.measured if q.mode == mode]
        groups: dict[str, list[str]] = {}
        for question in mine:
            verdict = runs.compare("total_s", question).verdict
            groups.setdefault(verdict, []).append(f"{question.prompt:,.0f}")
        said = [
            f"**{verdict}** after {enumerate_words(prompts, 9)} tokens of prompt"
            for verdict, prompts in groups.items()
        ]
        if said:
            parts.append(f"with {words} ({mode}), {' and '.join(said)}")
    return (
        f"With {model} and {length} generated, {several(count, 'warm run')} after the first in "
        f"the same process: {'; '.join(parts)}. These are the verdicts on the total latency of "
        "warm runs against the first."
    )


def _question(runs: Runs, question: Question) -> str:
    """Say first and warm, TTFT and total, and the speeds, of one prompt and mode."""
    texts = []
    for column, name in (("ttft_s", "TTFT"), ("total_s", "total")):
        first, warm = (ms(runs.estimate(column, question, when)) for when in WHEN)
        texts.append(f"{name} {first} → {warm}, {change(runs.compare(column, question))}")
    speeds = [1 / runs.estimate("per_token_s", question, when).median for when in WHEN]
    texts.append(f"over the whole answer {_arrow(speeds)} tok/s")
    decode = [1 / runs.estimate("per_decoded_s", question, when).median for when in WHEN]
    if not any(math.isnan(speed) for speed in decode):
        token = change(runs.compare("per_decoded_s", question))
        texts.append(f"after the first token {_arrow(decode)} tok/s, time per token {token}")
    return f"**{question.mode}, prompt of {question.prompt:,.0f} tokens**: {'; '.join(texts)}."


def _arrow(values: Sequence[float]) -> str:
    return " → ".join(number(value) for value in values)


def _split(runs: Runs, prompt: float) -> str:
    """Say how much of a warm run's gain is the prompt cache, and how much anything else."""
    kept, cold = (Question(prompt, mode) for mode in ("kept", "cold"))
    lead = f"**What a kept warm run saves after a prompt of {prompt:,.0f} tokens:**"
    if kept not in runs.measured or cold not in runs.measured:
        return f"{lead} the share of the prompt cache is **undecided**, for lack of the other mode."
    said = [_share(runs, column, kept, cold) for column in ("ttft_s", "total_s")]
    return f"{lead} {' '.join(said)}"


def _share(runs: Runs, column: str, kept: Question, cold: Question) -> str:
    name = {"ttft_s": "TTFT", "total_s": "the total"}[column]
    verdict = runs.compare(column, kept).verdict
    gains = runs.gain(column, kept)
    whole, rest = estimate(gains), estimate(runs.gain(column, cold))
    cache = estimate((gains - runs.gain(column, cold)).dropna())
    if verdict != "faster":
        return f"Of {name} there is no gain to split (verdict: {verdict})."
    if cache.n == 0:
        return f"Of {name} {difference_ms(whole)}; no round has both modes: **undecided**."
    return (
        f"Of {name} {difference_ms(whole)}: by the prompt cache {difference_ms(cache)}, "
        f"**{part(cache.median / whole.median)}**{unsure(cache)}; by anything else, which "
        f"warm runs save when every token is evaluated too, {difference_ms(rest)}, "
        f"{part(rest.median / whole.median)}{unsure(rest)}."
    )


def _one_process(runs: Runs) -> str:
    """Say how far a benchmark of one process would have been right about the others."""
    held = [one for one in map(runs.held, runs.measured) if one is not None]
    if not held:
        return ""
    inside, of = sum(one.held for one in held), sum(one.others for one in held)
    return (
        "**One process alone:** the 95 % interval that the mean of its warm runs would have, were "
        f"they independent, holds the medians of {inside} of {of} other processes, over "
        f"{several(len(held), 'cell')}."
    )


def warm_runs_by_repeat(df: pd.DataFrame) -> Markdown:
    """Return whether total latency still moves among the warm runs, from the first to the last.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    runs = Runs(df)
    last = runs.good["repeat"].max()
    if not runs.measured or last < 2:
        return markdown("Fewer than two warm runs per process: no course to read.")
    parts = []
    for question in runs.measured:
        mine = runs.good[
            (runs.good["prompt_tokens"] == question.prompt)
            & (runs.good["cache_mode"] == question.mode)
        ]
        at = {r: mine.loc[mine["repeat"] == r].set_index("process")["total_s"] for r in (1, last)}
        ratio = estimate((at[last] / at[1]).dropna())
        if ratio.n:
            kind = "interval" if ratio.kind == "interval" else "range"
            parts.append(
                f"{question.mode}, {question.prompt:,.0f} tokens {percent(ratio.median)} "
                f"({kind} {percent(ratio.low)} to {percent(ratio.high)}, n = {ratio.n})"
            )
    return markdown(
        f"The last warm run's total as a share of the first warm run's: {'; '.join(parts)}."
    )
