"""What was measured is on the disk, whole, once, and reads the same ever after."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_latency.errors import LabError, ParameterError
from llm_latency.record import Record
from llm_latency.spec import Plan, Settings, Trial, Workload
from llm_latency.store import RunStore, load_runs, open_run, outputs_dir

CELLS = tuple(
    Trial(
        experiment="t",
        model="m",
        settings=Settings(n_ctx=n),
        workload=Workload(prompt_tokens=8),
    )
    for n in (256, 512)
)
PLAN = Plan(experiment="t", model="m", cells=CELLS, rounds=2)


def make(path: Path) -> RunStore:
    info = {
        "plan": PLAN.model_dump(mode="json"),
        "model": {"sha256": "abc"},
        "machine": {"machine_id": path.name},
    }
    return RunStore.create(path, info)


def record(trial: Trial, status: str = "refused") -> Record:
    return Record.model_validate(
        {
            "run_id": "r",
            "trial": trial,
            "status": status,
            "reason": "é\nü",
            "started_at": "2026-01-01T00:00:00+00:00",
            "child_s": 0.25,
        }
    )


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    run = make(tmp_path / "r")
    written = [record(t) for t in PLAN.trials()]
    for one in written:
        run.append(one)
    again = RunStore(tmp_path / "r")
    assert again.records() == written
    assert again.plan == PLAN
    assert again.complete
    assert len((tmp_path / "r" / "trials.jsonl").read_text().splitlines()) == len(written)


def test_a_run_counts_what_is_final(tmp_path: Path) -> None:
    run = make(tmp_path / "r")
    first, second, *_ = PLAN.trials()
    run.append(record(first))
    run.append(record(second, "cancelled"))
    assert (run.planned, run.final, run.complete) == (4, 1, False)
    assert run.done() == {first.trial_id}
    assert list(run.frame()["status"]) == ["refused"]
    assert "INCOMPLETE" in repr(run)


def test_a_half_line_is_set_aside_neither_lost_nor_trusted(tmp_path: Path) -> None:
    run = make(tmp_path / "r")
    first, second, *_ = PLAN.trials()
    run.append(record(first))
    file = run.path / "trials.jsonl"
    half = record(second).model_dump_json()[:100]
    with file.open("a") as stream:
        stream.write(half)
    assert run.done() == {first.trial_id}  # reading trusts whole lines only
    run.mend()
    run.append(record(second))
    assert run.done() == {first.trial_id, second.trial_id}
    assert half in (run.path / "trials.torn").read_text()
    run.mend()
    assert len(run.records()) == 2


def test_many_runs_make_one_frame(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run = make(tmp_path / "runs" / name)
        run.append(record(CELLS[0]))
    frame = load_runs(tmp_path / "runs" / "*")
    assert list(frame["machine_id"]) == ["a", "b"]
    assert set(frame["model_sha256"]) == {"abc"}
    assert len(load_runs(tmp_path / "runs" / "a")) == 1


def test_runs_are_found_by_their_id(outputs: Path) -> None:
    make(outputs / "runs" / "mine").append(record(CELLS[0]))
    assert open_run("mine").final == 1
    assert len(load_runs("mine")) == 1
    with pytest.raises(ParameterError, match=r"'mime'.*did you mean 'mine'"):
        open_run("mime")
    with pytest.raises(ParameterError, match="holds no run"):
        load_runs("nothing/*")


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LabError, match="LLM_LATENCY_OUTPUTS"):
        make(tmp_path / "file" / "run")


def test_outputs_belong_to_the_project_from_any_folder_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLM_LATENCY_OUTPUTS", raising=False)
    (tmp_path / "lib" / "llm_latency").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    for folder in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(folder)
        assert outputs_dir() == tmp_path / "outputs"
