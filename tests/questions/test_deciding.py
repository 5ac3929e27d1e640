"""Every question that compares says so, in comparisons that know of looks and of their cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_latency import experiments
from llm_latency.measure.resume import for_this_machine
from llm_latency.plan.spec import Plan
from llm_latency.questions import QUESTIONS, deciding, module
from llm_latency.records.store import framed
from llm_latency.report.page import Rows
from llm_latency.stats.sequential import looks
from tests.support import factories

ROUNDS = 12
COMPARING = [name for name in QUESTIONS if hasattr(module(name), "deciding")]


@pytest.fixture(params=COMPARING)
def plan(request: pytest.FixtureRequest, tiny: Path) -> Plan:
    options: dict[str, Any] = {"rounds": ROUNDS, "stop_when_decided": True}
    made = experiments.__getattr__(request.param)(model=str(tiny), **options)
    assert isinstance(made, Plan)
    # What advice would try is asked of the engine, which takes longer than it tells here.
    return made if request.param == "advise" else for_this_machine(made)


def info(plan: Plan) -> dict[str, Any]:
    on = {"on": "cpu", "memory_there_bytes": 2**33} if plan.experiment == "advise" else {}
    data = plan.model_dump(mode="json") | {"parameters": plan.parameters | on}
    return factories.info() | {"plan": data}


def test_its_comparisons_know_their_cells_and_of_the_looks(plan: Plan) -> None:
    rows = framed(factories.carried_out(plan, ROUNDS), plan)
    found = deciding.compared(plan.experiment, Rows(rows, info(plan)))
    assert found
    cells = {cell.cell_id for cell in plan.cells}
    for one in found:
        assert one.ratio.n == ROUNDS and one.ratio.coverage == 1 - looks(ROUNDS)[-1].spent
        assert one.cells and one.cells <= cells
    first = rows[rows["round"] == 0]
    first.attrs = rows.attrs
    still_open = deciding.undecided(plan.experiment, first, info(plan), cells)
    assert still_open == {cell for one in found for cell in one.cells}
    # What has left does not come back, nor do comparisons that were with it.
    gone = next(iter(found[0].cells))
    there = {cell for one in found if gone not in one.cells for cell in one.cells}
    assert deciding.undecided(plan.experiment, first, info(plan), cells - {gone}) == there


def test_estimates_of_how_much_are_measured_as_planned() -> None:
    for name in ("prompt_size", "max_tokens", "memory_ledger"):
        assert name not in COMPARING
        plan = experiments.__getattr__(name)(model="synthetic:tiny", stop_when_decided=True)
        assert not plan.stop_when_decided and not plan.looked_at
    assert deciding.undecided("frontier", framed([], PLAIN), {}, set()) is None


PLAIN = Plan(experiment="frontier", model="x", cells=())
