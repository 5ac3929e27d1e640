"""All questions in one go: plans at a preset, one bar, a run each, a page of answers."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import llm_latency as lab
from llm_latency import experiments
from llm_latency.errors import LabError, ParameterError
from llm_latency.machine import lock
from llm_latency.measure import runner, session
from llm_latency.plan.settings import Settings
from llm_latency.questions import QUESTIONS, everything
from llm_latency.questions.everything import ASKED, PRESETS
from llm_latency.questions.notebook import defaults
from tests.support import factories
from tests.support.factories import FakeWorker
from tests.support.pages import text

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_question_has_a_plan_at_every_preset(preset: str) -> None:
    made = experiments.everything(preset=preset)
    assert [plan.experiment for plan in made.plans] == list(ASKED)
    least = {"quick": 6, "standard": 12, "rigorous": 20}[preset]
    for plan in made.plans:
        assert plan.rounds == least
        assert plan.run_id == f"{made.run_id}-{plan.experiment}"
        assert sum(cell.twin for cell in plan.cells) >= 1
        assert plan.repeat_disturbed == (preset != "quick")


def test_questions_are_those_of_the_notebooks() -> None:
    for name, question in QUESTIONS.items():
        notebook = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
        assert "".join(notebook["cells"][0]["source"]).splitlines()[0] == f"# {question.asks}"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"preset": "quik"}, "preset='quik'.*'quick'"),
        ({"questions": "warmup"}, "questions='warmup'.*'warm_up'"),
        ({"model": "synthetic:tyni"}, "tyni"),
        ({"rounds": -1}, "rounds=-1"),
        ({"n_threads": "all"}, "n_threads='all'"),
    ],
)
def test_wrong_parameters_are_refused_at_once(given: dict[str, object], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        experiments.everything(**given)  # type: ignore[arg-type]


def test_away_from_the_project_the_presets_are_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LabError, match=r"params/quick\.yaml.*project's folder"):
        experiments.everything()


@pytest.fixture
def runs(tiny: Path, outputs: Path, fake_worker: FakeWorker) -> everything.Runs:
    fake_worker("answers")
    plan = experiments.everything(
        str(tiny), questions=["warm_runs", "prompt_size"], rounds=1, run_id="all"
    )
    return everything.run(plan, progress=False)


def test_each_question_has_a_run_of_its_own(runs: everything.Runs, outputs: Path) -> None:
    assert sorted(p.name for p in (outputs / "runs").iterdir()) == [
        "all-prompt_size",
        "all-warm_runs",
    ]
    assert runs.planned == runs.final == sum(len(p.cells) for p in runs.plan.plans)
    assert list(runs.views) == ["warm_runs", "prompt_size"]
    assert list(runs.folders()["run_id"]) == ["all-warm_runs", "all-prompt_size"]
    assert runs.failures().empty


def test_minutes_are_shared_out_by_the_cells_of_each_question() -> None:
    plan = experiments.everything("synthetic:tiny", minutes=30)
    assert sum(one.minutes for one in plan.plans) == pytest.approx(30)
    each = [one.minutes / len(one.cells) for one in plan.plans]
    assert each == pytest.approx([each[0]] * len(each))
    assert all(one.minutes == 0 for one in experiments.everything("synthetic:tiny").plans)
    with pytest.raises(ParameterError, match="minutes=-1"):
        experiments.everything("synthetic:tiny", minutes=-1)


def test_time_that_a_question_left_is_shared_out_over_those_after_it() -> None:
    plan = experiments.everything(questions=["warm_runs", "prompt_size", "max_tokens"], minutes=30)
    _, *others = plan.plans
    took = [factories.record(Settings()).model_copy(update={"took_s": 60.0})]
    store: Any = SimpleNamespace(records=lambda: took)
    runs = everything.Runs(plan, {"warm_runs": store})
    more = everything._with_time_left(runs, 1)
    cells = [len(one.cells) for one in others]
    assert more.minutes == pytest.approx(29 * cells[0] / sum(cells))
    assert more.parameters["minutes"] == more.minutes > others[0].minutes
    assert more.plan_id == others[0].plan_id
    took[0] = took[0].model_copy(update={"took_s": 1800.0})  # then the others have their own
    assert everything._with_time_left(runs, 2) == others[1]
    usual = experiments.everything(questions="warm_runs")
    assert everything._with_time_left(everything.Runs(usual), 0) == usual.plans[0]


@pytest.mark.usefixtures("outputs")
def test_where_the_time_was_short_what_was_not_measured_is_told(
    tiny: Path, fake_worker: FakeWorker
) -> None:
    fake_worker("answers")
    plan = experiments.everything(str(tiny), questions="warm_runs", rounds=3, minutes=1e-3)
    runs = everything.run(plan, progress=False)
    planned = 3 * len(plan.plans[0].cells)
    assert (runs.planned, runs.final, runs.saved) == (planned, planned, planned - 1)
    assert f"Saved: {planned - 1} of {planned} trials" in text(everything.notices(runs))


def test_the_table_asks_and_answers(runs: everything.Runs) -> None:
    table = everything.table(runs)
    assert list(table["question"]) == [
        QUESTIONS[name].asks.replace("`", "") for name in ("warm_runs", "prompt_size")
    ]
    # One round cannot decide anything.
    assert set(table["verdict"]) <= {"undecided", "none"}
    assert everything.answer(runs, "batch_size").verdict == "none"
    assert everything.figure(runs, "batch_size") is None


def test_stored_runs_named_alone_are_drawn_again(
    runs: everything.Runs, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = defaults(experiments.everything) | {"run_id": "all"}
    plan = experiments.from_notebook("everything", usual)
    assert [p.plan_id for p in plan.plans] == [p.plan_id for p in runs.plan.plans]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be measured")

    monkeypatch.setattr(session, "carry_out", refuse)
    assert everything.run(plan, progress=False).final == runs.final


def test_a_question_that_cannot_be_run_does_not_stop_the_others(
    tiny: Path, outputs: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_worker("answers")
    plan = experiments.everything(
        str(tiny), questions=["warm_runs", "prompt_size"], rounds=1, run_id="all"
    )
    real = runner.run

    def run(one: lab.Plan, **options: object) -> object:
        if one.experiment == "warm_runs":
            raise LabError("the disk is full; free some space")
        return real(one, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "run", run)
    runs = everything.run(plan, progress=False)
    assert runs.stopped == {"warm_runs": "the disk is full; free some space"}
    assert "the disk is full" in str(everything.notices(runs).data)
    assert runs.final < runs.planned  # the report says that it is incomplete
    monkeypatch.setattr(
        runner, "run", lambda *_, **__: (_ for _ in ()).throw(LabError("no engine"))
    )
    with pytest.raises(LabError, match="no engine"):
        everything.run(plan, progress=False)


def test_no_other_run_comes_between_two_questions(
    tiny: Path, outputs: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_worker("answers")
    plan = experiments.everything(
        str(tiny), questions=["warm_runs", "prompt_size"], rounds=1, run_id="all", wait_s=5
    )
    assert [one.wait_s for one in plan.plans] == [5.0, 5.0]
    run, refused = runner.run, []

    def intrude() -> None:
        try:
            with lock.machine():
                pass
        except LabError as error:
            refused.append(str(error))

    def between(one: lab.Plan, **options: object) -> object:
        for _ in range(2):
            thread = threading.Thread(target=intrude)
            thread.start()
            thread.join()
            store = run(one, **options)  # type: ignore[arg-type]
        return store

    monkeypatch.setattr(runner, "run", between)
    everything.run(plan, progress=False)
    assert len(refused) == 4
    assert "run 'all' is at work" in refused[0]
    assert "run 'all-warm_runs' is at work" in refused[1]


def test_a_single_plan_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"lab\.run"):
        everything.run(experiments.sweep())  # type: ignore[arg-type]
