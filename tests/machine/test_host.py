"""The machine's card and what else ran meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm_latency.machine import host
from llm_latency.records.record import ProcessMemory


def test_the_card_is_that_of_this_machine() -> None:
    card = host.machine_card()
    assert 1 <= card.usable_cpus <= card.logical_cpus == os.cpu_count()
    assert card.ram_bytes > 2**28
    assert card.python == sys.version.split()[0]
    assert len(card.machine_id) == 12


def test_a_machine_is_told_by_its_card_and_cpu_too_unless_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(host.VARIABLE, raising=False)
    monkeypatch.setattr(host.platform, "node", lambda: "image")
    told = []
    # The last two are numbers that Python made up, another at each start.
    for node in (0x525400000001, 0x525400000002, 0x010000000001, 0x010000000002):
        monkeypatch.setattr(host.uuid, "getnode", lambda node=node: node)
        told.append(host.machine_id())
    assert len(set(told)) == 3 and told[2] == told[3]
    monkeypatch.setattr(host, "_cpu_info", lambda: ("another CPU", []))
    assert host.machine_id() not in told
    monkeypatch.setenv(host.VARIABLE, "rack 3")
    named = host.machine_id()
    monkeypatch.setattr(host.platform, "node", lambda: "another name")
    assert host.machine_id() == named == host.machine_card().machine_id


def test_process_memory_grows_with_what_is_touched() -> None:
    # In a fresh process: here, memory that other tests freed would be used again.
    code = (
        "from llm_latency.machine import host\n"
        "before = host.process_memory()\n"
        "held = bytearray(b'x') * 50_000_000\n"
        "print(before.model_dump_json()); print(host.process_memory().model_dump_json())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    before, after = (ProcessMemory.model_validate_json(line) for line in printed)
    assert after.rss_bytes - before.rss_bytes > 40_000_000
    if before.rss_anon_bytes is not None:
        assert (after.rss_anon_bytes or 0) - before.rss_anon_bytes > 40_000_000
        assert after.rss_peak_bytes is not None


def test_the_engine_build_is_read_where_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert "why" in host.engine_build()
    (tmp_path / "engine-build.json").write_text(json.dumps({"engine": "cuda"}))
    assert host.engine_build() == {"engine": "cuda"}
