"""Prompt size: what a longer prompt costs, and where that stops being a line.

Prefill computes about ``2 × parameters`` operations per prompt token, the same for each, so its
time grows along a line. Two things bend it: attention, where each token looks at all tokens before
it (a square of the length), and batches: llama.cpp computes at most ``n_ubatch`` tokens at once,
so a prompt one token longer than a multiple of it begins another pass over all weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from llm_latency.engine.facts import Sizes, sizes_in_force
from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.settings import MAX_INT32, PADDING, UBATCH, Settings, padded
from llm_latency.plan.spec import Plan
from llm_latency.records import frame as fr
from llm_latency.records.machines import on_one
from llm_latency.report import figure as fig
from llm_latency.report import layout, phrases, style, tables
from llm_latency.report.page import Answer, Run, code, model_name, no_answer
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import FEWEST, Estimate, estimate, estimates, per_process
from llm_latency.stats.fit import FEWEST_PLACES, Bend, Line, bend, line
from llm_latency.words import MS, counts, number, percent

PER = 1000
"""Tokens for which a slope is told."""
CLOSE = 0.05
"""Two lengths no further apart than this share can tell the cost of an edge between them."""


def plan(
    model: str = "synthetic:tiny",
    prompt_tokens: Annotated[Grid, "lengths of the prompt; 2: the beginning token and a word"] = (
        *(2, 16, 64, 128, 256, 512, 520, 768, 1024, 1536, 2048),
    ),
    max_tokens: int = 16,
    n_ctx: Annotated[int, "tokens the context can hold; 0: as many as the longest needs"] = 0,
    rounds: int = 6,
    repeats: int = 1,
    **options: Any,
) -> Plan:
    """Plan every length in one context, with the same number of tokens generated after each.

    Of two lengths close to each other, one at a multiple of ``n_ubatch`` and one a few tokens
    beyond, the answer tells what it costs to begin another batch.
    """
    request = Request("prompt_size", locals(), names.check, how_much=True)
    tokens_out = request.one("max_tokens")

    def cell(tokens: Any, context: int) -> Any:
        return request.cell(
            prompt_tokens=tokens,
            max_tokens=tokens_out,
            repeats=request.one("repeats"),
            page_cache="resident",
            n_ctx=context,
        )

    # Every length is checked before they are added up, compared and put in order.
    lengths = sorted(cell(t, PADDING).workload.prompt_tokens for t in request.many("prompt_tokens"))
    n_batch = cell(lengths[0], PADDING).settings.n_batch
    context = _context(request.one("n_ctx"), lengths[-1], tokens_out, n_batch)
    cells = [cell(tokens, context) for tokens in lengths]
    return request.plan(cells, twins=[cells[_finest(lengths, cells[0].settings)]])


def _context(given: Any, longest: int, answer: int, n_batch: int) -> Any:
    needed = longest + answer
    # llama.cpp limits n_batch to the context.
    enough = padded(max(needed, n_batch))
    if enough > MAX_INT32:
        raise ParameterError(
            f"prompt_tokens={longest}, max_tokens={answer} and n_batch={n_batch} are refused: a "
            f"context that holds them would be larger than {MAX_INT32:,} tokens; give fewer."
        )
    if type(given) is not int or given < 0:
        return given  # refused by the settings, with what is allowed
    if 0 < given < needed:
        raise ParameterError(
            f"n_ctx={given} is refused: the longest prompt, prompt_tokens={longest}, "
            f"and max_tokens={answer} need {needed}; give n_ctx={enough}, or 0 for just enough."
        )
    return given or enough


def _finest(lengths: list[int], settings: Settings) -> int:
    """Return the place of the length just above a batch's edge, else the last.

    The smallest difference that is asked for lies there, so there the noise must be known.
    """
    size = sizes_in_force(settings).n_ubatch
    above = (i for i, n in enumerate(lengths) if n > size and 0 < n % size <= size // 16)
    return next(above, -1)


class Edge(NamedTuple):
    """Two measured lengths close to each other, the longer of which needs one batch more."""

    below: float
    above: float
    batches: int


class View:
    """One combination of settings, measured with prompts of several lengths.

    Attributes
    ----------
    lengths : list of float
        Measured lengths in tokens, the shortest first.
    """

    def __init__(self, run: Run) -> None:
        run = on_one(run)
        self.info, self.rows = run.info, run.frame()
        self.data = fr.by_cell(self.rows)
        self.good = fr.ok(self.data).dropna(subset=["prompt_tokens", "ttft_s"])
        self.lengths = [float(n) for n in sorted(self.good["prompt_tokens"].unique())]

    def words(self, tokens: float) -> float:
        """Return how many words a prompt of that length has; NaN where nobody counted."""
        return float(self.good.loc[self.good["prompt_tokens"] == tokens, "prompt_words"].median())

    def estimates(self, column: str) -> dict[float, Estimate]:
        """Return the estimate of a column at every measured length."""
        return {n: v for n, v in estimates(self.good, column, ["prompt_tokens"]).items() if v.n}

    def points(self, column: str) -> pd.DataFrame:
        """Return one row per process: length, words, round, and a column's median."""
        by = ["prompt_tokens", "prompt_words", "round"]
        return per_process(self.good, column, by).dropna(subset=[column])

    def line(self, column: str, over: str = "prompt_tokens") -> Line | None:
        """Return the line of a column over tokens or over words; ``None`` if there is none."""
        points = self.points(column)
        return line(points[over], points[column])

    @cached_property
    def bend(self) -> Bend | None:
        """How far prefill departs from a line; ``None`` below four lengths."""
        points = self.points("prefill_s")
        rounds = zip(points["run_id"], points["round"], strict=True)
        return bend(points["prompt_tokens"], points["prefill_s"], rounds, self.lengths[-1])

    def samples(self, column: str, tokens: float) -> pd.Series[float]:
        """Return one number per round at one length."""
        return samples(self.rows, column, prompt_tokens=tokens)

    def compare(self, base: float, other: float, column: str = "ttft_s") -> Comparison:
        """Compare one length with another, round by round."""
        pair = self.samples(column, base), self.samples(column, other)
        return compare(*pair, noise_floor(self.rows, column))

    @cached_property
    def sizes(self) -> Sizes | None:
        """The batches in force; ``None`` where they differ or nobody knows."""
        columns = [f"effective_{name}" for name in Sizes._fields]
        rows = self.good[columns].drop_duplicates().to_numpy()
        return None if len(rows) != 1 or np.isnan(rows).any() else Sizes(*map(int, rows[0]))

    @property
    def borders(self) -> list[int]:
        """Lengths up to the longest beyond which one batch more begins."""
        return self.sizes.borders(int(self.lengths[-1])) if self.sizes else []

    @cached_property
    def edges(self) -> list[Edge]:
        """Neighbouring lengths that can tell what one batch more costs."""
        if self.sizes is None:
            return []
        near = [
            Edge(below, above, self.sizes.passes(int(below)))
            for below, above in itertools.pairwise(self.lengths)
            if above - below <= CLOSE * below
        ]
        return [edge for edge in near if self.sizes.passes(int(edge.above)) > edge.batches]

    def across(self, edge: Edge) -> Comparison:
        """Compare the time per token above an edge with that below it, round by round."""
        below = self.samples("prefill_s", edge.below) / edge.below
        above = self.samples("prefill_s", edge.above) / edge.above
        return compare(below, above, noise_floor(self.rows, "prefill_s"))

    def failed(self) -> str:
        """Return at which lengths processes failed and how; empty if none did."""
        each = fr.processes(self.data)
        return "; ".join(
            f"{tokens:,.0f} tokens ({counts(part['status'])})"
            for tokens, part in each[each["status"] != "ok"].groupby("prompt_tokens")
        )


def answer(view: View) -> Answer:
    """Answer what a longer prompt costs, and where that stops being a line."""
    if nothing := no_answer(view.data):
        return nothing
    if not view.lengths:
        sentence = (
            f"What a longer prompt costs is {phrases.UNDECIDED}: no process has a known TTFT."
        )
        return Answer("no TTFT is known", "undecided", "", (sentence,))
    first, last = view.lengths[0], view.lengths[-1]
    ttft = view.estimates("ttft_s")
    if first == last:
        sentence = (
            f"Whether a longer prompt is slower is {phrases.UNDECIDED}: one length was measured, "
            f"with a TTFT of {phrases.estimate(ttft[first], 'ms')}; give "
            f"{code('prompt_tokens')} several."
        )
        return Answer("one length was measured", "undecided", "", (sentence,))
    found = view.compare(first, last)
    prefill = view.line("prefill_s")
    sentences = [
        f"With {model_name(view.info)}, TTFT is {phrases.estimate(ttft[last], 'ms')} after "
        f"{last:,.0f} tokens of prompt and {phrases.median(ttft[first], 'ms')} after {first:,.0f}: "
        f"{phrases.difference(found)}.",
        _slope(view, prefill),
        _bent(view),
        _edge(view),
        phrases.noise([found, *map(view.across, view.edges[:1])]),
    ]
    line_text = f"TTFT at {last:,.0f} tokens {phrases.median(ttft[last], 'ms')}"
    if prefill is not None:
        line_text = f"{phrases.slope(prefill, 'ms', PER)[0]} per {PER:,} prompt tokens"
    told = tuple(filter(None, sentences))
    return Answer(line_text, found.verdict, phrases.sureness(found), told)


def _slope(view: View, prefill: Line | None) -> str:
    """Say what a thousand tokens cost along a straight line."""
    if prefill is None:
        return f"What a further token costs is {phrases.UNDECIDED} below {FEWEST} processes."
    cost, basis = phrases.slope(prefill, "ms", PER)
    places = f"at {len(view.lengths)} lengths"
    return f"**{PER:,} further tokens cost {cost}** of prefill {places} {basis}."


def _bent(view: View) -> str:
    """Say whether the square of the length shows, and how much it adds at the longest prompt."""
    if (curve := view.bend) is None:
        return f"Whether it is a line is {phrases.UNDECIDED} below {FEWEST_PLACES} lengths a round."
    added = (
        f"the square of the length adds {phrases.estimate(curve.added, 'ms', bold=False)} at "
        f"{view.lengths[-1]:,.0f} tokens, {phrases.minus(percent(curve.share.median))} of prefill"
    )
    if curve.turn in ("upwards", "downwards"):
        reach = f", noticeable from {number(curve.noticeable.median)} tokens on"
        return f"It bends **{curve.turn}**: {added}{reach if curve.noticeable.n else ''}."
    word = phrases.UNDECIDED if curve.turn == "undecided" else "not told from none"
    return f"A bend is {word}: {added}."


def _edge(view: View) -> str:
    """Say whether it shows where one batch more begins."""
    if not view.edges:
        size = view.sizes.n_ubatch if view.sizes else UBATCH
        return (
            f"What another batch costs was not measured: give {code('prompt_tokens')} on either "
            f"side of a multiple of {code('n_ubatch')}, such as {size} and {size + size // 64}."
        )
    edge = view.edges[0]
    found = view.across(edge)
    outcome = {
        "slower": "shows",
        "same": "does not show",
        "faster": "shows, and a token costs less past it",
        "undecided": f"is {phrases.WORDS['undecided']}",
    }[found.verdict]
    return (
        f"The edge of a batch **{outcome}**: from {edge.below:,.0f} to {edge.above:,.0f} tokens, "
        f"{edge.batches} to {edge.batches + 1} batches, a token costs "
        f"{phrases.difference(found, 'more', 'less')}."
    )


def table(view: View) -> pd.DataFrame:
    """Return one row per length: words, tokens, batches, TTFT, prefill, speed, comparisons."""
    columns = ("ttft_s", "prefill_s", "prefill_tps", "total_s")
    measured = {name: view.estimates(name) for name in columns}
    nothing, edges = estimate([]), {edge.above: edge for edge in view.edges}
    rows = []
    for n in sorted(view.data["prompt_tokens"].dropna().unique()):
        part = view.data[view.data["prompt_tokens"] == n]
        at = {name: values.get(n, nothing) for name, values in measured.items()}
        base = view.lengths[0] if view.lengths else n
        compared = at["ttft_s"].n and n != base
        rows.append(
            {
                "tokens": f"{n:,.0f}",
                "words": number(view.words(n), 0),
                "batches": str(view.sizes.passes(int(n))) if view.sizes else "–",
                "trials": fr.status_words(part),
                "TTFT, ms": phrases.short(at["ttft_s"], "ms"),
                "TTFT against the shortest": phrases.change(view.compare(base, n))
                if compared
                else "–",
                "prefill, ms": phrases.short(at["prefill_s"], "ms"),
                "prefill, tok/s": phrases.short(at["prefill_tps"]),
                f"ms per {PER:,} tokens": number(at["prefill_s"].median / n * PER * MS),
                "token against the batch before": phrases.change(view.across(edges[n]))
                if n in edges
                else "–",
                "total, ms": phrases.short(at["total_s"], "ms"),
            }
        )
    return tables.captioned(rows, phrases.BRACKETS)


MOST_BORDERS = 16
"""More edges of batches than that would be a hatching."""


@style.styled
def figure(view: View, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw prefill time by prompt tokens with its line, and prefill speed; edges are dotted."""
    above = "Points: processes; bars: intervals of medians."
    if view.borders and view.sizes:
        begins = "Dotted: a" if len(view.borders) <= MOST_BORDERS else "A"
        above += f" {begins} further batch begins (n_ubatch {view.sizes.n_ubatch})."
    failed = view.failed() if view.lengths else ""
    return layout.pair(
        axes,
        view,
        {"Prefill by length of the prompt": _draw_time, "Prefill speed": _draw_speed},
        measured=bool(view.lengths),
        above=above,
        below=f"Not drawn: prompts of {failed}." if failed else "",
        height=4.0,
    )


def _draw_time(ax: Axes, view: View) -> None:
    colour, points = style.ramp(4)[0], view.points("prefill_s")
    if points.empty:
        style.say_empty(ax, "No prefill time is known")
        return
    far = view.lengths[-1]
    xs = np.linspace(view.lengths[0] if len(view.lengths) > 1 else 0, far, 120)
    samples_ = points["prompt_tokens"], points["prefill_s"] * MS
    ax.scatter(*samples_, s=16, color=colour, alpha=0.45, linewidths=0, label="_processes")
    if (fitted := view.line("prefill_s")) is not None:
        label = f"line: {phrases.slope(fitted, 'ms', PER)[0]} per {PER:,} tokens"
        fig.straight(ax, fitted, xs, label, "ms", colour)
    if (curve := view.bend) is not None and curve.turn in ("upwards", "downwards"):
        look: dict[str, Any] = {"color": style.ramp(4)[3], "linestyle": style.DASHES[1]}
        label = f"with a square: bends {curve.turn}"
        ax.plot(xs, [curve.at(x) * MS for x in xs], label=label, **look)
    _draw_borders(ax, view)
    ax.set_xlim(0, far * 1.04)
    ax.set_ylim(0, float(points["prefill_s"].max()) * MS * 1.22 or 1)
    ax.set_xlabel("prompt, tokens")
    ax.set_ylabel("prefill, ms")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(layout.WHOLE)
    if fitted is not None:
        box = {"frameon": True, "facecolor": "white", "edgecolor": "none"}
        ax.legend(loc="upper left", borderaxespad=0.0, **box)


def _draw_speed(ax: Axes, view: View) -> None:
    points = view.points("prefill_tps")
    if points.empty:
        style.say_empty(ax, "No prefill speed is known")
        return
    # Each doubling as wide as the next: the short prompts are where speed changes most.
    ax.set_xscale("log", base=2)
    colour = style.ramp(4)[1]
    speed = fig.line_of("", points, "prompt_tokens", "prefill_tps", colour=colour, marker="o")
    fig.lines(ax, [speed], zero=False)
    _draw_borders(ax, view)
    xs = list(speed.values)
    ax.set_xlim(xs[0] / 1.3, xs[-1] * 1.3)
    ax.set_ylim(0, float(points["prefill_tps"].max()) * 1.08 or 1)
    ticks: list[float] = []
    for n in reversed(xs):  # those whose names do not touch
        ticks += [n] if not ticks or n * 2.8 <= ticks[-1] else []
    ax.set_xticks(ticks)
    ax.xaxis.set_minor_locator(NullLocator())
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(layout.WHOLE)
    ax.set_xlabel("prompt, tokens (log scale)")
    ax.set_ylabel("prefill, tok/s")


def _draw_borders(ax: Axes, view: View) -> None:
    if len(view.borders) <= MOST_BORDERS:
        for border in view.borders:
            look: dict[str, Any] = {"color": style.MUTED, "linestyle": style.DASHES[2]}
            ax.axvline(border, linewidth=0.9, zorder=0.5, label="_edge", **look)
