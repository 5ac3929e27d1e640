"""What is still undecided: the comparisons on which a question's answer rests, read generically.

A question says in one function, ``deciding(view)``, which comparisons these are. One that has none
such is measured as planned: what it asks is how much, and not which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import pandas as pd

from llm_latency.questions import QUESTIONS, module
from llm_latency.records.machines import Rows, Run, by_machine
from llm_latency.stats.compare import Comparison
from llm_latency.stats.pooled import Pooled, matched


def compared(experiment: str, run: Run) -> Sequence[Comparison]:
    """Return the comparisons on which the answer to a question rests; none where it has none.

    Of a run on several machines they are over all of these.
    """
    parts = by_machine(run)
    if len(parts) > 1:
        return over(experiment, parts)
    return _on_one(experiment, *parts.values())


def over(experiment: str, parts: Mapping[str, Run]) -> list[Pooled]:
    """Return the comparisons on which the answer to a question rests, over several machines.

    Parameters
    ----------
    experiment
        The question's name.
    parts
        Each machine's rows, :func:`~llm_latency.records.machines.by_machine`.
    """
    return matched({name: _on_one(experiment, part) for name, part in parts.items()})


def _on_one(experiment: str, run: Run) -> list[Comparison]:
    if experiment not in QUESTIONS or not hasattr(question := module(experiment), "deciding"):
        return []
    found: list[Comparison] = question.deciding(question.View(run))
    return found


def undecided(
    experiment: str, rows: pd.DataFrame, info: Mapping[str, Any], still: Set[str]
) -> set[str] | None:
    """Return the cells of comparisons that further rounds may decide; ``None`` without any.

    Parameters
    ----------
    experiment
        The question's name.
    rows
        What was measured so far.
    info
        The content of ``run.json``.
    still
        The cells that have not left: others are compared by what there is of them.
    """
    found = compared(experiment, Rows(rows, dict(info)))
    if not found:
        return None
    return {cell for one in found if not one.settled and one.cells <= still for cell in one.cells}
