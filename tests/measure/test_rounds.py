"""Rounds end when all is decided or the time is up; the records alone say so."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tqdm import tqdm

import llm_latency as lab
from llm_latency.machine import disturbance
from llm_latency.measure import rounds, session
from llm_latency.measure.earlier import round_s
from llm_latency.measure.job import Job
from llm_latency.measure.resume import next_trials
from llm_latency.plan.settings import Settings
from llm_latency.questions import sweep
from llm_latency.records.record import HostState, Record
from llm_latency.records.store import RunStore
from llm_latency.report import page
from tests.support import factories
from tests.support.factories import FakeWorker
from tests.support.pages import text

pytestmark = pytest.mark.usefixtures("outputs")
SLOW = 128
"""The n_batch that takes a fifth longer."""


class Measured:
    """Stands for carrying out a trial: a record of its cell, quicker than any process."""

    def __init__(self, noise: float = 0.001, child_s: float = 1.0, stop: int = 10**6) -> None:
        self.noise, self.child_s, self.stop, self.done = noise, child_s, stop, list[str]()

    def __call__(self, job: Job) -> Record:
        if len(self.done) == self.stop:
            raise KeyboardInterrupt
        trial = job.trial
        self.done.append(trial.trial_id)
        random = np.random.default_rng([trial.order, trial.twin])

        def ttft(settings: Settings, prompt: int) -> float:
            slow = 1.2 if settings.n_batch == SLOW else 1.0
            return slow * prompt * 1e-3 * float(np.exp(random.normal(0, self.noise)))

        made = factories.record(trial.settings, workload=trial.workload, ttft=ttft)
        kept = {"run_id": job.run_id, "trial": trial, "child_s": self.child_s}
        return made.model_copy(update=kept)


Carry = Callable[..., Measured]


@pytest.fixture
def carry(monkeypatch: pytest.MonkeyPatch, fake_worker: FakeWorker) -> Carry:
    fake_worker("answers")

    def install(**options: float) -> Measured:
        measured = Measured(**options)  # type: ignore[arg-type]
        monkeypatch.setattr(session, "carry_out", measured)
        clock = (measured.child_s * n for n in iter(lambda: len(measured.done), None))
        ticking = SimpleNamespace(monotonic=lambda: next(clock), strftime=time.strftime)
        monkeypatch.setattr(session, "time", ticking)
        return measured

    return install


@pytest.fixture
def plan(tiny: Path) -> lab.Plan:
    return lab.experiments.sweep(
        model=str(tiny), n_ctx=[512, 1024], n_batch=[SLOW, 256], prompt_tokens=64, max_tokens=3,
        repeats=0, rounds=12, stop_when_decided=True, run_id="r",
    )  # fmt: skip


def rounds_of(run: RunStore, **settings: int) -> Counter[int]:
    records = [r for r in run.records() if not r.trial.twin]
    return Counter(
        record.trial.round
        for record in records
        if all(getattr(record.trial.settings, k) == v for k, v in settings.items())
    )


def test_what_is_decided_after_six_rounds_costs_no_more(plan: lab.Plan, carry: Carry) -> None:
    carry()
    with tqdm(total=len(plan.trials()) + 7, disable=False) as bar:
        run = lab.run(plan, progress=bar)
        assert (bar.n, bar.total) == (30, 30 + 7)
    assert set(rounds_of(run)) == set(range(6))
    found = sweep.View(run).against_soonest.values()
    assert Counter(one.verdict for one in found) == {"slower": 2, "same": 1}
    notice = page.notices(run)
    assert "Saved: 30 of 60 trials" in text(notice)
    assert notice.metadata["llm_latency"] == {"planned": 60, "final": 60}


def test_beaten_cells_leave_and_open_ones_go_on(plan: lab.Plan, carry: Carry) -> None:
    carry(noise=0.012)
    run = lab.run(plan, progress=False)
    assert set(rounds_of(run, n_batch=SLOW, n_ctx=512)) == set(range(6))
    assert max(rounds_of(run, n_batch=256)) > 6
    beyond = [r.trial for r in run.records() if r.trial.round >= 6]
    assert not any(t.twin for t in beyond)
    assert [t.trial_id for t in plan.trials() if t in beyond] == [t.trial_id for t in beyond]


@pytest.mark.parametrize("stop", [3, 31, 32])
def test_an_interrupted_run_ends_where_a_whole_one_does(
    plan: lab.Plan, carry: Carry, stop: int
) -> None:
    whole = carry(noise=0.012)
    lab.run(plan.model_copy(update={"run_id": "whole"}), progress=False)
    first = carry(noise=0.012, stop=stop)
    with pytest.raises(KeyboardInterrupt):
        lab.run(plan, progress=False)
    second = carry(noise=0.012)
    run = lab.run(plan, progress=False)
    assert first.done + second.done == whole.done
    third = carry()
    assert lab.run(plan, progress=False).records() == run.records() and third.done == []


def test_as_planned_every_round_is_measured(plan: lab.Plan, carry: Carry) -> None:
    carry()
    fixed = plan.model_copy(update={"stop_when_decided": False})
    assert fixed.plan_id != plan.plan_id
    run = lab.run(fixed, progress=False)
    assert run.complete and "looks" not in run.frame().attrs
    assert text(page.notices(run)) == text(page.head(60, 60, run.info))


@pytest.mark.parametrize(("minutes", "trials"), [(0.5, 30), (0.01, 1), (0.05, 3), (2.0, 120)])
def test_rounds_go_on_until_the_time_is_up(
    plan: lab.Plan, carry: Carry, minutes: float, trials: int
) -> None:
    carry(child_s=1.0, noise=0.02)
    timed = plan.model_copy(update={"stop_when_decided": False, "minutes": minutes})
    run = lab.run(timed, progress=False)
    assert len(run.records()) == trials  # one at least, and as many as fit
    assert "time is up" in text(page.notices(run))
    again = carry()
    assert len(lab.run(timed, progress=False).records()) == trials and again.done == []
    assert not next_trials(timed, run)


def test_a_run_can_be_given_more_minutes(plan: lab.Plan, carry: Carry) -> None:
    carry(noise=0.02)
    timed = plan.model_copy(update={"stop_when_decided": False, "minutes": 0.5})
    lab.run(timed, progress=False)
    run = lab.run(timed.model_copy(update={"minutes": 1.0}), progress=False)
    assert len(run.records()) == 60


def test_where_time_is_given_the_twins_go_on(plan: lab.Plan, carry: Carry) -> None:
    carry(noise=0.03)
    run = lab.run(plan.model_copy(update={"minutes": 1.0}), progress=False)
    beyond = [r.trial for r in run.records() if r.trial.round >= 6]
    assert {t.twin for t in beyond} == {True, False}


def test_what_has_left_does_not_come_back(plan: lab.Plan, carry: Carry) -> None:
    for seed in range(12):
        carry(noise=0.02)
        run = lab.run(plan.model_copy(update={"seed": seed, "run_id": f"r{seed}"}), progress=False)
        there = [
            {r.trial.cell_id for r in run.records() if r.trial.round == number}
            for number in range(12)
        ]
        assert all(later <= earlier for earlier, later in itertools.pairwise(there))


def test_decided_before_the_time_is_up_it_ends(plan: lab.Plan, carry: Carry) -> None:
    carry()
    run = lab.run(plan.model_copy(update={"minutes": 60.0}), progress=False)
    assert set(rounds_of(run)) == set(range(6))


def test_what_earlier_runs_took_is_known_for_their_cells(plan: lab.Plan, carry: Carry) -> None:
    assert round_s(plan) is None
    carry(child_s=2.0)
    lab.run(plan, progress=False)
    assert round_s(plan) == len(plan.cells) * 2.0
    longer = lab.experiments.sweep(model=plan.model, n_ctx=[512, 768], n_batch=256)
    assert round_s(longer) is None


def test_after_the_first_round_one_line_says_how_long(
    plan: lab.Plan, carry: Carry, capsys: pytest.CaptureFixture[str]
) -> None:
    carry(child_s=30.0)
    lab.run(plan)
    assert capsys.readouterr().err.count("About 30.0 minutes for 60 trials at most.") == 1
    lab.run(plan)
    assert "About" not in capsys.readouterr().err
    timed = plan.model_copy(update={"stop_when_decided": False, "minutes": 5.0, "run_id": "timed"})
    lab.run(timed)
    assert "About 5.00 minutes for 10 trials." in capsys.readouterr().err


def test_what_a_quota_disturbed_is_not_repeated_in_vain() -> None:
    host = HostState(quota_cpus=0.5, throttled_periods=9, throttled_s=0.8)
    quota = disturbance.held_back(host, 1.0)
    neighbour = "other processes took 40% of the CPU time; close them and measure again"
    trials = [
        factories.record(Settings(), round=round, more={"host": host, "disturbed": causes})
        for round, causes in enumerate([quota, [*quota, neighbour], [neighbour], []])
    ]
    assert len(quota) == 1
    repeated = rounds.again(SimpleNamespace(records=lambda: trials))  # type: ignore[arg-type]
    assert [trial.round for trial in repeated] == [1, 2]
