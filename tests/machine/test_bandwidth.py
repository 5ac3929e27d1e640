"""The bandwidth of RAM: measured once per machine, and again where what was kept is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_latency.machine import bandwidth


def test_memory_is_read_at_some_speed() -> None:
    assert 1e7 < bandwidth.measure(cpus=1, size_bytes=1 << 22, passes=2) < 1e13


def test_it_is_measured_once_and_again_where_the_file_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([3e10, 4e10])
    monkeypatch.setattr(bandwidth, "measure", lambda cpus: next(measured))
    folder = tmp_path / "not there yet"
    assert [bandwidth.read_bytes_per_s(folder) for _ in range(2)] == [3e10, 3e10]
    (kept,) = folder.iterdir()
    kept.write_text("{", encoding="utf-8")
    assert [bandwidth.read_bytes_per_s(folder) for _ in range(2)] == [4e10, 4e10]
