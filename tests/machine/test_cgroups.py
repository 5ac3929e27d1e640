"""Limits of nested control groups, on made-up machines and on this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_latency.machine import cgroups
from llm_latency.machine.cgroups import Group
from tests.support import machines
from tests.support.machines import V1, V2

TREE = "sys/fs/cgroup"
NO_LIMIT = "9223372036854771712"
SLURM = "/slurm/uid_7/job_8/step_0"
ASKED = "from llm_latency.machine import limits; print(limits.{})"


def quota(root: Path) -> float | None:
    return cgroups.smallest("cpu", Group.cpus, root)


def memory(root: Path) -> float | None:
    return cgroups.smallest("memory", Group.memory_bytes, root)


@pytest.mark.parametrize(
    ("files", "cpus", "limit"),
    [
        ({}, None, None),
        ({"a/b/cpu.max": "max 100000", "a/b/memory.max": "max"}, None, None),
        ({"a/b/cpu.max": "150000 100000", "a/b/memory.max": "600"}, 1.5, 600),
        ({"a/cpu.max": "50000 100000", "a/b/cpu.max": "400000 100000"}, 0.5, None),
        ({"a/cpu.max": "400000 100000", "a/b/cpu.max": "100000 200000"}, 0.5, None),
        ({"a/memory.max": "600", "a/b/memory.max": "max", "memory.max": "700"}, None, 600),
        ({"cpu.max": "100000 100000"}, 1.0, None),
        ({"a/cpu.max": "", "a/b/cpu.max": "nonsense here"}, None, None),
        ({"a/b/c/cpu.max": "1 100", "x/cpu.max": "1 100"}, None, None),
    ],
)
def test_of_nested_groups_the_smallest_limit_counts(
    tmp_path: Path, files: dict[str, str], cpus: float | None, limit: int | None
) -> None:
    machines.mounted(tmp_path, ["0::/a/b"], [(f"/{TREE}", "/", V2)])
    machines.write(tmp_path, {f"{TREE}/{name}": text for name, text in files.items()})
    assert (quota(tmp_path), memory(tmp_path)) == (cpus, limit)


@pytest.mark.parametrize(
    ("files", "cpus", "limit"),
    [
        ({"cpu{}/cpu.cfs_quota_us": "-1", "memory/memory.limit_in_bytes": NO_LIMIT}, None, None),
        ({"cpu{}/cpu.cfs_quota_us": "50000"}, 0.5, None),
        ({"memory/slurm/uid_7/memory.limit_in_bytes": "600"}, None, 600),
        ({"memory/slurm/memory.limit_in_bytes": "500",
          "memory/slurm/uid_7/memory.limit_in_bytes": "600"}, None, 500),
    ],
)  # fmt: skip
def test_version_1_has_a_tree_for_each_controller(
    tmp_path: Path, files: dict[str, str], cpus: float | None, limit: int | None
) -> None:
    groups = [f"4:memory:{SLURM}", f"3:cpu,cpuacct:{SLURM}", "2:cpuset:/", "0::/"]
    mounts = [
        (f"/{TREE}/unified", "/", V2),
        (f"/{TREE}/cpu", "/", f"{V1}cpu,cpuacct"),
        (f"/{TREE}/memory", "/", f"{V1}memory"),
    ]
    machines.mounted(tmp_path, groups, mounts)
    machines.write(tmp_path, {f"{TREE}/{n.format(SLURM)}": t for n, t in files.items()})
    machines.write(tmp_path, {f"{TREE}/cpu{SLURM}/cpu.cfs_period_us": "100000"})
    machines.write(tmp_path, {f"{TREE}/unified/cpu.max": "1 100"})  # of a tree without it
    assert (quota(tmp_path), memory(tmp_path)) == (cpus, limit)


@pytest.mark.parametrize(
    ("name", "top"),
    [
        ("/", "/"),  # a namespace of its own
        ("/docker/ab", "/docker/ab"),  # none: the host's name, and its group mounted
        ("/../..", "/"),  # joined from outside
        ("/", "/../.."),  # mounted from outside
        ("/docker/ab", "/"),  # the host's name, which is not to be seen from here
    ],
)
def test_within_a_namespace_what_is_mounted_counts(tmp_path: Path, name: str, top: str) -> None:
    machines.mounted(tmp_path, [f"0::{name}"], [(f"/{TREE}", top, V2)])
    machines.write(tmp_path, {f"{TREE}/cpu.max": "50000 100000", f"{TREE}/memory.max": "600"})
    assert (quota(tmp_path), memory(tmp_path)) == (0.5, 600)


def test_below_what_is_mounted_the_rest_of_the_name_is_a_folder(tmp_path: Path) -> None:
    machines.mounted(tmp_path, ["0::/docker/ab/in"], [("/cg\\040roups", "/docker/ab", V2)])
    machines.write(tmp_path, {"cg roups/in/cpu.max": "50000 100000"})
    assert quota(tmp_path) == 0.5


def test_a_controller_that_version_2_has_beside_trees_of_version_1(tmp_path: Path) -> None:
    mounts = [(f"/{TREE}/cpuset", "/", f"{V1}cpuset"), (f"/{TREE}/unified", "/", V2)]
    machines.mounted(tmp_path, ["2:cpuset:/x", "0::/a"], mounts)
    machines.write(tmp_path, {f"{TREE}/unified/a/cpu.max": "50000 100000"})
    assert quota(tmp_path) == 0.5


def test_elsewhere_there_are_none(tmp_path: Path) -> None:
    assert cgroups.groups("cpu", tmp_path) == []
    assert (quota(tmp_path), memory(tmp_path)) == (None, None)


@pytest.mark.parametrize(
    ("version", "text", "seconds"),
    [
        (2, "usage_usec 9\nnr_periods 20\nnr_throttled 19\nthrottled_usec 814062", 0.814062),
        (1, "nr_periods 20\nnr_throttled 19\nthrottled_time 814062054\n", 0.814062054),
    ],
)
def test_how_often_a_quota_held_back(
    tmp_path: Path, version: int, text: str, seconds: float
) -> None:
    (tmp_path / "cpu.stat").write_text(text)
    assert Group(tmp_path, version).held_back() == (19, pytest.approx(seconds))
    assert Group(tmp_path / "none", version).held_back() == (0, 0.0)


def test_a_real_quota_of_the_group_around_ours_is_seen() -> None:
    with machines.nested("cpu", machines.HALF_A_CPU) as group:
        assert machines.within(group, ASKED.format("quota_cpus(), limits.usable_cpus()")) == "0.5 1"


def test_a_real_memory_limit_of_the_group_around_ours_is_seen() -> None:
    size = str(600 * 2**20)
    limit = {1: {"memory.limit_in_bytes": size}, 2: {"memory.max": size}}
    with machines.nested("memory", limit) as group:
        assert machines.within(group, ASKED.format("memory_limit_bytes()")) == size
