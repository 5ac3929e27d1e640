"""What disturbed a trial is named with what to do, and what did not is no word."""

from __future__ import annotations

import pytest

from llm_latency.machine import disturbance
from llm_latency.records.generation import Generation, Timings
from llm_latency.records.record import GpuState, HostState


def generation(other: float | None) -> Generation:
    timings = Timings(
        ttft_s=1, prefill_s=1, decode_s=0, total_s=1, itl_s=[1],
        engine_prefill_s=1, engine_decode_s=0,
    )  # fmt: skip
    return Generation(
        prompt_tokens=1, evaluated_tokens=1, generated_tokens=1, finish_reason="length",
        timings=timings, cpu_other_fraction=other,
    )  # fmt: skip


def test_a_quota_that_holds_one_answer_back_is_named() -> None:
    state = HostState(quota_cpus=2.0, throttled_periods=3, throttled_s=0.1)
    slow = generation(0.0).model_copy(update={"throttled_periods": 3, "throttled_s": 0.1})
    assert disturbance.disturbances(state, 10, [generation(0.0)]) == []
    assert "3 periods" in disturbance.disturbances(state, 10, [generation(0.0), slow])[0]


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
