"""The machine's card and what else ran meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm_latency import host
from llm_latency.record import GpuState, HostState


def test_the_card_is_that_of_this_machine() -> None:
    card = host.machine_card()
    assert 1 <= card.usable_cpus <= card.logical_cpus == os.cpu_count()
    assert card.ram_bytes > 2**28
    assert card.python == sys.version.split()[0]
    assert len(card.machine_id) == 12


@pytest.mark.parametrize(
    ("quota", "cpus"), [("max 100000", None), ("150000 100000", 1.5), ("nonsense", None)]
)
def test_a_cgroup_quota_limits_the_cpus(
    monkeypatch: pytest.MonkeyPatch, quota: str, cpus: float | None
) -> None:
    def read(path: Path, *_: object, **__: object) -> str:
        if path.name == "cpu.max":
            return quota
        raise OSError

    monkeypatch.setattr(Path, "read_text", read)
    assert host.cgroup_cpus() == cpus


def test_threads_are_never_more_than_quota_or_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(host.psutil, "cpu_count", lambda logical: 8)
    monkeypatch.setattr(host, "cgroup_cpus", lambda: None)
    assert host.usable_cpus() == 8
    monkeypatch.setattr(host, "cgroup_cpus", lambda: 2.5)
    assert host.usable_cpus() == 2
    monkeypatch.setattr(host, "cgroup_cpus", lambda: 0.5)
    assert host.usable_cpus() == 1


def test_process_memory_grows_with_what_is_touched() -> None:
    before = host.process_memory()
    held = bytearray(os.urandom(1)) * 50_000_000
    after = host.process_memory()
    assert after.rss_bytes - before.rss_bytes > 40_000_000
    if before.rss_anon_bytes is not None:
        assert (after.rss_anon_bytes or 0) - before.rss_anon_bytes > 40_000_000
        assert after.rss_peak_bytes is not None
    assert len(held) == 50_000_000


def test_a_busy_neighbour_is_seen_and_named() -> None:
    watch = host.CpuWatch.start()
    spin = "import time; end = time.time() + 1.5\nwhile time.time() < end: pass"
    neighbours = [
        subprocess.Popen([sys.executable, "-c", spin]) for _ in range(os.cpu_count() or 1)
    ]
    for neighbour in neighbours:
        neighbour.wait()
    state = watch.state(child_cpu_s=0.0)
    assert (state.cpu_other_fraction or 0) > 0.4
    assert "other processes took" in host.warnings(state)[0]


def test_the_measured_process_is_no_neighbour_of_its_own() -> None:
    watch = host.CpuWatch.start()
    used = time.process_time()
    while time.process_time() - used < 1.0:
        pass
    span_s = (time.perf_counter() - watch.started_s) * (os.cpu_count() or 1)
    alone = watch.state(child_cpu_s=0.0).cpu_other_fraction
    # What this process burned (1 s of CPU time) is its own: it must not count as others'.
    counted_as_other = watch.state(child_cpu_s=-1.0).cpu_other_fraction
    assert alone is not None
    assert counted_as_other is not None
    assert counted_as_other - alone == pytest.approx(min(1.0, 1.0 / span_s), abs=0.25)


def test_nobody_can_say_what_others_took_of_a_child_that_died() -> None:
    watch = host.CpuWatch.start()
    time.sleep(0.2)
    assert watch.state(child_cpu_s=None).cpu_other_fraction is None


def test_warnings_are_sentences_with_a_remedy_and_silence_is_quiet() -> None:
    assert host.warnings(HostState()) == []
    assert host.warnings(HostState(cpu_other_fraction=0.01, cpu_steal_fraction=0.01)) == []
    loud = HostState(
        cpu_other_fraction=0.5, cpu_steal_fraction=0.1, gpu=GpuState(throttle="HwSlowdown")
    )
    texts = host.warnings(loud)
    assert len(texts) == 3
    assert "50%" in texts[0]
    assert "hypervisor" in texts[1]
    assert "HwSlowdown" in texts[2]


def test_the_engine_build_is_read_where_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert "why" in host.engine_build()
    (tmp_path / "engine-build.json").write_text(json.dumps({"engine": "cuda"}))
    assert host.engine_build() == {"engine": "cuda"}
