"""A whole sweep, gone through as one that may stop: fewer trials, and the same clear verdicts."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest

from benchmarks.verdicts import saved
from llm_latency import experiments
from llm_latency.plan.spec import Plan
from llm_latency.records.record import Record
from tests.support import factories


class Whole(NamedTuple):
    """A run in which every planned trial is measured."""

    plan: Plan
    kept: list[Record]
    info: dict[str, Any]

    def records(self) -> list[Record]:
        return self.kept


@pytest.mark.parametrize("seed", [0, 1])
def test_a_sweep_that_stops_finds_what_a_whole_one_does(seed: int) -> None:
    plan = experiments.sweep(
        model="synthetic:tiny", prompt_tokens=448, rounds=12, repeats=0, max_tokens=2
    )
    random, made = np.random.default_rng(seed), []
    for trial in plan.trials():
        factor = float(np.exp(random.normal(0, 0.005)))
        one = factories.record(trial.settings, workload=trial.workload, factor=factor)
        made.append(one.model_copy(update={"trial": trial}))
    info = factories.info() | {"plan": plan.model_dump(mode="json")}
    kept = saved.replayed(Whole(plan, made, info))  # type: ignore[arg-type]
    assert len(kept) <= 0.6 * len(made)
    assert [record for record in made if record in kept] == kept
    stopping = plan.model_copy(update={"stop_when_decided": True})
    whole, early = (
        Counter(saved.verdicts(records, of, info).values())
        for records, of in ((made, plan), (kept, stopping))
    )
    assert whole == early == {"slower": 6, "same": 2}
