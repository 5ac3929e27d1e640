"""Advice varies threads and cores in a second stage, on its best candidate."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_latency as lab
from llm_latency import experiments
from llm_latency.errors import ParameterError
from llm_latency.machine import affinity, limits
from llm_latency.measure import session
from llm_latency.measure.job import Job
from llm_latency.plan.spec import Plan
from llm_latency.questions import advise
from llm_latency.questions.advise import planning, threads
from llm_latency.questions.advise.pasting import parameters_to_verify
from llm_latency.records.record import Affinity, Record
from llm_latency.report.page import Rows
from tests.support import factories
from tests.support.pages import plain

USUAL = threads.USUAL
PHYSICAL = (0, 2, 4, 6)
SMALL: dict[str, Any] = {
    "n_ubatch": [128, 512], "flash_attn": False, "keep_free": "0", "n_gpu_layers": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cores of two logical CPUs each, all alike."""

    def chosen(kind: str) -> tuple[int, ...]:
        if kind == "performance":
            raise ParameterError("not told")
        return PHYSICAL

    monkeypatch.setattr(limits, "usable_cpus", lambda: 4)
    monkeypatch.setattr(limits, "allowed_cpus", lambda: tuple(range(8)))
    monkeypatch.setattr(limits, "quota_cpus", lambda: None)
    monkeypatch.setattr(affinity, "chosen", chosen)


def plan_of(**given: Any) -> Plan:
    return planning.for_this_machine(experiments.advise(**{**SMALL, **given}))


def test_few_choices_are_worth_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(**given: Any) -> list[tuple[Any, Any]]:
        usual = {"n_threads": 0, "cores": "any"}
        return [(one["n_threads"], one["cores"]) for one in threads.worth_trying(usual | given)]

    assert tried() == [(2, None), (3, None), (8, None), (None, "physical")]
    assert tried(n_threads=4) == tried(n_threads="3") == tried(cores="physical") == []
    monkeypatch.setattr(limits, "quota_cpus", lambda: 4.0)
    assert tried() == [(2, None), (3, None), (None, "physical")]
    monkeypatch.setattr(limits, "usable_cpus", lambda: 1)
    assert tried() == []


def test_the_stage_has_rounds_and_a_twin_of_its_own() -> None:
    plan = plan_of(rounds=2)
    cell, tried = plan.cells[0], plan.parameters["threads_tried"]
    stage = threads.trials(plan, cell, tried)
    assert len(stage) == 2 * (4 + 2) and sum(trial.twin for trial in stage) == 2
    names = [trial.trial_id for trial in (*plan.trials(), *stage)]
    assert len(set(names)) == len(names)
    assert {t.settings.n_ubatch for t in stage} == {cell.settings.n_ubatch}
    on_card = cell.settings.model_copy(update={"n_gpu_layers": -1})
    gpu = plan.model_copy(update={"parameters": plan.parameters | {"on": "gpu"}})
    few = threads.trials(gpu, cell.model_copy(update={"settings": on_card}), tried)
    assert {t.settings.n_threads for t in few} == {None, 2}
    assert threads.trials(plan, cell, []) == []


def record_of(trial: Any, seconds: float, rng: np.random.Generator) -> Record:
    """Return what a trial would leave, answered in so many times the usual."""
    count = trial.settings.n_threads or 4
    made = factories.record(
        trial.settings,
        workload=trial.workload,
        start=trial.start,
        round=trial.round,
        twin=trial.twin,
        model=trial.model,
        ttft=lambda s, p: 100 / (s.n_ubatch or 512),
        factor=seconds * float(np.exp(rng.normal(0, 0.001))),
    )
    assert made.effective is not None
    real = made.effective.model_copy(update={"n_threads": count, "n_threads_batch": count})
    cpus = "0,2,4,6" if trial.start.cores else "0-7"
    told = Affinity(pinned=cpus if trial.start.cores else None, threads={"after_last": {cpus: 5}})
    changed = {"effective": real, "affinity": told, "trial": trial}
    return made.model_copy(update=changed)


def view_of(times: dict[Any, float], rounds: int = 6, **given: Any) -> advise.View:
    """Return a run whose choices take so many times the usual; others twice that."""
    plan, rng = plan_of(rounds=rounds, **given), np.random.default_rng(1)
    best = next(c for c in plan.cells if c.settings.n_ubatch == 512)
    stage = threads.trials(plan, best, plan.parameters["threads_tried"])
    made = [record_of(trial, 1.0, rng) for trial in plan.trials()]
    for trial in stage:
        name = trial.start.cores or trial.settings.n_threads
        made.append(record_of(trial, times.get(name, 2.0) if name else 1.0, rng))
    info = factories.info(path="/m.gguf") | {"plan": plan.model_dump(mode="json")}
    return advise.View(Rows(factories.to_frame(made), info))


def choice(view: advise.View) -> tuple[int | None, str] | None:
    """Return the threads and cores that are advised."""
    best = view.advice.threads
    return (best.n_threads, best.cores) if best else None


def code(view: advise.View) -> list[str]:
    text = advise.lines(view).data
    return [part.split("\n", 1)[1].strip() for part in text.split("~~~")[1::2]]


def test_the_soonest_that_is_faster_is_advised_and_pasted() -> None:
    view = view_of({2: 0.9, 3: 0.8})
    chosen = view.advice.chosen
    assert chosen is not None and chosen.settings.n_ubatch == 512
    assert choice(view) == (3, "any") and len(view.advice.tried) == 5
    assert len(advise.answer(view).sentences) <= 5
    assert "n_threads 3" in plain(advise.answer(view).line)
    python, server, verify = code(view)
    values = {k.arg: ast.unparse(k.value) for k in ast.parse(python).body[-1].value.keywords}  # type: ignore[attr-defined]
    assert (values["n_threads"], values["n_threads_batch"]) == ("3", "3")
    assert "-t 3 -tb 3" in server and "psutil" not in python and "taskset" not in server
    assert "-p n_threads 3" in verify
    assert view.data["round"].max() < threads.FROM_ROUND


def test_cores_are_pasted_as_an_affinity() -> None:
    view = view_of({"physical": 0.7})
    assert choice(view) == (4, "physical")
    python, server, verify = code(view)
    assert "cpu_affinity([0, 2, 4, 6])" in python and ast.parse(python)
    assert shlex.split(server)[:4] == ["taskset", "-c", "0,2,4,6", "llama-server"]
    assert "-p cores physical" in verify
    best, chosen = view.advice.threads, view.advice.chosen
    assert best is not None and chosen is not None
    again = parameters_to_verify(chosen, view.info, best)
    assert planning.for_this_machine(experiments.advise(**again)).parameters["threads_tried"] == []


def test_of_equals_the_fewest_threads_are_advised_and_in_doubt_the_usual() -> None:
    assert choice(view_of({2: 1.0, 3: 1.0})) == (2, "any")
    assert choice(view_of({8: 1.0, "physical": 1.0})) == (4, "any")
    assert choice(view_of({2: 0.5}, rounds=2)) == (4, "any")
    assert choice(view_of({})) == (4, "any")


def test_what_breaks_a_bound_is_not_advised() -> None:
    view = view_of({2: 0.9}, ttft_s=0.3)
    assert choice(view) == (2, "any")
    (tried,) = (one for one in view.advice.tried if one.n_threads == 2)
    needs = view.advice.needs.model_copy(update={"ttft_s": tried.ttft.median * 0.99})
    assert not tried.may(needs) and threads.best([view.advice.tried[0], tried], needs) != tried


def test_the_table_has_every_choice() -> None:
    table = advise.table(view_of({2: 0.9, 3: 0.8})).set_index("candidate")
    assert len(table) == 2 + 5
    assert table["reason"]["the advised with 3 threads"] == "advised"
    assert table["against the soonest"]["the advised with 8 threads"].endswith("slower")


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """Return the records of trials that are carried out, without any model."""
    made: list[Record] = []
    rng = np.random.default_rng(2)

    def carry_out(job: Job) -> Record:
        seconds = {2: 0.5}.get(job.trial.settings.n_threads or 0, 1.0)
        one = record_of(job.trial, seconds, rng).model_copy(update={"run_id": job.run_id})
        made.append(one)
        return one

    monkeypatch.setattr(session, "carry_out", carry_out)
    return made


def test_a_run_varies_the_threads_and_fills_the_window_with_the_winner(
    outputs: Path, carried: list[Record]
) -> None:
    plan = plan_of(run_id="advice")
    store = lab.run(plan, progress=False)
    assert len(carried) == 3 * 6 + 6 * 6 + 1
    last = carried[-1].trial
    assert (last.workload.prompt_tokens, last.settings.n_threads) == (2044, 2)
    advice = advise.View(store).advice
    assert advice.chosen is not None and advice.chosen.full == "ok"
    assert advice.threads is not None and advice.threads.n_threads == 2
    lines = (store.path / "trials.jsonl").read_text().splitlines(keepends=True)
    (store.path / "trials.jsonl").write_text("".join(lines[:-8]))
    lab.run(plan, progress=False)
    assert len(carried) == 3 * 6 + 6 * 6 + 1 + 8
    lab.run(plan, progress=False)
    assert len(carried) == 3 * 6 + 6 * 6 + 1 + 8


def test_minutes_leave_some_to_the_threads(outputs: Path, carried: list[Record]) -> None:
    lab.run(plan_of(run_id="timed", minutes=60.0), progress=False)
    assert len(carried) == 3 * 6 + 6 * 6 + 1


def test_a_run_of_before_is_gone_on_with_as_it_was_begun(
    outputs: Path, carried: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "worth_trying", lambda _: [])
    before = lab.run(plan_of(run_id="before"), progress=False)
    monkeypatch.undo()
    monkeypatch.setattr(session, "carry_out", lambda _: pytest.fail("nothing is left"))
    monkeypatch.setenv("LLM_LATENCY_OUTPUTS", str(outputs))
    store = lab.run(before.plan.model_copy(update={"run_id": "before"}), progress=False)
    assert len(store.records()) == 3 * 6 + 1
    assert advise.View(store).advice.threads is None
