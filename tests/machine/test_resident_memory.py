"""Where resident bytes lie, in this process and in the real worker."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

import llm_latency as lab
from llm_latency.machine.resident_memory import ResidentMap
from llm_latency.records.record import PLACES

MIB = 2**20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


def test_bytes_are_found_where_they_were_put(tmp_path: Path) -> None:
    file = tmp_path / "a model.gguf"
    file.write_bytes(b"x" * 3 * MIB)
    resident = ResidentMap(file)
    resident.by_place("before")  # a first look at the tests' many libraries takes memory itself
    before = resident.by_place("before")
    engine = mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    engine.write(b"y" * 2 * MIB)
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)
    assert mapped[:: mmap.PAGESIZE]
    loaded = resident.by_place("after_load")
    engine.write(b"y" * 4 * MIB)  # more of a buffer that was there
    first = resident.by_place("after_first")
    assert set(before) | set(loaded) | set(first) <= set(PLACES)
    assert before.get("model_file", 0) == 0
    assert loaded["model_file"] == 3 * MIB
    # The system may join neighbouring mappings, so anonymous memory is counted as one here.
    anonymous = [
        sum(places.get(place, 0) for place in ("engine", "python", "work_space"))
        for places in (before, loaded, first)
    ]
    assert 2 * MIB <= anonymous[1] - anonymous[0] < 3 * MIB
    assert 4 * MIB <= anonymous[2] - anonymous[1] < 5 * MIB
    mapped.close()
    engine.close()


@pytest.mark.engine
def test_the_first_generation_is_explained(outputs: Path) -> None:
    plan = lab.experiments.sweep(
        n_ctx=2048, n_batch=512, prompt_tokens=600, max_tokens=8, rounds=1, repeats=1
    )
    (record, *_) = lab.run(plan, progress=False).records()
    grew = {
        place: record.memory["after_last"].places[place]
        - record.memory["after_load"].places.get(place, 0)
        for place in record.memory["after_last"].places
    }
    total = record.between("after_load", "after_last", "rss_bytes")
    assert total and total > 5 * MIB
    # The two are read one after the other, and between them the reading process grows a little.
    assert abs(sum(grew.values()) / total - 1) < 0.06
    # What grew is the compute buffer, touched by the first prompt; not the weights.
    assert grew["engine"] > 0.5 * total
    assert grew["engine"] <= (record.buffers.compute_bytes or 0) + MIB
    assert grew["model_file"] == 0
    before = record.memory["before"].places
    assert before["code"] > MIB and before.get("model_file", 0) == 0
