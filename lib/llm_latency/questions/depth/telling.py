"""The answer in words and its two tables: by way of keeping the keys, and by depth."""

from __future__ import annotations

import numpy as np
import pandas as pd

from llm_latency.questions.depth.view import Kind, View
from llm_latency.records import frame as fr
from llm_latency.report import phrases, tables
from llm_latency.report.page import Answer, code, model_name, no_answer
from llm_latency.stats.estimate import estimate
from llm_latency.words import MIB, MS, number, percent

PER = 1000
"""Tokens for which a slope is told."""


def answer(view: View) -> Answer:
    """Answer how much slower a token is deep in the context, and where that is no line any more."""
    if nothing := no_answer(view.data):
        return nothing
    if len(view.depths) < 2:
        sentence = (
            f"How fast it is deep in a context is {phrases.UNDECIDED}: fewer than two depths were "
            f"measured; give {code('depths')} several."
        )
        return Answer("fewer than two depths were measured", "undecided", "", (sentence,))
    kind, first, last = view.kinds[0], view.depths[0], view.depths[-1]
    found = view.compare((kind, first), (kind, last))
    sentences = [
        f"With {model_name(view.info)} and {kind.words}, a token takes "
        f"{phrases.estimate(view.at(kind, 'token_s', last), 'ms')} with {last:,.0f} tokens in the "
        f"context, {phrases.median(view.at(kind, 'token_s', first), 'ms')} with {first:,.0f}: "
        f"{phrases.difference(found)}.",
        _line(view, kind),
        _waiting(view, kind, first, last),
        _others(view, kind, last),
        phrases.noise([found, *(view.compare((kind, last), (k, last)) for k in view.kinds[1:])]),
    ]
    line = f"a token with {last:,.0f} tokens in the context: {phrases.change(found)}"
    sure = phrases.sureness(found)
    return Answer(line, found.verdict, sure, tuple(filter(None, sentences)))


def _line(view: View, kind: Kind) -> str:
    """Say whether a token's time is a line of the depth, where it ends, and what it foretells."""
    curves, worst = view.curves(kind, "token_s"), view.worst(kind, "token_s")
    tested = f"; at depths held out it is off by at most **{percent(worst)}**" if worst >= 0 else ""
    each = phrases.estimate(curves.slope.times(PER), "ms")
    if (end := curves.broken) is not None:
        off = phrases.share(end.beyond)
        return (
            f"**The line ends between {end.last:,.0f} and {end.first:,.0f} tokens**: up to there "
            f"{PER:,} tokens of context add {each}, and from there a token takes {off} beyond it"
            f"{tested.replace('it is', 'a line on either side is')}."
        )
    bend = curves.bend
    shape = "No end of the line shows"
    if bend is not None and bend.turn in ("upwards", "downwards"):
        shape = f"It bends **{bend.turn}**"
    return f"{shape}: {PER:,} tokens of context add {each} to a token{tested}."


def _waiting(view: View, kind: Kind, first: float, last: float) -> str:
    """Say how TTFT of a message grows, and where it crosses the bound."""
    message = view.of(kind)["evaluated_tokens"].median()
    text = (
        f"TTFT of a message of {message:,.0f} tokens rises from "
        f"{phrases.median(view.at(kind, 'ttft_s', first), 'ms')} to "
        f"{phrases.estimate(view.at(kind, 'ttft_s', last), 'ms', bold=False)}"
    )
    if not view.bound_s:
        return f"{text}."
    return f"{text}; {_crossing(view, kind)}."


def _crossing(view: View, kind: Kind) -> str:
    """Say from which depth on TTFT is longer than the user bears."""
    bound, at = phrases.amount(view.bound_s, "ms"), view.crossed[kind]
    walks = len(view.curves(kind, "ttft_s").values)
    if not at.n:
        return f"it stays below {bound} as far as was walked"
    some = f" in {at.n} of {walks} processes" if at.n < walks else ""
    return f"it is above {bound} from {phrases.estimate(at, 'tokens')} on{some}"


def _others(view: View, base: Kind, depth: float) -> str:
    """Say how the other kinds compare with the first at the deepest step."""
    changes = [
        f"{kind.words} {phrases.change(view.compare((base, depth), (kind, depth)))}"
        for kind in view.kinds[1:]
    ]
    return f"There, against {base.words}: {'; '.join(changes)}." if changes else ""


def table(view: View) -> pd.DataFrame:
    """Return one row per kind: a token and TTFT at either end, the line, and the memory."""
    column, word, _ = fr.memory_choice(view.data)
    ends = list(dict.fromkeys([*view.depths[:1], *view.depths[-1:]]))
    rows = []
    for kind in view.kinds:
        good, tokens = view.of(kind), view.curves(kind, "token_s")
        row = {"KV cache": kind.words, "trials": fr.status_words(view.of(kind, view.data))}
        for name, source in (("token", "token_s"), ("TTFT", "ttft_s")):
            for depth in ends:
                row[f"{name} at {depth:,.0f}, ms"] = phrases.short(
                    view.at(kind, source, depth), "ms"
                )
        row["deepest against first"] = phrases.change(
            view.compare((kind, ends[0]), (kind, ends[-1]))
        )
        end = tokens.broken
        row |= {
            f"{PER:,} tokens add, ms": phrases.short(tokens.slope.times(PER), "ms"),
            "the line ends": "–" if end is None else f"{end.last:,.0f}–{end.first:,.0f}",
            "off where held out": percent(view.worst(kind, "token_s")),
        }
        if view.bound_s:
            row["TTFT too long from, tokens"] = phrases.short(view.crossed[kind])
        for name, source in (("KV cache", "kv_bytes"), ("compute", "compute_bytes")):
            row[f"{name}, MiB"] = number(good[source].max() * MIB)
        row[f"{word}, MiB"] = number(good[column].max() * MIB)
        rows.append(row)
    caption = f"Memory is that of the process that took most. {phrases.BRACKETS}"
    return tables.captioned(rows, caption)


def steps(view: View) -> pd.DataFrame:
    """Return one row per kind and depth: what was evaluated, TTFT, a token, the line's error."""
    rows = []
    for kind in view.kinds:
        tokens, others = view.curves(kind, "token_s"), view.beside_of(kind)
        errors = {tokens.places[number]: error for number, error in tokens.foretold().items()}
        for depth in view.depths:
            part = view.of(kind)[view.of(kind)["depth_tokens"] == depth]
            row = {
                "KV cache": kind.words,
                "tokens in the context": f"{depth:,.0f}",
                "evaluated": number(part["evaluated_tokens"].median(), 0),
                "TTFT, ms": phrases.short(view.at(kind, "ttft_s", depth), "ms"),
                "token, ms": phrases.short(view.at(kind, "token_s", depth), "ms"),
                "line's error where held out, %": phrases.short(
                    errors.get(depth, estimate([])), "%"
                ),
            }
            if len(view.beside):
                row["beside: token, ms"] = number(float(others.get(depth, np.nan)) * MS)
            rows.append(row)
    return tables.captioned(rows, phrases.BRACKETS)
