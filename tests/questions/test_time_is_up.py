"""A run that its minutes cut within the first round: every page shows what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

import llm_latency as lab
from llm_latency.measure.resume import for_this_machine
from llm_latency.plan.spec import Plan
from llm_latency.questions import QUESTIONS, module
from llm_latency.records.store import RunStore
from llm_latency.report.page import Answer
from tests.support import factories
from tests.support.pages import cells_after, text

ASKED = [name for name in QUESTIONS if name not in ("calibration", "compare", "everything")]


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", ASKED)
def test_a_page_shows_what_there_is(
    name: str, share: float, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plt, "show", plt.close)
    plan = lab.experiments.__getattr__(name)(model=str(tiny), minutes=1.0)
    assert isinstance(plan, Plan)
    plan = plan if name == "advise" else for_this_machine(plan)
    on: dict[str, Any] = {"on": "cpu", "memory_there_bytes": 2**33} if name == "advise" else {}
    data = plan.model_dump(mode="json") | {"parameters": plan.parameters | on}
    run = RunStore.create(tmp_path / "r", factories.info() | {"run_id": "r", "plan": data})
    made = factories.carried_out(plan)
    kept = made[: max(1, int(share * len(made)))]
    for one in kept:
        run.append(one.model_copy(update={"run_id": "r", "child_s": 120.0 / len(kept)}))
    seen = {"lab": lab, "question": module(name), "plan": plan, "run": run}
    for source in cells_after(name):
        exec(compile(source, name, "exec"), seen)
    plt.close("all")
    told = module(name).answer(seen["view"])
    assert isinstance(told, Answer) and told.text
    missing = len({c.cell_id for c in plan.cells} - {r.trial.cell_id for r in kept})
    notice = text(lab.notices(run))
    assert ("never measured" in notice) == (missing > 0)
    assert missing == 0 or f"{missing} of" in notice
