"""What others took of our CPUs, and how often a quota held us back, is seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import psutil
import pytest

from llm_latency.machine import cpu_watch, disturbance, limits
from tests.support import machines
from tests.support.machines import V2


class Clocks(NamedTuple):
    """What a system tells of a CPU."""

    user: float
    idle: float


def test_a_busy_neighbour_is_seen_and_named() -> None:
    watch = cpu_watch.CpuWatch.start()
    spin = "import time; end = time.time() + 1.5\nwhile time.time() < end: pass"
    neighbours = [
        subprocess.Popen([sys.executable, "-c", spin]) for _ in range(os.cpu_count() or 1)
    ]
    for neighbour in neighbours:
        neighbour.wait()
    state = watch.state()
    assert (state.cpu_other_fraction or 0) > 0.4
    assert "other processes took" in disturbance.disturbances(state, 1.5)[0]


def test_the_measured_process_is_no_neighbour_of_its_own() -> None:
    watch = cpu_watch.CpuWatch.start()
    used = time.process_time()
    while time.process_time() - used < 1.0:
        pass
    span_s = (time.perf_counter() - watch.started_s) * (os.cpu_count() or 1)
    alone = watch.state().cpu_other_fraction
    # What this process burned (1 s of CPU time) is its own: it must not count as others'.
    counted_as_other = watch.state(child_cpu_s=-1.0).cpu_other_fraction
    assert alone is not None
    assert counted_as_other is not None
    assert counted_as_other - alone == pytest.approx(min(1.0, 1.0 / span_s), abs=0.25)


def test_what_a_measured_process_started_is_its_own() -> None:
    onlooker, measured = (cpu_watch.CpuWatch.start(measured=m) for m in (False, True))
    spin = "import time\nwhile time.process_time() < 1: pass\nprint(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        span_s = (time.perf_counter() - measured.started_s) * (os.cpu_count() or 1)
        alive = [watch.state().cpu_other_fraction or 0 for watch in (onlooker, measured)]
        child.kill()
        child.wait()
    used_s = cpu_watch.cpu_s(descendants=True) - measured.own_s
    assert alive[0] - alive[1] == pytest.approx(1.0 / span_s, abs=0.25 / span_s)
    assert used_s >= 1.0 - 2 * cpu_watch.TICK_S  # also when it has ended


def test_nobody_can_say_what_others_took_of_a_child_that_died() -> None:
    watch = cpu_watch.CpuWatch.start()
    time.sleep(0.2)
    assert watch.state(child_cpu_s=None).cpu_other_fraction is None


@pytest.mark.parametrize(
    ("ours", "busy", "share"),
    [
        (range(8), {3}, 1 / 8),  # a neighbour on one of the eight that are ours
        (range(8), {8, 9, 40, 63}, 0.0),  # a tenant on those that are not
        (range(64), {3}, 1 / 64),
        ((2, 4), {4}, 0.5),
    ],
)
def test_what_others_take_counts_on_our_cpus(
    monkeypatch: pytest.MonkeyPatch, ours: Sequence[int], busy: set[int], share: float
) -> None:
    now = SimpleNamespace(s=0.0)

    def clocks(percpu: bool) -> list[Clocks]:
        assert percpu
        return [Clocks(now.s, 0.0) if n in busy else Clocks(0.0, now.s) for n in range(64)]

    monkeypatch.setattr(psutil, "cpu_times", clocks)
    monkeypatch.setattr(time, "perf_counter", lambda: now.s)
    monkeypatch.setattr(limits, "allowed_cpus", lambda: tuple(range(64)))
    monkeypatch.setattr(cpu_watch.topology, "online", lambda _: None)
    # Who looks on computes, too, elsewhere.
    monkeypatch.setattr(cpu_watch, "cpu_s", lambda descendants: now.s)
    watch = cpu_watch.CpuWatch.start(cpus=ours)
    now.s = 10.0
    state = watch.state()
    assert state.watched_cpus == len(ours)
    assert state.cpu_other_fraction == pytest.approx(share)
    assert bool(disturbance.disturbances(state, 10.0)) == (share > disturbance.OTHER_LIMIT)


def test_clocks_are_of_the_cpus_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    machines.write(tmp_path, {"sys/devices/system/cpu/online": "0,2,4"})
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [Clocks(n, 9.0) for n in (1, 2, 3)])
    assert cpu_watch._cpu_clocks([2]) == (2.0, 0.0)
    assert cpu_watch._cpu_clocks([0, 4]) == (4.0, 0.0)


def quota(root: Path, limit: str, periods: int, microseconds: int) -> None:
    machines.mounted(root, ["0::/job/step"], [("/cg", "/", V2)])
    stat = f"nr_throttled {periods}\nthrottled_usec {microseconds}"
    machines.write(root, {"cg/job/cpu.max": limit, "cg/job/cpu.stat": stat})


@pytest.mark.parametrize(
    ("limit", "threads"), [("250000 100000", 2), ("50000 100000", 1), ("max 100000", None)]
)
def test_a_quota_that_holds_back_is_counted_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, threads: int | None
) -> None:
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    quota(tmp_path, limit, 5, 100_000)
    watch = cpu_watch.CpuWatch.start()
    quota(tmp_path, limit, 12, 600_000)
    state = watch.state()
    if threads is None:
        assert (state.quota_cpus, state.throttled_periods, state.throttled_s) == (None, None, None)
        return
    assert (state.throttled_periods, state.throttled_s) == (7, pytest.approx(0.5))
    short, long = (disturbance.disturbances(state, span_s) for span_s in (1.0, 100.0))
    assert long == []
    assert "7 periods" in short[0] and f"n_threads={threads}," in short[0]


TRIAL = """
import json
import llm_latency as lab
run = lab.run(lab.experiments.sweep(n_ctx=512, n_batch=256, prompt_tokens=400, max_tokens=16,
    n_threads=2, rounds=1, repeats=0), progress=False)
record = run.records()[0]
row = run.frame().iloc[0]
print(json.dumps([record.status, record.host.quota_cpus, record.generations[0].throttled_periods,
    row["throttled_periods"], row["throttled_s"] / row["total_s"], record.disturbed,
    run.info["machine"]]))
"""


@pytest.mark.engine
@pytest.mark.usefixtures("outputs")
def test_a_real_quota_holds_a_real_trial_back() -> None:
    with machines.nested("cpu", machines.HALF_A_CPU) as group:
        told = json.loads(machines.within(group, TRIAL))
    status, cpus, periods, in_frame, held, disturbed, card = told
    assert (status, cpus, card["quota_cpus"], card["usable_cpus"]) == ("ok", 0.5, 0.5, 1)
    assert periods == in_frame > 0
    assert held > disturbance.THROTTLE_LIMIT
    assert any(f"{periods} periods" in cause and "n_threads=1" in cause for cause in disturbed)
