"""What is still undecided: the comparisons on which a question's answer rests, read generically.

A question says in one function, ``deciding(view)``, which comparisons these are. One that has none
such is measured as planned: what it asks is how much, and not which.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import pandas as pd

from llm_latency.questions import QUESTIONS, module
from llm_latency.report.page import Rows
from llm_latency.stats.compare import Comparison


def compared(experiment: str, run: Any) -> list[Comparison]:
    """Return the comparisons on which the answer to a question rests; none where it has none."""
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
