"""Cores and their kinds, on made-up machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_latency.machine import topology
from tests.support import machines

CPUS = "sys/devices/system/cpu"


@pytest.mark.parametrize(
    ("text", "cpus"), [("0-3,8", {0, 1, 2, 3, 8}), ("5\n", {5}), ("", set()), ("0,2", {0, 2})]
)
def test_a_list_of_cpus(text: str, cpus: set[int]) -> None:
    assert topology.numbers(text) == cpus


@pytest.mark.parametrize("file", ["core_cpus_list", "thread_siblings_list"])
def test_one_cpu_of_each_core(tmp_path: Path, file: str) -> None:
    machines.cores(tmp_path, ["0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"], file)
    assert topology.one_per_core(range(8), tmp_path) == (0, 1, 2, 3)
    assert topology.one_per_core([4, 5, 1], tmp_path) == (1, 4)
    assert topology.online(tmp_path) == list(range(8))


def test_what_the_system_does_not_tell_is_not_known(tmp_path: Path) -> None:
    assert topology.one_per_core([0, 1], tmp_path) is None
    assert topology.fast([0, 1], tmp_path) is None
    assert topology.online(tmp_path) is None


def test_hybrids_of_intel_name_their_kinds(tmp_path: Path) -> None:
    kinds = {"cpu_core": "0-3", "cpu_atom": "4-7"}
    machines.write(tmp_path, {f"sys/devices/{kind}/cpus": cpus for kind, cpus in kinds.items()})
    assert topology.fast([2, 3, 4], tmp_path) == (2, 3)
    assert topology.fast([5, 6], tmp_path) == ()


@pytest.mark.parametrize(
    ("file", "speeds", "fast"),
    [
        ("cpu_capacity", [250, 250, 870, 1024], (2, 3)),
        ("cpu_capacity", [1024, 1024], None),
        ("cpufreq/cpuinfo_max_freq", [5_000_000, 5_300_000], None),  # turbo, one kind
        ("cpufreq/cpuinfo_max_freq", [3_300_000, 5_100_000], (1,)),
    ],
)
def test_kinds_by_capacity_or_frequency(
    tmp_path: Path, file: str, speeds: list[int], fast: tuple[int, ...] | None
) -> None:
    machines.write(tmp_path, {f"{CPUS}/cpu{n}/{file}": str(s) for n, s in enumerate(speeds)})
    assert topology.fast(range(len(speeds)), tmp_path) == fast
