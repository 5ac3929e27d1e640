"""What matters here, in sentences and in tables."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from llm_latency.questions.knobs.judgement import BASELINE, TIMES, Effect, View, deciding
from llm_latency.records import frame as fr
from llm_latency.report import phrases, tables
from llm_latency.report.page import Answer, code, model_name, no_answer
from llm_latency.stats.compare import SMALLEST_EFFECT
from llm_latency.words import enumerate_words, escape, percent, several

MOST = 5
"""Knobs of a kind that a sentence tells; the table has them all."""


def answer(view: View) -> Answer:
    """Answer which knobs matter, which do not, and what is undecided."""
    if nothing := no_answer(view.data):
        return nothing
    if not view.effects:
        sentence = "No knob was compared: the baseline and its twin have not been measured yet."
        return Answer("no knob was compared", "none", "", (sentence,))
    found = deciding(view)
    matter = [one for one in view.effects if one.matters]
    same = [one for one in view.effects if one.same]
    failed = [one for one in view.effects if not one.measured]
    left = [one for one in view.effects if not one.matters and not one.same and one.measured]
    good = fr.ok(view.data)
    sentences = [
        f"With {model_name(view.info)}, a prompt of {good['prompt_tokens'].max():,.0f} tokens and "
        f"{good['max_tokens'].max():,.0f} generated, {_those_that_matter(matter, view)}.",
        _those_that_do_not(same),
        " ".join(filter(None, (_undecided(left), _failed(failed)))),
        f"Not here: {code(escape(enumerate_words(list(view.not_here), 99)))}."
        if view.not_here
        else "",
        phrases.noise(found),
    ]
    verdict: str = "undecided" if left else "same"
    if not matter:
        line = f"none of {several(len(view.effects), 'knob')} is told to matter"
    else:
        top = matter[0]
        verdict = next((one.verdict for one in top.decided.values()), "measured")
        line = f"{len(matter)} of {several(len(view.effects), 'knob')} matter; most: {_short(top)}"
    return Answer(line, verdict, phrases.sureness(found), tuple(filter(None, sentences)))


def _those_that_matter(matter: Sequence[Effect], view: View) -> str:
    if not matter:
        return f"**no knob of {len(view.effects)} is told to matter**"
    told = [_short(one) for one in matter[:MOST]]
    more = len(matter) - len(told)
    told += [several(more, "further knob")] if more > 0 else []
    verb = "matters" if len(matter) == 1 else "matter"
    knobs = several(len(view.effects), "knob")
    return f"**{len(matter)} of {knobs} {verb}**: {'; '.join(told)}"


def _short(one: Effect) -> str:
    """Return what a knob does, as far as it is decided, in a few words."""
    told = [f"{word} {phrases.change(found)}" for word, found in one.decided.items()]
    if one.memory_matters:
        told.append(f"memory {phrases.more_mib(one.memory_bytes)} MiB")
    against = "" if one.reference == BASELINE else f", beside {_named(one.reference)}"
    return f"{_named(one.name)} ({', '.join(told)}{against})"


def _those_that_do_not(same: Sequence[Effect]) -> str:
    if not same:
        return ""
    names = enumerate_words([_named(one.name) for one in same], 99)
    verb = "does" if len(same) == 1 else "do"
    return (
        f"**Same**: {names} {verb} not matter; all changes are within {percent(SMALLEST_EFFECT)}."
    )


def _undecided(left: Sequence[Effect]) -> str:
    if not left:
        return ""
    nearest = max(left, key=lambda one: one.size)
    word, found = nearest.nearest
    are = "is" if len(left) == 1 else "are"
    of = several(len(left), "knob")
    return (
        f"{of[0].upper()}{of[1:]} {are} {phrases.UNDECIDED}; the nearest to a difference, "
        f"{_named(nearest.name)}: {word} {phrases.change(found)}."
    )


def _failed(failed: Sequence[Effect]) -> str:
    told = [f"{_named(one.name)}: {escape(one.trials)}" for one in failed]
    return f"Not measured: {'; '.join(told)}." if told else ""


def _named(name: str) -> str:
    return code(escape(name))


def table(view: View) -> pd.DataFrame:
    """Return one row per knob, the largest effect first, below the baseline."""
    column, word, why = view.memory
    base = {"knob": BASELINE, "compared with": "–"} if view.base_id else {}
    rows = []
    for one in [None, *view.effects] if base else []:
        cell = one.cell_id if one else str(view.base_id)
        row = {"knob": one.name, "compared with": one.reference} if one else dict(base)
        row["trials"] = fr.status_words(view.of(cell))
        for name, times in TIMES.items():
            row[f"{name}, ms"] = phrases.short(view.estimate(times, cell), "ms")
            row[f"{name} changes"] = phrases.change(one.times[name]) if one else "–"
        row[f"{word}, MiB"] = phrases.short(view.estimate(column, cell), "MiB")
        known = one is not None and one.memory_bytes == one.memory_bytes
        row[f"{word} more, MiB"] = phrases.more_mib(one.memory_bytes) if one and known else "–"
        rows.append(row)
    return tables.captioned(rows, f"{phrases.BRACKETS} {word}: {why}.")


def absent(view: View) -> pd.DataFrame:
    """Return the knobs that are not here, and why."""
    return pd.DataFrame(list(view.not_here.items()), columns=["not here", "why"], dtype=object)
