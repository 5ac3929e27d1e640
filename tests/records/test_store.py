"""What was measured is on the disk, whole, once, and reads the same ever after."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from llm_latency.errors import LabError, ParameterError
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Plan, Trial
from llm_latency.plan.workload import Workload
from llm_latency.questions import cold_start, sweep
from llm_latency.records import versions
from llm_latency.records.folders import make_folder, outputs_dir
from llm_latency.records.many import load_runs
from llm_latency.records.record import SCHEMA_VERSION, EngineCard, Record
from llm_latency.records.store import RunStore, open_run
from llm_latency.report import tables
from llm_latency.report.page import Rows
from llm_latency.stats.compare import noise_floor, samples
from llm_latency.stats.estimate import estimates
from tests.support import factories

matplotlib.use("agg")
VERSION_1 = Path(__file__).parents[1] / "data" / "version-1"
"""A run as the first version wrote it: never to be changed, and to be read for ever."""
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
    first, *_ = PLAN.trials()
    run.append(record(first))
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


def test_a_record_tells_its_machine_and_one_of_before_is_of_its_runs(tmp_path: Path) -> None:
    run = make(tmp_path / "first")
    run.append(record(CELLS[0]))
    told = record(CELLS[1]).model_copy(update={"machine_id": "other", "gpu_uuid": "GPU-1"})
    run.append(told)
    frame = load_runs(tmp_path / "first")
    assert list(frame["machine_id"]) == list(run.frame()["machine_id"]) == ["first", "other"]
    assert list(frame["gpu_uuid"]) == [None, "GPU-1"]


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


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
def test_a_folder_that_may_only_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir(mode=0o555)
    for place in (tmp_path / "runs", tmp_path / "runs" / "new"):
        with pytest.raises(LabError, match="LLM_LATENCY_OUTPUTS"):
            make_folder(place)


def test_outputs_belong_to_the_project_from_any_folder_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLM_LATENCY_OUTPUTS", raising=False)
    (tmp_path / "lib" / "llm_latency").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    for folder in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(folder)
        assert outputs_dir() == tmp_path / "outputs"


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_what_every_version_wrote_is_read_for_ever(version: int) -> None:
    run = open_run(VERSION_1.with_name(f"version-{version}"))
    assert json.loads((run.path / "run.json").read_text())["schema_version"] == version
    assert run.complete and run.info["schema_version"] == SCHEMA_VERSION
    assert [r.status for r in run.records()] == ["ok", "oom", "oom"]
    card = EngineCard.model_validate(run.info["engine"])
    assert [device.name for device in card.devices] == ["CPU"]
    assert card.devices[0].description and card.devices[0].total_bytes is None
    assert len(run.frame()) == 2 + 2


def test_what_the_first_version_wrote_is_read_for_ever() -> None:
    run = open_run(VERSION_1)
    assert run.complete and run.info["schema_version"] == SCHEMA_VERSION
    first, *failed = run.records()
    assert first.schema_version == SCHEMA_VERSION
    assert [r.status for r in (first, *failed)] == ["ok", "oom", "oom"]
    assert [r.trial.twin for r in failed] == [True, False]
    assert "insufficient memory" in (failed[0].reason or "")
    stored = json.loads((VERSION_1 / "trials.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first.trial.trial_id == "dc33e2492065-r00"  # as it was, whatever has been added since
    assert first.generations[0].timings.ttft_s == stored["generations"][0]["timings"]["ttft_s"]
    assert first.effective and first.effective.n_ctx == 512
    frame = load_runs(VERSION_1)
    assert len(frame) == 2 + 2
    assert set(frame["run_id"]) == {"version-1"}
    assert set(frame["machine_id"]) == {run.info["machine"]["machine_id"]}
    assert set(frame["engine_version"]) == {"0.3.36"}
    assert len(tables.failures(frame)) == 1
    assert set(sweep.View(run).ttft) == {"n_ctx 512, n_batch 256"}


def test_older_data_is_brought_forward_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def named(line: dict[str, Any]) -> dict[str, Any]:
        return {**line, "child_s": line["child_ms"] / 1000}

    def without(line: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in line.items() if name != "child_ms"}

    new = json.loads(record(CELLS[0]).model_dump_json())
    old = {k: v for k, v in new.items() if k != "child_s"} | {"child_ms": 250.0}
    kept = dict(old, schema_version=SCHEMA_VERSION - 2)
    found = versions.forward(kept, {SCHEMA_VERSION - 2: named, SCHEMA_VERSION - 1: without})
    assert found == new
    assert kept["child_ms"] == 250.0, "steps leave what they are given alone"
    steps = {SCHEMA_VERSION - 1: lambda line: without(named(line))}
    monkeypatch.setattr(versions, "RECORDS", steps)
    before = json.dumps(old | {"schema_version": SCHEMA_VERSION - 1})
    assert versions.record(before) == record(CELLS[0])
    with pytest.raises(LabError, match="restore the file"):
        versions.record(json.dumps(old | {"schema_version": SCHEMA_VERSION - 7}))


def test_data_that_names_no_version_is_of_the_first() -> None:
    assert versions.FIRST_VERSION == 1
    plain = {k: v for k, v in json.loads(record(CELLS[0]).model_dump_json()).items()
             if k != "schema_version"}  # fmt: skip
    if SCHEMA_VERSION == 1:
        assert versions.record(json.dumps(plain)) == record(CELLS[0])
    for version in ("1", 1.5, None, [], 0, -1):
        with pytest.raises(LabError, match="schema version"):
            versions.forward({"schema_version": version}, {})


def test_what_a_newer_lab_wrote_is_told_in_one_sentence(tmp_path: Path) -> None:
    run = make(tmp_path / "r")
    line = json.loads(record(CELLS[0]).model_dump_json())
    newer = SCHEMA_VERSION + 1
    for changed, words in (
        ({"schema_version": newer}, rf"version {newer}; this lab reads up to {SCHEMA_VERSION}"),
        ({"colour": "blue"}, "'colour' that this lab does not know"),
    ):
        (run.path / "trials.jsonl").write_text(json.dumps(line | changed) + "\n")
        with pytest.raises(LabError, match=rf"trials\.jsonl cannot be read: .*{words}.*update"):
            run.records()
    info = json.loads((run.path / "run.json").read_text()) | {"schema_version": newer}
    (run.path / "run.json").write_text(json.dumps(info))
    with pytest.raises(LabError, match=rf"run\.json cannot be read: .*version {newer}.*update"):
        open_run(run.path)


@pytest.mark.parametrize("content", ["", "[]", "3", "{", "{}", '{"plan": 3}', "null", "\x00" * 9])
def test_a_run_that_is_none_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "run.json").write_text(content)
    with pytest.raises(LabError, match=r"run\.json cannot be read.*restore it") as caught:
        open_run(tmp_path / "r")
    assert "\n" not in str(caught.value)


def test_a_record_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    run = make(tmp_path / "r")
    (run.path / "trials.jsonl").write_text('{"run_id": "r"}\n')
    with pytest.raises(LabError, match=r"trials\.jsonl cannot be read: .*restore the file"):
        run.records()


@pytest.mark.parametrize("name", ["moved here (copy)", "b[1]", "ö ü ~", "x" * 200])
def test_a_run_that_moved_reads_the_same(tmp_path: Path, name: str) -> None:
    """The same columns and values, and the same pictures, wherever its folder lies."""
    here = load_runs(VERSION_1)
    there = tmp_path / "another machine" / name
    shutil.copytree(VERSION_1, there)
    pd.testing.assert_frame_equal(here, load_runs(there))
    pd.testing.assert_frame_equal(here, load_runs(str(tmp_path / "another machine" / "*")))
    moved = open_run(there)
    assert moved.run_id == name and moved.plan == open_run(VERSION_1).plan
    assert set(moved.frame()["run_id"]) == {"version-1"}
    sweep.figure(sweep.View(moved))
    plt.close("all")
    assert not Path(moved.info["model"]["path"]).exists(), "it is drawn without its model"


def test_nothing_of_a_record_names_a_place() -> None:
    text = (VERSION_1 / "trials.jsonl").read_text(encoding="utf-8")
    assert not any(part in text for part in ("/tmp", "/home", "/root", "\\\\"))


@pytest.mark.parametrize("place", ["~no-such-user/x", "x" * 5000, "a\0b", "", "*", "con/../x"])
def test_a_place_that_holds_no_run_is_one_sentence(outputs: Path, place: str) -> None:
    for read in (load_runs, open_run):
        with pytest.raises(LabError) as caught:
            read(place)
        assert "\n" not in str(caught.value)


def test_a_relative_place_and_a_linked_one(
    tmp_path: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real place").mkdir()
    (tmp_path / "link").symlink_to("real place")
    for named in ("real place", "./link", str(tmp_path / "neu é" / "deep")):
        monkeypatch.setenv("LLM_LATENCY_OUTPUTS", named)
        make(outputs_dir() / "runs" / "mine").append(record(CELLS[0]))
        assert len(load_runs("mine")) == len(load_runs(f"{named}/runs/*")) == 1
        shutil.rmtree(outputs_dir() / "runs")


def two(**columns: tuple[str, str]) -> pd.DataFrame:
    """Return the rows of two runs of the same grid, which differ in some columns."""
    made = []
    for place in (0, 1):
        part = factories.frame(rounds=6, n_ctx=(512,), prompts=(64,), seed=place)
        made.append(part.assign(run_id=f"run-{place}", **{k: v[place] for k, v in columns.items()}))
    return pd.concat(made, ignore_index=True)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"machine_id": ("abc", "def")}, "2 machines (abc, def)"),
        ({"gpu_uuid": ("GPU-0", "GPU-1")}, "2 GPUs (GPU-0, GPU-1)"),
        ({"engine_version": ("0.3.36", "0.3.37")}, "2 versions of the engine (0.3.36, 0.3.37)"),
        ({"model_sha256": ("00", "11")}, "2 model files (00, 11)"),
        ({"model": ("a.gguf", "b.gguf")}, "2 models (a.gguf, b.gguf)"),
    ],
)
def test_rows_of_two_origins_enter_no_estimate_together(
    columns: dict[str, tuple[str, str]], words: str
) -> None:
    both = two(**columns)
    (name,) = columns
    info = factories.info()
    estimating = [
        lambda df: estimates(df, "ttft_s"),
        lambda df: samples(df, "ttft_s", n_batch=256),
        lambda df: noise_floor(df, "ttft_s"),
        lambda df: sweep.View(Rows(df, info)),
        tables.failures,
        lambda df: cold_start.View(Rows(df, info)),
    ]
    for reads in estimating:
        with pytest.raises(LabError) as caught:
            reads(both)
        assert words in str(caught.value)
        assert f"frame[frame['{name}'] == " in str(caught.value)
        one = both[both[name] == columns[name][0]]
        reads(one)
    plt.close("all")
    apart = estimates(both, "ttft_s", [name, "cell_id"])
    assert {value.n for value in apart.values()} == {6}


def test_one_file_under_two_names_is_one_model() -> None:
    both = two(model=("$a_{1}$.gguf", "b" * 300 + ".gguf"), model_sha256=("00", "00"))
    sweep.figure(sweep.View(Rows(both, {})))
    drawn = plt.gcf()
    drawn.canvas.draw()
    words = [text.get_text() for text in drawn.findobj(matplotlib.text.Text)]
    plt.close("all")
    assert max(len(line) for word in words for line in word.splitlines()) < 200
    assert len(sweep.table(sweep.View(Rows(both, {})))) == 2 * 3


def test_runs_of_two_machines_are_known_apart_when_they_are_read(tmp_path: Path) -> None:
    for name in ("one", "other"):
        there = tmp_path / name
        shutil.copytree(VERSION_1, there)
        info = json.loads((there / "run.json").read_text())
        info["machine"]["machine_id"] = name
        (there / "run.json").write_text(json.dumps(info))
    both = load_runs(tmp_path / "*")
    with pytest.raises(LabError, match="2 machines"):
        sweep.table(sweep.View(Rows(both, {})))
    for name, part in both.groupby("machine_id"):
        assert len(sweep.table(sweep.View(Rows(part, {})))) == 2, name


def test_a_run_reads_its_files_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = make(tmp_path / "r")
    first, second, third, fourth = PLAN.trials()
    written.append(record(first))
    opened, parsed = [], []
    open_, parse = io.open, versions.record

    def count_opened(file: object, mode: str = "r", *more: Any, **options: Any) -> Any:
        opened.append((Path(str(file)).name, mode))
        return open_(file, mode, *more, **options)  # type: ignore[call-overload]

    def count_parsed(line: bytes | str) -> Record:
        parsed.append(line)
        return parse(line)

    monkeypatch.setattr(io, "open", count_opened)
    monkeypatch.setattr(versions, "record", count_parsed)
    run = RunStore(tmp_path / "r")
    assert run.final == 1 and run.plan == PLAN
    run.mend()
    run.append(record(second))  # its own: not parsed
    assert run.final == len(run.records()) == 2 and len(run.frame()) == 2
    assert len(parsed) == 1
    assert opened.count(("run.json", "r")) == 1
    # What another process appends is parsed, and no more than that.
    with (run.path / "trials.jsonl").open("ab") as other:
        other.write(record(third).model_dump_json().encode() + b"\n")
    assert run.done() == {first.trial_id, second.trial_id, third.trial_id}
    run.append(record(fourth))
    assert run.complete and len(parsed) == 2
    assert run.records() == RunStore(tmp_path / "r").records()


def test_what_cannot_be_read_is_refused_each_time(tmp_path: Path) -> None:
    run = make(tmp_path / "r")
    run.append(record(CELLS[0]))
    newer = '{"schema_version": 99}\n'
    with (run.path / "trials.jsonl").open("a") as other:
        other.write(newer)
    for _ in range(2):
        with pytest.raises(LabError, match="newer lab"):
            run.records()
