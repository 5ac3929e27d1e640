"""A question on several machines: the answer on each, and what its comparisons come to over all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown

from llm_latency.questions import deciding, module
from llm_latency.records import frame as fr
from llm_latency.records.machines import Rows, by_machine
from llm_latency.report import page, phrases, style
from llm_latency.stats.compare import Comparison, Side
from llm_latency.stats.pooled import Pooled
from llm_latency.words import several

MOST = 4
"""Comparisons that a sentence names; of others it says how many there are."""


def answer(experiment: str, parts: Mapping[str, Rows]) -> page.Answer:
    """Return the answer to a question over machines.

    Parameters
    ----------
    experiment
        The question's name.
    parts
        Each machine's rows, :func:`~llm_latency.records.machines.by_machine`.
    """
    question = module(experiment)
    each = {name: question.answer(question.View(part)) for name, part in parts.items()}
    lines = "; ".join(
        f"{page.machine_name(name, parts[name].info)}: {one.line}" for name, one in each.items()
    )
    first = f"Measured on **{len(parts)} machines**, each by itself: {lines}"
    line, first = f"{len(parts)} machines: {lines}", first + "."
    if not (found := deciding.over(experiment, parts)):
        return page.Answer(line, _one_word(each.values()), "each by itself", (first,))
    over = _over(found, parts)
    sure = phrases.sureness(found)
    return page.Answer(line, _one_word(found), sure, (first, over, phrases.noise(found)))


def _one_word(several_of: Iterable[page.Answer | Comparison]) -> str:
    """Return the verdict of all; ``depends`` if any does, else ``undecided`` where they differ."""
    words = {one.verdict for one in several_of}
    return words.pop() if len(words) == 1 else "depends" if "depends" in words else "undecided"


def figures(parts: Mapping[str, Rows], draw: Callable[[Rows], Any]) -> dict[str, Any]:
    """Return a figure of each machine, with the machine's name above it.

    Parameters
    ----------
    parts
        Each machine's rows.
    draw
        Draws those of one, on axes of its own.
    """
    drawn = {name: draw(part) for name, part in parts.items()}
    for name, axes in drawn.items():
        first = np.ravel(axes)[0]
        beside = first.figure.get_suptitle()
        style.say_above(first, f"{name}: {beside}" if beside else name, own=True)
    return drawn


def notices(run: Any) -> Markdown:
    """Return what a reader must know before the answer; nothing where all is well.

    Whether the run is complete, whether the model has random weights, which cells failed, what
    held the machine back, and whether it was disturbed; of several machines, of each, and what
    the comparisons come to over all of them.

    Parameters
    ----------
    run
        A stored run.
    """
    parts = by_machine(run)
    found = deciding.over(run.plan.experiment, parts) if len(parts) > 1 else []
    return page.notices(run, *([_over(found, parts)] if found else []))


def _over(found: Sequence[Pooled], parts: Mapping[str, Rows]) -> str:
    """Say what comparisons come to over all machines."""
    rows = pd.concat([part.frame() for part in parts.values()], ignore_index=True)
    data = fr.by_cell(rows.assign(machine_id=None, gpu_uuid=None))  # for their names alone
    told = [f"{_named(one, data)}: {in_words(one)}" for one in found[:MOST]]
    rest = found[MOST:]
    apart = sum(one.verdict == "depends" for one in rest)
    more = f"; of {several(len(rest), 'more comparison')}, {apart} depend on it" if rest else ""
    return f"Over all machines, {'; '.join(told)}{more}."


def in_words(found: Comparison) -> str:
    """Return a comparison over machines as part of a sentence: pooled, or of each."""
    if not isinstance(found, Pooled) or found.verdict != "depends":
        return phrases.difference(found)
    each = ", ".join(f"{name} {phrases.change(one)}" for name, one in found.each.items())
    return f"{phrases.verdict(found)} ({each})"


def _named(found: Pooled, data: pd.DataFrame) -> str:
    """Return what is compared, as short as its cells allow: ``ttft_s, n_batch 256 against 128``."""
    a, b = (_side(side, data) for side in found.sides)
    column = page.code(found.sides[1][0])
    return f"{column} of {b}" + (f" against {a}" if a != b else "")


def _side(side: Side, data: pd.DataFrame) -> str:
    _, *cells = side
    return fr.describe(data, list(data.loc[data["cell_id"].isin(cells), "cell"].unique()))
