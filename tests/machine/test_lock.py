"""One run at a time: the second is told who measures, how far it is, and what to do."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from llm_latency.errors import LabError
from llm_latency.machine import lock

HOLDER = """
import sys, time
from pathlib import Path
from llm_latency.machine import lock
with lock.machine() as hold:
    if len(sys.argv) > 1:
        hold.take(Path(sys.argv[1]), 0)
    hold.tell("first", Path("/runs/first"), 2, 9)
    hold.beat()
    print("held", flush=True)
    sys.stdin.readline()
"""
Holder = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "machine.lock"
    monkeypatch.setenv(lock.VARIABLE, str(path))
    return path


@pytest.fixture
def holder() -> Iterator[Holder]:
    """Return a function that starts another process which holds the lock until it is told."""
    made: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
            text=True,
        )
        made.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in made:
        process.kill()
        process.wait()


def test_who_comes_second_is_told_who_measures_and_what_to_do(holder: Holder) -> None:
    first = holder()
    with pytest.raises(LabError) as caught, lock.machine():
        pass
    refusal = str(caught.value)
    for word in ("run 'first' is at work", "3 of 9 trials stored", "since 20", " s ago",
                 f"process {first.pid}", str(Path("/runs/first")), "wait_s=3600"):  # fmt: skip
        assert word in refusal, word
    assert "\n" not in refusal
    assert platform.node() not in refusal  # it is this machine


def test_a_lock_ends_with_its_holder_however_that_ends(holder: Holder, own: Path) -> None:
    first = holder()
    note = own.with_name("machine.lock.json")
    assert note.exists()
    first.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    first.wait()
    with lock.machine() as hold:
        # What the dead one wrote is believed no more, even before there is anything else to tell.
        assert lock._read(own) is None
        assert "has not yet said" in lock._who(own)
        hold.tell("second", Path("/runs/second"))
        assert "run 'second' is at work (it is getting ready" in lock._who(own)
    assert not note.exists()


def test_who_waits_says_so_and_for_whom(
    holder: Holder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = holder()
    assert first.stdin is not None
    monkeypatch.setattr(lock, "POLL_S", 0.05)
    ended = threading.Timer(0.5, lambda: first.communicate("\n"))
    ended.start()
    with lock.machine(wait_s=60):
        ended.join()
        assert first.returncode == 0
    printed = capsys.readouterr().err
    assert printed.startswith("Waiting up to 60 s: run 'first' is at work (3 of 9 trials stored")


def test_waiting_has_an_end(holder: Holder) -> None:
    holder()
    words = r"run 'first' .*, still after 0\.2 s; two at once"
    with pytest.raises(LabError, match=words), lock.machine(wait_s=0.2):
        pass


def test_within_its_thread_a_lock_is_held_at_once(own: Path) -> None:
    with lock.machine() as outer:
        outer.tell("all", Path("/runs"))
        with lock.machine() as inner:
            inner.tell("one", Path("/runs/one"), 0, 4)
            assert "run 'one' is at work (0 of 4 trials stored, none since" in lock._who(own)
        # Still held: what the inner one gave back was not its own.
        refused: list[str] = []

        def other() -> None:
            try:
                with lock.machine():
                    pass
            except LabError as error:
                refused.append(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert refused and "run 'one' is at work" in refused[0]
    with lock.machine():
        pass


def test_one_folder_is_kept_apart_also_under_other_locks(holder: Holder, tmp_path: Path) -> None:
    """As on a disk that two machines share, each with its own lock."""
    folder = tmp_path / "run.lock"
    holder(str(folder), **{lock.VARIABLE: str(tmp_path / "another.lock")})
    with lock.machine() as hold, pytest.raises(LabError, match="run 'first' is at work"):
        hold.take(folder, 0)


def test_a_holder_on_another_machine_is_named_with_it(own: Path) -> None:
    note = lock.Note(run_id="r", folder="f", pid=2**22 + 7, host="elsewhere", since_s=time.time(),
                     stored=1, planned=2, last_s=time.time() - 600)  # fmt: skip
    own.with_name("machine.lock.json").write_text(note.model_dump_json())
    assert not psutil.pid_exists(note.pid)  # a number that means nothing here
    assert "by process 4194311 on elsewhere" in lock._who(own)
    assert "the last 10 min ago" in lock._who(own)


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"run_id": 3}', "\0\0\0"])
def test_a_torn_note_is_no_note(own: Path, torn: str) -> None:
    own.with_name("machine.lock.json").write_text(torn)
    assert "has not yet said what it is" in lock._who(own)


def test_a_lock_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(lock.VARIABLE, str(tmp_path / "file" / "machine.lock"))
    with pytest.raises(LabError, match=r"cannot be used.*LLM_LATENCY_LOCK"), lock.machine():
        pass


def test_a_disk_that_knows_no_locks_stops_nothing(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(next(iter(lock.NO_LOCKS)), "No locks available")

    monkeypatch.setattr(lock.FileLock, "acquire", refuse)
    warned = pytest.warns(UserWarning, match="cannot be locked on its disk")
    with warned, lock.machine() as hold:
        hold.tell("r", own.parent)


@pytest.mark.skipif(os.name != "posix", reason="one temporary folder for all users is POSIX")
def test_by_default_all_users_of_a_machine_share_one_lock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(lock.VARIABLE)
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # somebody's own does not count
    assert lock.machine_path() == Path("/tmp/llm-latency-lab/machine.lock")
    # Made for all to write, in a folder without the sticky bit: see machine_path().
    monkeypatch.setattr(lock, "machine_path", lambda: tmp_path / "shared" / "machine.lock")
    before = os.umask(0o077)
    try:
        with lock.machine() as hold:
            hold.tell("r", tmp_path)
            assert (tmp_path / "shared").stat().st_mode & 0o7777 == 0o777
            assert (tmp_path / "shared" / "machine.lock").stat().st_mode & 0o777 == 0o666
            assert (tmp_path / "shared" / "machine.lock.json").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root may become somebody else"
)
def test_two_users_keep_apart(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What one user made, another can lock, and find taken."""
    code = """
import os, sys
from pathlib import Path
from llm_latency.machine import lock
from llm_latency.errors import LabError
lock.Note.model_rebuild()  # with modules that the other user may not read where Python lies
os.setgid(65534); os.setuid(int(sys.argv[1]))
lock.machine_path = lambda: Path(sys.argv[2])
os.environ.pop(lock.VARIABLE)
try:
    with lock.machine() as hold:
        hold.tell(f"of {sys.argv[1]}", Path("/runs"))
        print("held", flush=True)
        sys.stdin.readline()
except LabError as error:
    print(error)
"""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        os.chmod(place, 0o1777)

        def start(user: int) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [sys.executable, "-c", code, str(user), f"{place}/lab/machine.lock"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
            )  # fmt: skip

        first = start(65534)
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "held\n"
            second = start(65533)
            assert "run 'of 65534' is at work" in second.communicate(timeout=60)[0]
        finally:
            first.communicate("\n", timeout=60)
        assert start(65533).communicate("\n", timeout=60)[0] == "held\n"
