"""Signs of activity of a real process, by a clock that the test moves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from llm_latency.measure import activity
from llm_latency.measure.activity import CHECK_S, Activity

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs the counts of Linux")


class Clock:
    """Stands in for the time, which only goes on when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(activity, "time", made)
    return made


@pytest.fixture
def sleeper() -> Iterator[int]:
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.read(1)
    while psutil.Process(child.pid).status() != psutil.STATUS_SLEEPING:
        pass
    yield child.pid
    child.kill()
    child.communicate()


def looks(one: Activity, clock: Clock, seconds: list[float]) -> list[bool]:
    found = []
    for second in seconds:
        clock.now_s += second
        found.append(one.is_idle())
    return found


def test_a_process_that_does_nothing_stands_still_when_its_time_is_over(
    clock: Clock, sleeper: int
) -> None:
    one = Activity(sleeper, 20)
    assert one.next_check_s == CHECK_S
    assert looks(one, clock, [5] * 5) == [False] * 4 + [True]  # the first look compares nothing


def test_it_is_looked_at_every_few_seconds_only(
    clock: Clock, sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Activity(sleeper, 60)
    seen: list[float] = []

    def look() -> tuple[float, ...]:
        seen.append(clock.now_s)
        return (0.0,)

    monkeypatch.setattr(one, "_read_counters", look)
    looks(one, clock, [0.5] * 60)
    assert seen == [CHECK_S * n for n in range(1, 7)]


def test_time_in_which_nobody_looked_is_no_silence(clock: Clock, sleeper: int) -> None:
    # The machine slept, or the parent was stopped: the child did not have its chance.
    one = Activity(sleeper, 20)
    assert looks(one, clock, [5, 3600, 5, 5]) == [False, False, False, True]


def test_what_is_told_or_done_begins_the_time_anew(clock: Clock, sleeper: int) -> None:
    one = Activity(sleeper, 10)
    assert looks(one, clock, [2.5] * 4) == [False] * 4
    one.reported()
    assert looks(one, clock, [2.5] * 4) == [False] * 3 + [True]


@pytest.mark.parametrize("sign", [psutil.STATUS_DISK_SLEEP, psutil.AccessDenied()])
def test_who_waits_for_a_disk_or_cannot_be_seen_does_not_stand_still(
    clock: Clock, sleeper: int, monkeypatch: pytest.MonkeyPatch, sign: object
) -> None:
    def status(_: psutil.Process) -> object:
        if isinstance(sign, Exception):
            raise sign
        return sign

    monkeypatch.setattr(psutil.Process, "status", status)
    assert not any(looks(Activity(sleeper, 10), clock, [5] * 20))


def test_a_process_that_is_gone_does_not_stand_still(clock: Clock) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert not any(looks(Activity(gone.pid, 10), clock, [5] * 20))
