"""Status and reason of a child that said nothing, by what is known of its end."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from llm_latency.measure import outcome
from llm_latency.measure.outcome import Circumstances, exit_in_words, outcome_of, where_ended
from llm_latency.measure.process import Transcript
from llm_latency.records.record import MemoryLimit

KILLED = Transcript(phase="load", exit_code=-9)


def around(tmp_path: Path, **known: object) -> Circumstances:
    return Circumstances(30, tmp_path / "one.log", **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counted", "status", "words"),
    [
        (1, "oom", "killed by the system, which ran out of memory"),
        (0, "crashed", "not by the kernel for want of memory"),
        (None, "oom", "most likely because memory ran out"),
    ],
)
def test_a_kill_is_judged_by_what_the_kernel_counted(
    tmp_path: Path, counted: int | None, status: str, words: str
) -> None:
    found = outcome_of(KILLED, around(tmp_path, system_kills=counted))
    assert found[0] == status
    assert words in (found[1] or "")
    assert "in phase 'load'; llama.cpp's log: one.log" in (found[1] or "")


def test_a_kill_for_its_own_limit_is_told_from_others(tmp_path: Path) -> None:
    limit = MemoryLimit(asked_bytes=64 << 20, by="cgroup", kills=1)
    status, reason = outcome_of(KILLED, around(tmp_path, system_kills=0).after(limit))
    assert status == "oom"
    assert "its limit of 64 MiB" in (reason or "")


def test_a_limit_that_leaves_threads_no_room_is_memory(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    log.write_text("OpenBLAS: pthread_create failed for thread 1 of 2\nKeyboardInterrupt\n")
    by_rlimit = MemoryLimit(asked_bytes=100 << 20, by="rlimit")
    for limit, status in ((by_rlimit, "oom"), (None, "crashed")):
        found = outcome_of(Transcript(exit_code=-2), around(tmp_path).after(limit))
        assert found[0] == status
    assert "100 MiB" in (outcome_of(Transcript(), around(tmp_path).after(by_rlimit))[1] or "")


def test_only_kills_meanwhile_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([7, 7, 7, 9, 7, None])
    monkeypatch.setattr(outcome, "system_kills", lambda: next(counts))
    found = [around(tmp_path).after(None).system_kills for _ in range(3)]
    assert found == [0, 2, None]


def test_the_kernels_count_is_read_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"oom_kill 3": 3, "pgfault 5\noom_kill 0": 0, "pgfault 5": None}
    for text, count in texts.items():
        monkeypatch.setattr(Path, "read_text", lambda _, text=text: text)
        assert outcome.system_kills() == count

    def missing(_: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert outcome.system_kills() is None


def test_every_exit_code_has_words() -> None:
    assert "exit code 0" in exit_in_words(0)
    assert "segmentation fault" in exit_in_words(-signal.SIGSEGV)
    assert "segmentation fault" in exit_in_words(0xC0000005)  # Windows
    assert exit_in_words(-63).startswith("the child died by ")
    assert "signal 200" in exit_in_words(-200)


def test_the_end_of_a_log_is_bounded_and_begins_where_others_stopped(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    assert outcome.tail_of(log) == ""
    log.write_bytes(b"old" + b"x" * 200_000 + b"new\xff")
    assert len(outcome.tail_of(log)) == outcome.TAIL_BYTES
    assert outcome.tail_of(log, 200_003) == "new\N{REPLACEMENT CHARACTER}"
    assert outcome.tail_of(log, 300_000) == ""  # it became shorter meanwhile


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("it was killed in phase 'load'; llama.cpp's log: a.log", "while loading"),
        ("killed in phase 'generation 0'; log: a.log", "in the first generation"),
        ("killed in phase 'generation 3'; log: a.log", "in generation 4"),
        ("killed in phase 'warm-up'; log: a.log", "between loading and the first generation"),
        ("killed in phase 'start'; log: a.log", "in phase start"),
        ("no idea", ""),
    ],
)
def test_where_a_process_ended(reason: str, expected: str) -> None:
    assert where_ended(reason) == expected
