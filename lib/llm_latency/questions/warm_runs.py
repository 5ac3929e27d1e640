"""Warm runs: are they faster than the first, and how much of that is the prompt cache.

After an answer the KV cache still holds its prompt. Asked the same again, an application that
keeps its context finds all tokens but the last there, and prefill falls from thousands of
operations to one. So "warm is faster" mixes two things: what is kept on purpose (the prompt
cache), and what warms by itself (pages, threads, the CPU's clock). Each process here is measured
once with an empty cache every time (``cold``) and once with it kept (``kept``); the difference of
their gains is the prompt cache's part.

Repeats in one process are not independent: what one process alone would have said of the others
stands in the table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from scipy.special import stdtrit  # scipy.stats takes half a second to import

from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.spec import Plan
from llm_latency.records import frame as fr
from llm_latency.records.machines import on_one
from llm_latency.report import figure as fig
from llm_latency.report import layout, phrases, style, tables
from llm_latency.report.labels import End
from llm_latency.report.page import Answer, Run, model_name, no_answer
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimate
from llm_latency.words import MS, number, percent, several

MODES = ("cold", "kept")
"""Whether a warm run finds its prompt in the KV cache."""
COMPARED = ("ttft_s", "total_s", "per_decoded_s")
"""Times of which warm runs are compared with the first."""
When = Literal["first", "warm"]
WHEN: tuple[When, When] = ("first", "warm")


def plan(
    model: str = "synthetic:tiny",
    prompt_tokens: Annotated[Grid, "lengths of the prompt, in tokens"] = (12, 200),
    max_tokens: int = 40,
    page_cache: str = "resident",
    n_ctx: int = 512,
    rounds: int = 6,
    repeats: Annotated[int, "warm runs in each process, after the first"] = 10,
    **options: Any,
) -> Plan:
    """Plan the same prompt again and again in one process, with the prompt cache and without."""
    request = Request("warm_runs", locals(), names.check)
    again = request.one("repeats")
    if type(again) is not int or again < 1:
        raise ParameterError(
            f"repeats={again!r} is refused: give 1 or more, for a first generation alone has no "
            "warm run to compare it with."
        )
    cells = [
        request.cell(
            prompt_tokens=tokens,
            max_tokens=request.one("max_tokens"),
            cache_mode=mode,
            repeats=again,
            page_cache=request.one("page_cache"),
        )
        for tokens in request.many("prompt_tokens")
        for mode in MODES
    ]
    # The first cell, of all that is evaluated the shortest, shows the most relative noise.
    return request.plan(cells, twins=cells[:1])


class Prompt(NamedTuple):
    """One length of the prompt, and what becomes of the KV cache between runs."""

    tokens: float
    mode: str

    @property
    def words(self) -> str:
        """Both in words: ``kept · 200``."""
        return f"{self.mode} · {self.tokens:,.0f}"


class OneProcess(NamedTuple):
    """What the warm runs of one process alone would say, against the other processes.

    ``totals_s``: their total latency; ``half_s``: half the width of the 95 % interval of their
    mean, were they independent; ``inside`` of ``others``: processes whose median lies in it.
    """

    totals_s: pd.Series[float]
    half_s: float
    inside: int
    others: int


class View:
    """The first generation of every process, and its warm ones.

    Attributes
    ----------
    measured : list of Prompt
        Prompts of which both first and warm runs were measured, the shortest first.
    uncut : bool
        Whether the model's state cannot be cut: then no warm run finds its prompt kept, and those
        whose prompt the lab evaluated anew before the clock are left out.
    """

    def __init__(self, run: Run) -> None:
        run = on_one(run)
        rows = run.frame()
        refilled = rows["refilled_tokens"] > 0
        self.uncut, rows = bool(refilled.any()), rows[~refilled]
        decoded = rows["generated_tokens"] - 1
        # Times, so that comparisons know which is faster; speeds are their inverse.
        rows = rows.assign(
            per_token_s=rows["total_s"] / rows["generated_tokens"],
            per_decoded_s=rows["decode_s"] / decoded.where(decoded > 0),
        )
        self.info = run.info
        self.data = fr.by_cell(rows)
        self.good = fr.ok(self.data)
        first, warm = rows[rows["repeat"] == 0], rows[rows["repeat"] >= 1]
        self.rows: dict[When, pd.DataFrame] = {"first": _with_ratios(first, warm), "warm": warm}
        known = self.good.dropna(subset=["repeat", "total_s"])
        reach = known.groupby(["prompt_tokens", "cache_mode"])["repeat"].agg(["min", "max"])
        both = reach[(reach["min"] == 0) & (reach["max"] >= 1)].index
        self.measured = sorted(
            (Prompt(float(tokens), str(mode)) for tokens, mode in both),
            key=lambda p: (p.tokens, MODES.index(p.mode)),
        )

    def of(self, prompt: Prompt) -> pd.DataFrame:
        """Return the rows of one prompt that may enter an estimate."""
        good = self.good
        return good[(good["prompt_tokens"] == prompt.tokens) & (good["cache_mode"] == prompt.mode)]

    def samples(self, column: str, prompt: Prompt, when: When) -> pd.Series[float]:
        """Return one number per round: of the first run, or the median of the warm ones."""
        return samples(
            self.rows[when],
            column,
            within="median",
            prompt_tokens=prompt.tokens,
            cache_mode=prompt.mode,
        )

    def estimate(self, column: str, prompt: Prompt, when: When) -> Estimate:
        """Return the estimate over processes."""
        return estimate(self.samples(column, prompt, when))

    def compare(self, column: str, prompt: Prompt) -> Comparison:
        """Compare the warm runs with the first run of the same process.

        What two equal cells differ by is their ratio's noise, not that of either run: what was
        slow in a process was so for both.
        """
        first, warm = (self.samples(column, prompt, when) for when in WHEN)
        return compare(first, warm, noise_floor(self.rows["first"], f"{column}_ratio"))

    def gain(self, column: str, prompt: Prompt) -> pd.Series[float]:
        """Return, per round, by how much the warm runs are below the first."""
        first, warm = (self.samples(column, prompt, when) for when in WHEN)
        return (first - warm).dropna()

    def cache_part(self, column: str, tokens: float) -> tuple[Estimate, Estimate]:
        """Return what a kept warm run saves, and how much of that the prompt cache does."""
        kept, cold = (self.gain(column, Prompt(tokens, mode)) for mode in ("kept", "cold"))
        return estimate(kept), estimate((kept - cold).dropna())

    def drift(self, prompt: Prompt) -> Estimate:
        """Return the last warm run's total as a share of the first warm run's."""
        rows = self.of(prompt)
        totals = {
            repeat: rows.loc[rows["repeat"] == repeat].set_index("process")["total_s"]
            for repeat in (1, rows["repeat"].max())
        }
        first, *last = totals.values()
        return estimate((last[0] / first).dropna() if last else [])

    def one_process(self, prompt: Prompt) -> OneProcess | None:
        """Return the warm runs of the first round's process against those of the others."""
        rows = self.of(prompt)
        rows = rows[rows["repeat"] >= 1]
        medians = rows.groupby("process")["total_s"].median().dropna()
        chosen = rows.sort_values("round")["process"].iloc[0]
        totals: pd.Series[float] = rows.loc[rows["process"] == chosen, "total_s"].dropna()
        if len(totals) < 2 or len(medians) < 2:
            return None
        half_s = float(stdtrit(len(totals) - 1, 0.975)) * totals.std() / math.sqrt(len(totals))
        others = medians.drop(chosen)
        inside = int(((others - totals.mean()).abs() <= half_s).sum())
        return OneProcess(totals, float(half_s), inside, len(others))


def _with_ratios(first: pd.DataFrame, warm: pd.DataFrame) -> pd.DataFrame:
    """Return the first runs, with the warm runs' median of each time as a share of theirs."""
    good = fr.ok(warm)  # a run that failed its proof counts in no estimate
    for column in COMPARED:
        medians = good.groupby("process")[column].median()
        ratio = first["process"].map(medians) / first[column]
        first = first.assign(**{f"{column}_ratio": ratio.astype(float)})
    return first


def deciding(view: View) -> list[Comparison]:
    """Return the comparisons on which the answer rests."""
    return [view.compare("ttft_s", prompt) for prompt in view.measured]


def answer(view: View) -> Answer:
    """Answer whether a warm run is faster, and how much of that is the prompt cache."""
    if nothing := no_answer(view.data):
        return nothing
    if not view.measured:
        sentence = (
            f"Whether a warm run is faster is {phrases.UNDECIDED}: no process has both a first and "
            "a further generation; give repeats of 1 or more."
        )
        return Answer("no warm run was measured", "undecided", "", (sentence,))
    tokens = max(prompt.tokens for prompt in view.measured)
    asked = [prompt for prompt in view.measured if prompt.tokens == tokens]
    found = {prompt.mode: view.compare("ttft_s", prompt) for prompt in asked}
    warm = int(view.good["repeat"].max())
    sentences = [
        f"With {model_name(view.info)}, a prompt of {tokens:,.0f} tokens and "
        f"{several(warm, 'warm run')} after the first in the same process: "
        + "; ".join(_mode(view, prompt, found[prompt.mode]) for prompt in asked)
        + "."
    ]
    first = found.get("kept", next(iter(found.values())))
    verdict, line = first.verdict, f"TTFT of a warm run: {phrases.change(first)}"
    whole, cache = view.cache_part("ttft_s", tokens)
    if verdict == "faster" and cache.n:
        share = percent(cache.median / whole.median)
        line = f"TTFT {phrases.median(whole, 'ms')} sooner; {share} of that is the prompt cache"
        sentences.append(
            f"Of the TTFT that a kept warm run saves, {phrases.estimate(whole, 'ms')}, the prompt "
            f"cache does {phrases.estimate(cache, 'ms')}, that is **{share}**."
        )
    elif view.uncut:
        sentences.append(f"{phrases.UNCUT}, and no prompt cache saves that.")
    else:
        sentences.append(f"How much of a gain is the prompt cache is {phrases.UNDECIDED}.")
    sentences += [_alone(view), phrases.noise(list(found.values()))]
    sure = phrases.sureness(list(found.values()))
    return Answer(line, verdict, sure, tuple(filter(None, sentences)))


def _mode(view: View, prompt: Prompt, found: Comparison) -> str:
    first, warm = (phrases.median(view.estimate("ttft_s", prompt, when), "ms") for when in WHEN)
    how = {"cold": "evaluated anew", "kept": "kept in the KV cache"}[prompt.mode]
    return f"{how}, TTFT goes from {first} to {warm}, {phrases.difference(found)}"


def _alone(view: View) -> str:
    """Say how far a benchmark of one process would have been right about the others."""
    alone = [one for one in map(view.one_process, view.measured) if one is not None]
    if not alone:
        return ""
    return (
        "A benchmark of one process would have been right about "
        f"{sum(one.inside for one in alone)} of {sum(one.others for one in alone)} others: so many "
        f"have their median in its {phrases.INTERVAL}."
    )


def table(view: View) -> pd.DataFrame:
    """Return one row per prompt and mode: first and warm, their difference, one process alone."""
    rows = []
    for prompt in view.measured:
        row = {"prompt, tokens": f"{prompt.tokens:.0f}", "cache": prompt.mode}
        for when in WHEN:
            speed = 1 / view.estimate("per_token_s", prompt, when).median
            evaluated = view.estimate("evaluated_tokens", prompt, when)
            row |= {
                f"{when}: evaluated": number(evaluated.median, 0),
                f"{when}: TTFT, ms": phrases.short(view.estimate("ttft_s", prompt, when), "ms"),
                f"{when}: total, ms": phrases.short(view.estimate("total_s", prompt, when), "ms"),
                f"{when}: tok/s": number(speed),
            }
        for name, column in zip(("TTFT", "total", "time per token"), COMPARED, strict=True):
            row[f"warm {name}"] = phrases.change(view.compare(column, prompt))
        row["last warm run of the first"] = phrases.short(view.drift(prompt), "%")
        alone = view.one_process(prompt)
        row["one process alone, ms"] = (
            f"{number(alone.totals_s.mean() * MS)} ± {number(alone.half_s * MS)}" if alone else "–"
        )
        row["others in it"] = f"{alone.inside} of {alone.others}" if alone else "–"
        rows.append(row)
    return tables.captioned(
        rows,
        f"warm: a process counts with the median of its warm runs. {phrases.BRACKETS} One process "
        f"alone: its mean ± half the {phrases.INTERVAL} that its warm runs would have, were they "
        "independent.",
    )


@style.styled
def figure(view: View, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw TTFT and total latency by run: thin for a process, thick for the median of all."""
    return layout.pair(
        axes,
        view,
        {
            "TTFT by run": partial(_draw, column="ttft_s"),
            "Total latency by run": partial(_draw, column="total_s"),
        },
        measured=bool(view.measured),
        above="Thin: processes; thick: medians. Labels: cache · prompt.",
        height=4.0,
    )


def _draw(ax: Axes, view: View, column: str) -> None:
    hues = dict(zip(MODES, (style.ramp(4)[0], style.ramp(4)[3]), strict=True))
    lengths = list(dict.fromkeys(prompt.tokens for prompt in view.measured))
    last = float(view.good["repeat"].max())
    ax.set_xlim(-0.03 * last, last * 1.04)
    ax.set_ylim(0, float(view.good[column].max()) * MS * 1.06 or 1)
    ends = []
    for prompt in view.measured:
        rows, hue = view.of(prompt).sort_values("repeat"), hues[prompt.mode]
        for _, process in rows.groupby("process"):
            thin = {"color": hue, "linewidth": 0.7, "alpha": 0.35, "label": "_process"}
            ax.plot(process["repeat"], process[column] * MS, **thin)
        middle = rows.groupby("repeat")[column].median() * MS
        dash = style.DASHES[lengths.index(prompt.tokens) % len(style.DASHES)]
        ax.plot(middle.index, middle, color=hue, linestyle=dash, linewidth=2.2, label=prompt.words)
        marker = style.MARKERS[MODES.index(prompt.mode)]
        ax.plot(middle.index[:1], middle[:1], marker=marker, color=hue, label="_first")
        ends.append(End(float(middle.index[-1]), float(middle.iloc[-1]), prompt.words, hue))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("run in the process; 0 is the first")
    ax.set_ylabel("ms")
    fig.name_ends(ax, ends)
