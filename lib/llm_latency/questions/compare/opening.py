"""Which runs are compared: folders, packs, names, or pages that tell of a run."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from llm_latency.base import Frozen
from llm_latency.errors import LabError, ParameterError
from llm_latency.plan.builder import Grid
from llm_latency.plan.parameters import build, check_sizes, closed, plain, shown
from llm_latency.records.folders import outputs_dir
from llm_latency.records.store import RunStore, holds_run, open_run
from llm_latency.report.appendix import named_runs

PAGES = (".html", ".htm", ".ipynb")
"""What a report or an executed notebook ends in; it holds no rows, and names the run that does."""


class ComparePlan(Frozen):
    """What is put side by side."""

    runs: tuple[str, ...] = Field(description="The first is what the others are compared with")
    parameters: dict[str, Any] = Field(default_factory=dict, description="As the user gave them")

    @property
    def experiment(self) -> str:
        """The question."""
        return "compare"


@closed("compare")
def plan(
    runs: Annotated[Grid, "two or more: folders, packs, run_ids, reports; none: the newest"] = (),
) -> ComparePlan:
    """Plan to compare stored runs, the first of which is the base.

    Raises
    ------
    ParameterError
        If these are no names, or those of one run alone.
    """
    check_sizes({"runs": runs})
    given = plain(runs)
    named = given if isinstance(given, list) else [given]
    # papermill makes a number of a name that is all digits.
    if not all(isinstance(one, str) or type(one) is int for one in named):
        raise ParameterError(
            f"runs={shown(given)} is refused: give folders, packs, run_ids or reports, such as "
            'runs=["outputs/runs/before", "outputs/runs/after"].'
        )
    if len(named) == 1:
        raise ParameterError(
            f"runs={shown(given)} is one run; give two or more, or none for the newest two of one "
            "question."
        )
    return build(ComparePlan, {"runs": tuple(map(str, named)), "parameters": {"runs": given}})


def run(plan: ComparePlan, *, progress: bool = True) -> list[RunStore]:
    """Open the runs of a plan; nothing is measured, and nobody waits for ``progress``.

    Raises
    ------
    LabError
        If one of them is not there, or cannot be read.
    """
    return [opened(place) for place in plan.runs] if plan.runs else newest()


def opened(place: str) -> RunStore:
    """Return a run by its folder, pack or ``run_id``, or by a page that tells of it.

    Raises
    ------
    ParameterError
        If there is no such run, or the page tells of none, or of several.
    """
    file = Path(os.path.expanduser(place))
    if file.suffix.lower() not in PAGES or not file.is_file():
        return open_run(place)
    advice = "give the run's own folder, or its pack"
    try:
        names = named_runs(file.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise ParameterError(f"{place} cannot be read ({error.strerror}); {advice}.") from None
    if len(names) != 1:
        told = "no run" if not names else f"{len(names)} runs ({', '.join(names[:3])})"
        raise ParameterError(f"{place} tells of {told}; {advice}.")
    beside = (file.parent / "runs" / names[0], file.parent / f"{names[0]}.zip")
    try:
        return open_run(next(filter(holds_run, beside), names[0]))
    except ParameterError:
        raise ParameterError(
            f"{place} holds no rows, and the run {names[0]!r} that it tells of is not stored here; "
            f"{advice}."
        ) from None


def newest() -> list[RunStore]:
    """Return the newest run, after the one before it of the same question.

    Raises
    ------
    ParameterError
        If there are no two.
    """
    cards = (outputs_dir() / "runs").glob("*/run.json")
    last: RunStore | None = None
    for card in sorted(cards, key=lambda file: file.stat().st_mtime, reverse=True):
        with contextlib.suppress(LabError):  # a damaged run is none to compare with
            found = RunStore(card.parent)
            if last is None:
                last = found
            elif found.plan.experiment == last.plan.experiment:
                return [found, last]
    raise ParameterError(
        "runs=[] names none, and no two of one question are stored here; give two or more, such as "
        'runs=["outputs/runs/before", "outputs/runs/after"].'
    )
