"""The answer on ``max_tokens``: what it costs, and how well latency is predicted from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from IPython.display import Markdown

from llm_latency.answers import troubles
from llm_latency.answers.comparing import told
from llm_latency.answers.page import in_words, markdown
from llm_latency.answers.prompt_size import times
from llm_latency.records import frame as fr
from llm_latency.stats.compare import SMALLEST_EFFECT
from llm_latency.stats.estimate import FEWEST, Estimate, estimates
from llm_latency.views.answer_lengths import (
    FORMULAS,
    AnswerLengths,
    Place,
    Prediction,
    signed_percent,
)
from llm_latency.words import MS, counts, number, percent, several

WIDE = 0.10
"""Errors beyond that share, within an interval, say that it proves little."""


def max_tokens(df: pd.DataFrame, info: Mapping[str, Any]) -> Markdown:
    """Return what ``max_tokens`` costs, and how well a formula predicts unseen lengths.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    info
        The content of ``run.json``; its plan says which lengths are held out.
    """
    data = fr.prepare(df)
    if data.empty:
        return markdown(troubles.NOTHING)
    if fr.ok(data).empty:
        return markdown(troubles.all_failed(data))
    answers = AnswerLengths(df, held_out(info))
    problems = [troubles.failed(data), troubles.disturbed(data)]
    if answers.good.empty:
        text = "What max&#95;tokens costs is **undecided**: no process has a known latency."
        return markdown("\n\n".join(filter(None, [text, *problems])))
    parts = [
        _lead(answers, troubles.model_name(info)),
        _cost(answers),
        _tested(answers),
        _others(answers),
        _ends(answers),
        *problems,
    ]
    return markdown("\n\n".join(filter(None, parts)))


def held_out(info: Mapping[str, Any]) -> Any:
    """Return what a run's plan holds out, a length or several; ``None`` where it does not say."""
    given = ((info.get("plan") or {}).get("parameters") or {}).get("held_out")
    return None if given == [] else given


def _lead(answers: AnswerLengths, model: str) -> str:
    """Say whether more tokens asked for take longer, and that with which verdict."""
    prompts = sorted(answers.good["prompt_tokens"].dropna().unique())
    prompt = f" and a prompt of {several(int(prompts[0]), 'token')}" if len(prompts) == 1 else ""
    first, last = answers.asked[0], answers.asked[-1]
    start = f"With {model}{prompt}"
    if first == last:
        found = estimates(answers.good, "total_s", ["max_tokens"])[first]
        return (
            f"{start}, what more tokens cost is **undecided**: only max&#95;tokens "
            f"{first:,.0f} could be measured, total latency {in_words(found, MS, 'ms')}; give "
            "max&#95;tokens several lengths."
        )
    said = []
    for kind in answers.kinds:
        mine = answers.good[answers.good["length"] == kind]
        if {first, last} <= set(mine["max_tokens"]):
            taken = times(answers.against(first, last, kind))
            said.append(f"with {kind} length {taken}")
    if not said:
        return f"{start}, no kind of end was measured at both {first:,.0f} and {last:,.0f} tokens."
    return (
        f"{start}, an answer with max&#95;tokens {last:,.0f} instead of {first:,.0f} takes, "
        f"{'; '.join(said)}."
    )


def _cost(answers: AnswerLengths) -> str:
    """Say the line: seconds per token, what comes before, and the formula in one."""
    found = answers.line
    if found is None:
        seen = answers.points[~answers.points["held_out"]]
        return (
            "What a further token costs is **undecided**: a line needs "
            f"{FEWEST} processes and two lengths really generated, and "
            f"{several(len(seen), 'process', 'processes')} with "
            f"{several(seen['generated'].nunique(), 'length')} are there to be fitted."
        )
    low, high = found.bounds(0)
    sign = "+" if found.slope >= 0 else "−"
    speed = f", that is {number(1 / found.slope)} tok/s"
    if found.slope_low <= 0:
        speed = ", which is **not told from nothing**"
    return (
        f"**Each further token generated takes {number(found.slope * MS)} ms** (95 % interval "
        f"{number(found.slope_low * MS)} to {number(found.slope_high * MS)} ms, n = {found.n} "
        f"processes){speed}; prefill and all else take {number(found.intercept * MS)} ms "
        f"({number(low * MS)} to {number(high * MS)} ms for slopes within that interval). So "
        f"**latency = {number(found.intercept * MS)} ms {sign} "
        f"{number(abs(found.slope) * MS)} ms × tokens generated**."
    )


def _tested(answers: AnswerLengths) -> str:
    """Say how far the line is off at lengths that it has not seen."""
    tested = [(p, found) for p in answers.held_places if (found := answers.test("line", p))]
    if not tested:
        why = (
            "there is no line to test" if answers.held_places else "no held-out length was measured"
        )
        return f"**Can latency be predicted?** **Undecided**: {why}."
    known = [found for _, found in tested if found.inside is not None]
    inside = sum(bool(found.inside) for found in known)
    worst = max((found.error.median for _, found in tested), key=abs)
    verdict = (
        f"{inside} of {several(len(known), 'prediction')} "
        f"{'lies' if inside == 1 else 'lie'} within the measured interval"
        if known
        else f"whether predictions lie within an interval is **undecided** below {FEWEST} processes"
    )
    lines = [f"- {_one(place, found)}" for place, found in tested]
    lead = (
        f"**Can latency be predicted?** At lengths that the fit has not seen it is off by at most "
        f"**{percent(abs(worst))}**; {verdict}:"
    )
    bounds = [bound for f in known if f.inside for bound in (f.error.low, f.error.high)]
    wide = ""
    if bounds and max(map(abs, bounds)) > WIDE:
        wide = (
            "\n\nBut the measurements scatter so widely that errors of "
            f"{_reach(bounds)} would lie within their intervals too: more rounds, or a quieter "
            "machine, before relying on it."
        )
    return "\n".join([lead, "", *lines]) + wide


def _one(place: Place, found: Prediction) -> str:
    where = {
        True: "**inside** the interval",
        False: "**outside** the interval" + _though(found),
        None: "**undecided**, a range is no interval",
    }[found.inside]
    return (
        f"{name(place)}: predicted {number(found.predicted_s * MS)} ms, measured "
        f"{in_words(found.measured, MS, 'ms')}; error {signed(found.error)}: {where}"
    )


def _though(found: Prediction) -> str:
    """Return that an error is small all the same, where its whole interval is."""
    small = max(abs(found.error.low), abs(found.error.high)) <= SMALLEST_EFFECT
    return f", yet no more than {percent(SMALLEST_EFFECT)} off" if small else ""


def name(place: Place) -> str:
    """Return a place in words: ``75 tokens``, or ``75 asked, 23 came``."""
    if place.asked == place.generated:
        return several(int(place.asked), "token")
    return f"{place.asked:,.0f} asked, {place.generated:,.0f} came"


def signed(error: Estimate) -> str:
    """Return a relative error with its bounds, ``+1.2 % (−0.4 % to +2.0 %)``."""
    middle, low, high = (signed_percent(v) for v in (error.median, error.low, error.high))
    return f"{middle} ({low} to {high})" if error.n > 1 else middle


def _others(answers: AnswerLengths) -> str:
    """Say how far the first formula is off, and the same line over tokens asked for."""
    errors = {
        formula: [
            found.error.median for p in answers.held_places if (found := answers.test(formula, p))
        ]
        for formula in FORMULAS
    }
    if not errors["original"]:
        return ""
    text = (
        "**Other formulas on the same processes:** the first one, 0.5 s + tokens / 16, made on "
        f"another machine and of another model, is off by {_reach(errors['original'])}"
    )
    if not errors["naive"] or not errors["line"]:
        return f"{text}."
    text += f"; a line through tokens asked for is off by {_reach(errors['naive'])}"
    if (answers.points["asked"] == answers.points["generated"]).all():
        return f"{text}, and is the same line, because every process generated what was asked."
    return f"{text}, that through tokens generated by {_reach(errors['line'])}."


def _reach(errors: list[float]) -> str:
    low, high = signed_percent(min(errors)), signed_percent(max(errors))
    return low if low == high else f"{low} to {high}"


def _ends(answers: AnswerLengths) -> str:
    """Say in what share asked and generated differ, and what a natural end costs itself."""
    natural = answers.good[answers.good["length"] == "natural"]
    lead = "**Asked and generated:**"
    if natural.empty:
        return f"{lead} no answer with a natural end was measured, so nobody knows how they differ."
    early = natural[natural["generated_tokens"] < natural["max_tokens"]]
    stopped = natural[natural["finish_reason"] == "stop"]
    total = several(len(natural), "generation")
    if early.empty and stopped.empty:
        text = (
            f"{lead} of {total} with a natural end none ended by itself (finish&#95;reason "
            f"{counts(natural['finish_reason'])}): as many tokens came as were asked for, and "
            "max&#95;tokens alone set the length."
        )
    else:
        text = (
            f"{lead} of {total} with a natural end {len(stopped)} "
            f"({percent(len(stopped) / len(natural))}) ended by themselves (finish&#95;reason "
            f"stop), and {len(early)} ({percent(len(early) / len(natural))}) generated fewer tokens"
            " than asked for"
        )
        if len(early):
            share = float((early["generated_tokens"] / early["max_tokens"]).median())
            text += f", at the median {percent(share)} of them"
        text += "."
    tokens = answers.same_length
    if tokens is None:
        return text
    found = told(answers.natural_against_fixed(tokens))
    return (
        f"{text} Watching for the end costs, where both generate {tokens:,.0f} tokens, natural "
        f"against fixed: {found}."
    )


def max_tokens_reading(df: pd.DataFrame, info: Mapping[str, Any]) -> Markdown:
    """Return how to read the figure: which points the line has seen, and how far it is off.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    info
        The content of ``run.json``.
    """
    answers = AnswerLengths(df, held_out(info))
    if answers.line is None:
        return markdown("Too little was measured for a line.")
    seen = int((~answers.points["held_out"]).sum())
    text = (
        f"The line is fitted to {several(seen, 'process', 'processes')} (filled) and has not seen "
        f"the other {len(answers.points) - seen} (hollow)."
    )
    errors = [found.error.median for p in answers.held_places if (found := answers.test("line", p))]
    return markdown(f"{text} At these it is off by {_reach(errors)}." if errors else text)
