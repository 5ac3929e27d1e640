"""Whatever ends a writer, and wherever: whole lines are trusted, all else is kept and is not."""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_latency.errors import LabError
from llm_latency.records import files
from llm_latency.records.many import load_runs
from llm_latency.records.store import RunStore
from tests.records.test_store import PLAN, make, record

TEXTS = st.lists(st.text(max_size=8), max_size=4)


def line(text: str) -> str:
    return json.dumps({"text": text}, ensure_ascii=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(texts=TEXTS, cut=st.integers(0, 200), zeros=st.integers(0, 9), ended=st.booleans())
def test_a_file_cut_anywhere_goes_on(
    tmp_path: Path, texts: list[str], cut: int, zeros: int, ended: bool
) -> None:
    """Cut in the middle of a sign, a line without its end, zeros in place of what was written."""
    file, aside = tmp_path / "lines", tmp_path / "aside"
    whole = [line(text).encode() for text in texts]
    content = b"".join(one + b"\n" for one in whole)[:cut]
    kept = whole[: content.count(b"\n")]
    content += b"\0" * zeros + b"\n" * ended
    if content[sum(len(one) + 1 for one in kept) :] in [one + b"\n" for one in whole[len(kept) :]]:
        kept = whole[: len(kept) + 1]  # the cut took the end of the line alone: it is as it was
    file.write_bytes(content)
    aside.unlink(missing_ok=True)
    files.mend(file, aside)
    assert files.Lines(file).new() == kept
    files.append(file, line("é"))
    assert files.Lines(file).new() == [*kept, line("é").encode()]
    # Nothing is lost: what was cut off lies beside.
    rest = content[sum(len(one) + 1 for one in kept) :].rstrip(b"\n")
    assert (aside.read_bytes() if aside.exists() else b"").rstrip(b"\n") == rest
    files.mend(file, aside)
    assert len(files.Lines(file).new()) == len(kept) + 1


def test_a_damaged_line_between_others_is_left_out_and_said(tmp_path: Path) -> None:
    run = make(tmp_path / "r")
    first, second, third, _ = PLAN.trials()
    file = run.path / "trials.jsonl"
    run.append(record(first))
    with file.open("ab") as out:
        out.write(b"\0" * 300 + record(second).model_dump_json().encode()[300:] + b"\n")
    run.append(record(third))
    with pytest.warns(UserWarning, match=r"line 2 of .*trials\.jsonl is damaged and left out"):
        assert run.done() == {first.trial_id, third.trial_id}
    with pytest.warns(UserWarning, match="damaged"):
        assert len(load_runs(run.path)) == 2


def test_of_two_records_of_one_trial_the_first_counts(tmp_path: Path) -> None:
    run = make(tmp_path / "r")
    first, second, *_ = PLAN.trials()
    run.append(record(first, "refused"))
    run.append(record(first, "crashed"))
    run.append(record(second))
    with pytest.warns(UserWarning, match=f"trial {first.trial_id} of run 'r' is stored twice"):
        frame = run.frame()
    assert list(frame["status"]) == ["refused", "refused"]


@pytest.mark.parametrize("written", [0, 100])
def test_a_full_disk_leaves_no_half_record_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    run = make(tmp_path / "r")
    first, second, *_ = PLAN.trials()
    run.append(record(first))
    before = (run.path / "trials.jsonl").read_bytes()
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 200 and written:
            return write(descriptor, data[:written])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(LabError, match=r"cannot be stored.*No space left.*run_id='r'"):
            # The first piece is written, and the rest of it, until less than 200 bytes are left.
            run.append(record(second))
    assert (run.path / "trials.jsonl").read_bytes() == before
    run.append(record(second))
    assert run.done() == {first.trial_id, second.trial_id}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_disk_that_is_really_full_is_one_sentence(tmp_path: Path) -> None:
    run = make(tmp_path / "r")
    (run.path / "trials.jsonl").symlink_to("/dev/full")
    with pytest.raises(LabError, match="No space left on device"):
        run.append(record(PLAN.trials()[0]))


def test_drafts_of_killed_processes_are_cleared_away(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "engine.log").write_text("before the kill")
    (folder / "run.json.4711").write_text('{"plan": ')
    states = folder / "states"
    states.mkdir()
    for name in ("a.state", "a.json", "b.state.4711", "b.json.4711"):
        (states / name).write_text("x")
    run = make(folder)
    run.mend()
    assert sorted(path.name for path in folder.iterdir()) == ["logs", "run.json", "states"]
    assert sorted(path.name for path in states.iterdir()) == ["a.json", "a.state"]
    assert RunStore(folder).plan == PLAN


def test_trials_of_which_nothing_is_known_are_left_alone(tmp_path: Path) -> None:
    run = make(tmp_path / "r")
    run.append(record(PLAN.trials()[0]))
    (run.path / "run.json").unlink()
    before = (run.path / "trials.jsonl").read_bytes()
    with pytest.raises(LabError, match=r"no run\.json.*from a copy, or give a new run_id"):
        make(tmp_path / "r")
    assert (run.path / "trials.jsonl").read_bytes() == before


def test_a_text_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "card.json"
    files.write(file, "one")

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        files.write(file, "two")
    assert file.read_text() == "one" and list(tmp_path.iterdir()) == [file]


def test_two_threads_write_the_same_text_apart(tmp_path: Path) -> None:
    file = tmp_path / "card.json"
    with files.drafted(file) as draft, ThreadPoolExecutor(1) as pool:
        draft.write_text("one")
        pool.submit(files.write, file, "two").result()
        assert file.read_text() == "two"
    assert file.read_text() == "one" and list(tmp_path.iterdir()) == [file]
