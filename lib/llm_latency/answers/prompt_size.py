"""The answer on prompt size: what a longer prompt costs, and where that stops being a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from IPython.display import Markdown

from llm_latency.answers import troubles
from llm_latency.answers.comparing import told
from llm_latency.answers.page import in_words, markdown
from llm_latency.records import frame as fr
from llm_latency.stats.compare import SMALLEST_EFFECT, Comparison
from llm_latency.stats.estimate import FEWEST, Estimate
from llm_latency.stats.fit import FEWEST_PLACES, Line
from llm_latency.views.prompt_lengths import NOTICEABLE, Bend, Edge, PromptLengths
from llm_latency.words import MS, enumerate_words, number, percent, several, span

PER = 1000
"""Tokens for which a slope is told."""
ORIGINAL = (1730.0, 2.4)
"""What was first said of a 7B model on a laptop's GPU: so many ms, and ms per word."""


def prompt_size(df: pd.DataFrame, info: Mapping[str, Any]) -> Markdown:
    """Return what a longer prompt costs, and where that stops being a line.

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
    lengths = PromptLengths(df)
    if not lengths.lengths:
        text = "What a longer prompt costs is **undecided**: no process has a known TTFT."
        return markdown("\n\n".join(filter(None, [text, _failed(lengths)])))
    parts = [
        _lead(lengths, troubles.model_name(info)),
        _cost(lengths),
        _bend(lengths),
        _edges(lengths),
        _failed(lengths),
        troubles.disturbed(data),
    ]
    return markdown("\n\n".join(filter(None, parts)))


def times(found: Comparison) -> str:
    """Return a comparison as ``**9.8 times** as long (…): **slower**``; small ones in per cent."""
    ratio = found.ratio
    if ratio.n == 0 or 0.5 < ratio.median < 2:
        return told(found)
    kind = "95 % interval" if ratio.kind == "interval" else "range"
    parts = [f"{kind} {span(ratio.low, ratio.high)}", f"n = {ratio.n} rounds"]
    if found.noise_floor is not None:
        parts.append(f"equal cells differ by {percent(found.noise_floor)}")
    why = f" ({found.why})" if found.verdict == "undecided" else ""
    return (
        f"**{number(ratio.median)} times** as long ({', '.join(parts)}): **{found.verdict}**{why}"
    )


def _lead(lengths: PromptLengths, model: str) -> str:
    """Say whether the longest prompt is slower than the shortest, and from which length on."""
    ttft = lengths.estimates("ttft_s")
    first, last = lengths.lengths[0], lengths.lengths[-1]
    if first == last:
        return (
            f"Whether a longer prompt is slower is **undecided**: with {model} only "
            f"{_size(lengths, first)} could be measured, TTFT {in_words(ttft[first], MS, 'ms')}; "
            "give prompt&#95;tokens several lengths."
        )
    text = (
        f"With {model}, TTFT is {in_words(ttft[last], MS, 'ms')} after a prompt of "
        f"{_size(lengths, last)} and {in_words(ttft[first], MS, 'ms')} after one of "
        f"{_size(lengths, first)}. The longest against the shortest: "
        f"{times(lengths.against('ttft_s', first, last))}."
    )
    verdicts = {n: lengths.against("ttft_s", first, n).verdict for n in lengths.lengths[1:-1]}
    slower = [n for n, verdict in verdicts.items() if verdict == "slower"]
    if not slower:
        return text
    others: dict[str, list[str]] = {}
    for n, verdict in verdicts.items():
        if verdict != "slower":
            others.setdefault(verdict, []).append(f"{n:,.0f}")
    rest = "".join(
        f"; {enumerate_words(places, 9)} tokens: {verdict}" for verdict, places in others.items()
    )
    return (
        f"{text} Of the {len(verdicts)} lengths between, {len(slower)} are slower than the "
        f"shortest, from {slower[0]:,.0f} tokens on{rest}."
    )


def _size(lengths: PromptLengths, tokens: float) -> str:
    words = lengths.words(tokens)
    text = several(int(tokens), "token")
    return f"{text} ({several(int(words), 'word')})" if words == words else text


def _cost(lengths: PromptLengths) -> str:
    """Say the slope, per token and per word, beside what was first said per word."""
    if len(lengths.lengths) < 2:
        return ""
    prefill = lengths.line("prefill_s")
    if prefill is None:
        count = several(len(lengths.points("prefill_s")), "process", "processes")
        return (
            f"What a further token costs is **undecided**: {count} measured, {FEWEST} are the "
            f"fewest for a line; set rounds={FEWEST} or more."
        )
    text = (
        f"Along a straight line, **{PER:,} further prompt tokens cost "
        f"{number(prefill.slope * PER * MS)} ms** of prefill (95 % interval "
        f"{_slopes(prefill, PER)}, n = {prefill.n} processes at {len(lengths.lengths)} lengths)"
    )
    known = prefill.slope_low > 0
    speed = f"{number(1 / prefill.slope)} tok/s" if known else "**not told from nothing**"
    return f"{text}, {speed}.{_formula(lengths)}"


def _formula(lengths: PromptLengths) -> str:
    tokens, words = lengths.line("total_s"), lengths.line("total_s", "prompt_words")
    if tokens is None:
        return ""
    made = sorted(lengths.good["generated_tokens"].dropna().unique())
    generated = "–".join(f"{n:,.0f}" for n in dict.fromkeys((made[0], made[-1]))) if made else "?"
    text = f" Total latency with {generated} tokens generated: {_sum(tokens)} × tokens"
    if words is not None:
        text += f", or {_sum(words)} × words"
    most = lengths.good["prompt_words"].max()
    reach = f"; here up to {most:,.0f}" if most == most else ""
    return (
        f"{text}. The first measurements of this question, on another machine and of another model "
        f"up to 35 words, said {number(ORIGINAL[0])} ms + {number(ORIGINAL[1])} ms × words{reach}."
    )


def _sum(found: Line) -> str:
    sign = "+" if found.slope >= 0 else "−"
    return f"{number(found.intercept * MS)} ms {sign} {number(abs(found.slope) * MS)} ms"


def _slopes(found: Line, per: float) -> str:
    low, high = found.slope_low * per * MS, found.slope_high * per * MS
    return f"{number(low)} to {number(high)} ms"


def _bend(lengths: PromptLengths) -> str:
    """Say whether the square of the length shows, and how much it adds at the longest prompt."""
    lead = "**Does it stay a line?**"
    bend = lengths.bend
    if bend is None:
        return (
            f"{lead} **Undecided**: a square needs {FEWEST_PLACES} lengths in a round; "
            f"{len(lengths.lengths)} could be measured."
        )
    far = f"{lengths.lengths[-1]:,.0f} tokens"
    added = (
        f"the square of the length adds {_signed(bend.added, MS, 'ms')} of prefill at {far}, "
        f"{percent(bend.share.median)} of it"
    )
    if bend.turn == "undecided":
        return (
            f"{lead} **Undecided** below {FEWEST} rounds; in {several(bend.square.n, 'round')} "
            f"{added}."
        )
    if bend.turn == "none":
        return (
            f"{lead} No bend is told from none: {added}, an interval that holds zero. More rounds "
            "or longer prompts might show one."
        )
    if bend.turn == "downwards":
        return (
            f"{lead} It bends **downwards**, later tokens cost less: {added}, an interval "
            "without zero."
        )
    return (
        f"{lead} It bends **upwards**, as attention to all tokens before would bend it: {added}. "
        f"{_reach(bend, far)}"
    )


def _reach(bend: Bend, far: str) -> str:
    share = percent(NOTICEABLE)
    where = bend.noticeable
    measured = f"measured up to {far}"
    if where.n < bend.square.n:
        return f"Not in every round does it ever reach {share} of the straight part; {measured}."
    kind = "95 % interval" if where.kind == "interval" else "range"
    return (
        f"It reaches {share} of the straight part at about {number(where.median)} tokens ({kind} "
        f"{span(where.low, where.high)}, n = {where.n} rounds); {measured}."
    )


def _signed(value: Estimate, factor: float, unit: str) -> str:
    shown = value.times(factor)
    kind = "95 % interval" if shown.kind == "interval" else "range"
    return (
        f"{number(shown.median)} {unit} ({kind} {number(shown.low)} to {number(shown.high)} "
        f"{unit}, n = {several(shown.n, 'round')})"
    )


def _edges(lengths: PromptLengths) -> str:
    """Say whether it shows where one batch more begins."""
    lead = "**Edges of batches:**"
    if lengths.batch_sizes is None:
        return f"{lead} not known, because n&#95;ubatch in force is not."
    n_ubatch = lengths.batch_sizes[1]
    if not lengths.edges:
        return (
            f"{lead} **undecided**, for no two measured lengths lie close to each other on either "
            f"side of a multiple of n&#95;ubatch {n_ubatch}; give prompt&#95;tokens such as "
            f"{n_ubatch} and {n_ubatch + max(1, n_ubatch // 64)}."
        )
    said = " ".join(_edge(lengths, edge) for edge in lengths.edges)
    return f"{lead} llama.cpp computes at most {n_ubatch} tokens at once (n&#95;ubatch). {said}"


def _edge(lengths: PromptLengths, edge: Edge) -> str:
    found = lengths.across(edge)
    outcome = {
        "slower": "the edge **shows**",
        "same": f"**no edge** to see beyond {percent(SMALLEST_EFFECT)}",
        "faster": "past the edge a token costs **less**",
        "undecided": "whether the edge shows is **undecided**",
    }[found.verdict]
    change = told(found, "more", "less")
    text = (
        f"From {edge.below:,.0f} to {edge.above:,.0f} tokens, {edge.batches} to "
        f"{edge.batches + 1} batches, {outcome}: per token {change}"
    )
    prefill, step = lengths.line("prefill_s"), lengths.step(edge)
    if prefill is None or step.n == 0:
        return f"{text}."
    along = prefill.slope * (edge.above - edge.below) * MS
    return (
        f"{text}. These {edge.above - edge.below:,.0f} tokens take {_signed(step, MS, 'ms')}; "
        f"along the line they would take {number(along)} ms."
    )


def _failed(lengths: PromptLengths) -> str:
    where = lengths.failed()
    return f"**Some trials failed:** prompts of {where}." if where else ""


def prompt_size_reading(df: pd.DataFrame) -> Markdown:
    """Return at which length prefill is fastest, and how fast at the shortest and the longest.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    lengths = PromptLengths(df)
    speeds = {n: value for n, value in lengths.estimates("prefill_tps").items() if value.n}
    if not speeds:
        return markdown("Prefill speed could not be measured at any length.")
    best = max(speeds, key=lambda n: speeds[n].median)
    parts = [f"{in_words(speeds[best], 1, 'tok/s')} at {best:,.0f} tokens"]
    parts += [
        f"{in_words(speeds[n], 1, 'tok/s')} at {n:,.0f}"
        for n in dict.fromkeys((min(speeds), max(speeds)))
        if n != best
    ]
    borders = [f"{border:,}" for border in lengths.borders]
    marked = f" Dotted: beyond {enumerate_words(borders)} tokens a batch more." if borders else ""
    return markdown(
        f"The highest median prefill speed is {parts[0]}"
        f"{'; it is ' + ' and '.join(parts[1:]) if parts[1:] else ''}.{marked}"
    )
