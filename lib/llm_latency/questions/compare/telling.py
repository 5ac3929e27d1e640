"""A comparison in words: what lies between the runs, what differs, and how far it can be told."""

from __future__ import annotations

import pandas as pd
from IPython.display import Markdown

from llm_latency.questions.compare.differing import differing
from llm_latency.questions.compare.judgement import View
from llm_latency.questions.compare.sides import OTHER_MACHINE, Side
from llm_latency.records import frame as fr
from llm_latency.report import conditions, page, phrases
from llm_latency.report.page import Answer, head, markdown
from llm_latency.stats.compare import Comparison
from llm_latency.stats.estimate import FEWEST
from llm_latency.words import counts, enumerate_words, escape, several

MOST = 2
"""Runs beyond the base that the answer tells of; of more the table does."""
SECONDS = "ms"
INCOMPLETE = "**incomplete: {final:,} of {planned:,} trials** have been measured."


def notices(view: View) -> Markdown:
    """Return what a reader must know before the answer, of each run by its name.

    Which are not whole, which cells failed, what held the machine back, and whether it was
    disturbed: what is not paired has all of that in its difference.
    """
    texts = []
    for side in {each.origin: each for each in reversed(view.sides)}.values():
        run, data = side.run, fr.by_cell(side.rows)
        left = "" if run.plan.looked_at or run.final >= run.planned else INCOMPLETE
        told = [
            left.format(final=run.final, planned=run.planned),
            page.failed(data),
            conditions.told(data, side.info),
            page.disturbed(data),
        ]
        if words := " ".join(filter(None, told)):
            texts.append(f"{escape(side.name)}: {words}")
    return head(1, 1, {}, *reversed(texts))


def answer(view: View) -> Answer:
    """Answer what lies between the runs, by how much their figures differ, and what it rests on."""
    if not view.cells:
        names = enumerate_words([escape(side.name) for side in view.sides])
        sentence = f"**Nothing to compare:** {names} have no cell in common."
        return Answer("no cell in common", "none", "", (sentence, *_differs(view)))
    main = "total" if "total" in view.measures else next(iter(view.measures), "")
    found = {o.name: view.compared(o, main) for o in view.others} if main else {}
    every = [one for cells in found.values() for one in cells.values()]
    told = [_against(view, other, main) for other in view.others[:MOST] if found.get(other.name)]
    told = [] if view.same_run else told
    verdicts = {one.verdict for one in every}
    word = verdicts.pop() if len(verdicts) == 1 else "measured" if every else "none"
    noise = "" if view.same_run else phrases.noise(every)
    sentences = [_between(view, every), *told, *_differs(view), _lonely(view) or noise]
    if len(sentences) < 5 and _lonely(view):
        sentences.append(noise)
    line = told[0].partition("; the largest")[0] if told else _between(view, every).rstrip(".")
    sure = phrases.sureness(every)
    return Answer(line.replace("*", ""), word, sure, tuple(filter(None, sentences)))


def _between(view: View, every: list[Comparison]) -> str:
    """Say what lies between the base and the others: the sentence without which nothing is told."""
    if view.same_run:
        exact = all(one.ratio.median == one.ratio.low == one.ratio.high == 1 for one in every)
        if exact:
            return "**The same run:** paired round by round, and every difference is exactly 0."
        return "**The same run, and not the same records:** one of the copies was changed."
    reasons: dict[str, list[str]] = {}
    for other in view.others:
        reasons.setdefault(view.apart(other), []).append(escape(other.name))
    told = []
    for reason, names in reasons.items():
        whose = f" ({enumerate_words(names)})" if len(view.others) > 1 else ""
        if reason == OTHER_MACHINE:
            told.append(f"**Not paired, and the machines differ**{whose}: no ratio is of a setting "
                        "or a build alone")  # fmt: skip
        elif reason:
            told.append(f"**Not paired: {reason}**{whose}, which no number of processes tells")
        else:
            told.append(f"**The same run**{whose}")
    return f"{'; '.join(told)}."


def _against(view: View, other: Side, measure: str) -> str:
    """Say how a side stands to the base by one figure, cell by cell."""
    found = view.compared(other, measure)
    verdicts = counts(one.verdict for one in found.values())
    far = max(found, key=lambda cell: abs(found[cell].ratio.median - 1))
    where = f" in {escape(view.cells[far])}" if len(found) > 1 else ""
    return (
        f"**{escape(other.name)}** against **{escape(view.base.name)}**, {measure}: "
        f"{several(len(found), 'cell')} ({verdicts}); the largest difference{where} is "
        f"{phrases.difference(found[far], words=view.words(measure))}."
    )


def _differs(view: View) -> list[str]:
    """Say what differs beside the figures."""
    labels = [escape(label) for label in differing(view)["what differs"]]
    return [f"What differs: {enumerate_words(labels, 5)}."] if labels else []


def _lonely(view: View) -> str:
    """Say which cells are on one side only."""
    told = [f"{several(len(c), 'cell')} only in {escape(n)}" for n, c in view.lonely().items()]
    return f"Not compared: {enumerate_words(told)}." if told else ""


def table(view: View) -> pd.DataFrame:
    """Return one row per cell and figure: each side's estimate, and the others against the base."""
    rows = []
    for cell, words in view.cells.items():
        for measure, column in view.measures.items():
            unit = "MiB" if measure == view.memory else SECONDS
            row = {"cell": words, "figure": f"{measure}, {unit}"}
            for side in view.sides:
                row[side.name] = phrases.short(side.estimate(cell, column), unit)
            for other in view.others:
                found = view.compare(other, cell, measure)
                row[f"{other.name} against {view.base.name}"] = phrases.change(
                    found, view.words(measure)
                )
            rows.append(row)
    made = pd.DataFrame(rows)
    between = {view.apart(other) for other in view.others} - {""}
    caveat = "".join(f"{phrases.UNPAIRED.capitalize()}: {reason}. " for reason in sorted(between))
    made.attrs["caption"] = (
        f"{caveat}A difference is of the quickest generation of each process, and rests on "
        f"{FEWEST} of each at least. {phrases.BRACKETS}"
    )
    return made


def method(view: View) -> Markdown:
    """Return how the runs are compared, and where they lie."""
    names = ", ".join(escape(side.name) for side in view.sides)
    return markdown(
        f"Compared were {names}; nothing was measured. Cells are matched by all that was asked for "
        "in them. A run is paired with itself round by round; two runs are two independent samples "
        "of processes, and their ratio is that of the medians, its interval put together of the "
        "distribution-free intervals of both: it knows how processes scatter within each run, and "
        "nothing of what changed between the runs. A verdict needs six processes of each, and a "
        "difference beyond the noise of both runs' twins, of which the larger counts."
    )
