"""Signs of life of a real process, by a clock that the test moves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from llm_latency.measure import life
from llm_latency.measure.life import LOOK_S, Life

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
    monkeypatch.setattr(life, "time", made)
    return made


@pytest.fixture
def sleeper() -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.read(1)
    while psutil.Process(process.pid).status() != psutil.STATUS_SLEEPING:
        pass
    yield process.pid
    process.kill()
    process.communicate()


def looks(one: Life, clock: Clock, seconds: list[float]) -> list[bool]:
    found = []
    for second in seconds:
        clock.now_s += second
        found.append(one.stands_still())
    return found


def test_a_process_that_does_nothing_stands_still_when_its_time_is_over(
    clock: Clock, sleeper: int
) -> None:
    one = Life(sleeper, 20)
    assert one.next_s == LOOK_S
    assert looks(one, clock, [5] * 5) == [False] * 4 + [True]  # the first look compares nothing


def test_it_is_looked_at_every_few_seconds_only(
    clock: Clock, sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Life(sleeper, 60)
    seen: list[float] = []

    def look() -> tuple[float, ...]:
        seen.append(clock.now_s)
        return (0.0,)

    monkeypatch.setattr(one, "_look", look)
    looks(one, clock, [0.5] * 60)
    assert seen == [LOOK_S * n for n in range(1, 7)]


def test_time_in_which_nobody_looked_is_no_silence(clock: Clock, sleeper: int) -> None:
    # The machine slept, or the parent was stopped: the child did not have its chance.
    one = Life(sleeper, 20)
    assert looks(one, clock, [5, 3600, 5, 5]) == [False, False, False, True]


def test_what_is_told_or_done_begins_the_time_anew(clock: Clock, sleeper: int) -> None:
    one = Life(sleeper, 10)
    assert looks(one, clock, [2.5] * 4) == [False] * 4
    one.told()
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
    assert not any(looks(Life(sleeper, 10), clock, [5] * 20))


def test_a_process_that_is_gone_does_not_stand_still(clock: Clock) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert not any(looks(Life(gone.pid, 10), clock, [5] * 20))
