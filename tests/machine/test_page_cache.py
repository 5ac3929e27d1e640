"""The model file in the page cache: put there, put out, and proven; for real, on Linux."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

import llm_latency as lab
from llm_latency.machine import limits
from llm_latency.machine import page_cache as pagecache
from llm_latency.machine.page_cache import prepare, resident_fraction
from llm_latency.plan.spec import PageCache
from llm_latency.records.proof import EVICTED_AT_MOST, wrong_start

MIB = 2**20
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells and lets evict")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def file() -> Iterator[Path]:
    # In the project's own folder: a temporary folder may be in RAM, with no disk behind it.
    path = ROOT / "outputs" / f".pagecache-{os.getpid()}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(os.urandom(MIB) * 16)
    yield path
    path.unlink()


@linux
def test_a_file_goes_out_and_comes_in(file: Path) -> None:
    assert prepare(file, "resident").resident_before == 1.0
    out = prepare(file, "evicted")
    assert (out.in_force, out.why) == ("evicted", None)
    assert (out.resident_before or 0) <= EVICTED_AT_MOST
    assert resident_fraction(file) == out.resident_before  # asking brings nothing in
    assert (prepare(file, "as_is").resident_before or 0) <= EVICTED_AT_MOST
    assert prepare(file, "resident").resident_before == 1.0


@linux
def test_half_a_file_is_half_resident(file: Path) -> None:
    prepare(file, "evicted")
    with file.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no readahead
        for _ in range(8):
            stream.read(MIB)
    assert resident_fraction(file) == pytest.approx(0.5, abs=0.1)


@linux
def test_a_file_that_another_process_holds_cannot_be_evicted_and_is_caught(file: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import mmap, sys\n"
            "f = open(sys.argv[1], 'rb')\n"
            "m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)\n"
            "sum(m[i] for i in range(0, len(m), mmap.PAGESIZE))\n"
            "print('held', flush=True); sys.stdin.read()",
            str(file),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        state = prepare(file, "evicted")
        cause = wrong_start("evicted", state, None, file.stat().st_size)
    finally:
        holder.communicate()
    assert (state.resident_before or 0) > 0.9
    assert "stayed in RAM" in str(cause)


def test_a_system_without_control_says_so(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    state = prepare(file, "evicted")
    assert (state.in_force, state.resident_before) == ("as_is", None)
    assert "darwin" in str(state.why)
    assert wrong_start("evicted", state, None, 1) is None  # unproven, and not called evicted


def test_a_file_that_is_gone_is_for_the_child_to_report() -> None:
    state = prepare(Path("/no/such/file"), "evicted")
    assert state.in_force == "as_is"
    assert "No such file" in str(state.why)
    assert prepare(Path("/no/such/file"), "as_is").why is None


@pytest.fixture
def in_ram() -> Iterator[Path]:
    """A file on a file system that is RAM."""
    folder = Path("/dev/shm")
    if not folder.is_dir() or pagecache.file_system(folder) != "tmpfs":
        pytest.skip("no tmpfs here")
    path = folder / f"pagecache-{os.getpid()}.gguf"
    yield path
    path.unlink()


@linux
def test_a_file_in_ram_has_no_disk_to_be_put_out_to(in_ram: Path) -> None:
    in_ram.write_bytes(os.urandom(MIB))
    state = prepare(in_ram, "evicted")
    assert (state.in_force, state.resident_before) == ("as_is", 1.0)
    assert "tmpfs" in str(state.why)
    state = prepare(in_ram, "resident")
    assert (state.in_force, state.resident_before, state.why) == ("resident", 1.0, None)


@linux
@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root can be others")
def test_of_anothers_file_nobody_can_tell() -> None:
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as made:
        made.write(os.urandom(MIB))
        made.flush()
        path = Path(made.name)
        path.chmod(0o644)
        os.seteuid(65534)
        try:
            state = prepare(path, "evicted")
        finally:
            os.seteuid(0)
        assert (state.in_force, state.resident_before, state.why) == ("evicted", None, None)
        assert resident_fraction(path) is not None


@linux
@pytest.mark.parametrize("wanted", ["evicted", "resident"])
def test_zfs_does_not_tell(file: Path, wanted: PageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagecache, "file_system", lambda path: "zfs")
    state = prepare(file, wanted)
    assert (state.in_force, state.resident_before) == ("as_is", None)
    assert "ZFS" in str(state.why)


@linux
@pytest.mark.parametrize("by_quota", [True, False])
def test_a_model_larger_than_ram_is_not_read_in_vain(
    file: Path, by_quota: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(file, "evicted")
    if by_quota:
        monkeypatch.setattr(limits, "memory_limit_bytes", lambda: 15 * MIB)
    else:
        few = SimpleNamespace(total=64 * MIB, available=15 * MIB)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: few)
    state = prepare(file, "resident")
    assert (state.in_force, (state.resident_before or 0) <= EVICTED_AT_MOST) == ("as_is", True)
    assert "16 MiB are more than the 15 MiB" in str(state.why)
    assert prepare(file, "evicted").in_force == "evicted"


def test_the_file_system_is_that_of_the_innermost_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [("/", "ext4"), ("/a", "xfs"), ("/a", "tmpfs"), ("/a/b", "zfs"), ("/ab", "9p")]
    found = [SimpleNamespace(mountpoint=point, fstype=kind) for point, kind in mounts]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: found)
    asked = {path: pagecache.file_system(Path(path)) for path in ("/x", "/a/x", "/a/b/x", "/ab/x")}
    assert list(asked.values()) == ["ext4", "tmpfs", "zfs", "9p"]


@linux
@pytest.mark.engine
@pytest.mark.usefixtures("outputs")
def test_trials_of_a_model_in_ram_are_measured_and_say_so(in_ram: Path, tiny: Path) -> None:
    shutil.copy(tiny, in_ram)
    plan = lab.experiments.sweep(
        str(in_ram), n_ctx=512, n_batch=256, prompt_tokens=16, max_tokens=2, rounds=1,
        page_cache=["evicted", "resident"],
    )  # fmt: skip
    records = lab.run(plan, progress=False).records()
    assert {(r.status, r.trial.start.page_cache, r.page_cache.in_force) for r in records} == {
        ("ok", "evicted", "as_is"),
        ("ok", "resident", "resident"),
    }
    for record in records:
        assert (record.page_cache.why in record.warnings) == (
            record.trial.start.page_cache == "evicted"
        )


@linux
@pytest.mark.engine
@pytest.mark.usefixtures("outputs")
def test_real_loads_prove_what_they_read(monkeypatch: pytest.MonkeyPatch) -> None:
    common = {"n_ctx": 512, "n_batch": 256, "prompt_tokens": 16, "max_tokens": 2, "rounds": 1}
    plan = lab.experiments.sweep(
        page_cache=["evicted", "resident"], use_mmap=[True, False], **common
    )
    run = lab.run(plan, progress=False)
    size = run.info["model"]["size_bytes"]
    for record in run.records():
        assert record.status == "ok", record.reason
        read = record.between("before", "after_load", "read_bytes")
        assert read is not None
        if record.trial.start.page_cache == "evicted":
            assert read >= 0.9 * size
        else:
            assert read <= 0.05 * size
    # The injected fault: eviction that does nothing.
    monkeypatch.setattr(pagecache, "evict", lambda path: None)
    run = lab.run(lab.experiments.sweep(page_cache="evicted", **common), progress=False)
    assert {r.status for r in run.records()} == {"invalid"}
    assert "stayed in RAM" in str(run.records()[0].reason)
