"""What else ran meanwhile is seen, and named with what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from llm_latency.machine import disturbance
from llm_latency.records.record import Generation, GpuState, HostState, Timings


def test_a_busy_neighbour_is_seen_and_named() -> None:
    watch = disturbance.CpuWatch.start()
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
    watch = disturbance.CpuWatch.start()
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
    onlooker, measured = (disturbance.CpuWatch.start(measured=m) for m in (False, True))
    spin = "import time\nwhile time.process_time() < 1: pass\nprint(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        span_s = (time.perf_counter() - measured.started_s) * (os.cpu_count() or 1)
        alive = [watch.state().cpu_other_fraction or 0 for watch in (onlooker, measured)]
        child.kill()
        child.wait()
    used_s = disturbance.cpu_s(descendants=True) - measured.own_s
    assert alive[0] - alive[1] == pytest.approx(1.0 / span_s, abs=0.25 / span_s)
    assert used_s >= 1.0  # also when it has ended


def test_nobody_can_say_what_others_took_of_a_child_that_died() -> None:
    watch = disturbance.CpuWatch.start()
    time.sleep(0.2)
    assert watch.state(child_cpu_s=None).cpu_other_fraction is None


def generation(other: float | None) -> Generation:
    timings = Timings(
        ttft_s=1, prefill_s=1, decode_s=0, total_s=1, itl_s=[1],
        engine_prefill_s=1, engine_decode_s=0,
    )  # fmt: skip
    return Generation(
        prompt_tokens=1, evaluated_tokens=1, generated_tokens=1, finish_reason="length",
        timings=timings, cpu_other_fraction=other,
    )  # fmt: skip


def test_disturbances_are_sentences_with_a_remedy_and_silence_is_quiet() -> None:
    assert disturbance.disturbances(HostState(), 10) == []
    quiet = HostState(cpu_other_fraction=0.01, cpu_steal_fraction=0.01)
    assert disturbance.disturbances(quiet, 10, [generation(0.02), generation(None)]) == []
    loud = HostState(
        cpu_other_fraction=0.5,
        cpu_steal_fraction=0.1,
        memory_pressure_fraction=0.2,
        swapped_bytes=2**26,
        gpu=GpuState(throttle="HwSlowdown", foreign_processes=2),
    )
    texts = disturbance.disturbances(loud, 10)
    assert len(texts) == 6
    for text, word in zip(
        texts, ("50%", "hypervisor", "20%", "64 MiB", "HwSlowdown", "2 other processes"),
        strict=True,
    ):  # fmt: skip
        assert word in text


@pytest.mark.parametrize(
    ("throttle", "remedies"),
    [
        (None, []),
        ("SwPowerCap", []),  # the machine's condition
        ("SwThermalSlowdown", ["cool"]),
        ("HwSlowdown, HwThermalSlowdown, SwPowerCap", ["cool"]),
        ("HwPowerBrakeSlowdown, HwSlowdown", ["cables"]),
        ("HwPowerBrakeSlowdown, HwThermalSlowdown", ["cool", "cables"]),
        ("HwSlowdown", ["nvidia-smi"]),
    ],
)
def test_a_hot_card_is_to_cool_and_no_other(throttle: str | None, remedies: list[str]) -> None:
    texts = disturbance.disturbances(HostState(gpu=GpuState(throttle=throttle)), 10)
    assert len(texts) == len(remedies)
    for text in texts:
        assert [word for word in ("cool", "cables", "nvidia-smi") if word in text] == [
            remedies[texts.index(text)]
        ]


def test_the_worst_generation_counts_and_a_short_trial_is_not_blamed_for_a_tick() -> None:
    quiet = HostState(cpu_other_fraction=0.02)
    assert "40%" in disturbance.disturbances(quiet, 10, [generation(0.0), generation(0.4)])[0]
    one_tick_in_ten = HostState(cpu_other_fraction=0.1)
    assert disturbance.disturbances(one_tick_in_ten, 0.1) == []
    assert disturbance.disturbances(one_tick_in_ten, 10)
