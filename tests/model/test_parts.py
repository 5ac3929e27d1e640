"""A model in several files is one model: sized, hashed, described and put into RAM together."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import llm_latency as lab
from llm_latency.errors import ParameterError
from llm_latency.machine import page_cache
from llm_latency.model import names, parts
from llm_latency.model.header import read_header
from tests.support.odd_models import split

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def three(tiny: Path) -> Iterator[list[Path]]:
    # In the project's own folder: a temporary folder may be in RAM, with no disk behind it.
    folder = ROOT / "outputs" / f".parts-{os.getpid()}"
    folder.mkdir(parents=True)
    yield split(tiny, folder, "x", 3)
    shutil.rmtree(folder)


def test_the_card_is_of_all_parts(tiny: Path, three: list[Path]) -> None:
    assert parts.of(three[0]) == three
    whole, card = names.card("x", tiny), names.card(str(three[0]), three[0])
    assert card.size_bytes == sum(part.stat().st_size for part in three)
    assert names.file_bytes(str(three[0])) == card.size_bytes
    assert (card.parameters, card.n_layer) == (whole.parameters, whole.n_layer)
    assert read_header(three[0]).file_bytes == read_header(tiny).file_bytes
    last = three[-1].read_bytes()
    three[-1].write_bytes(last[:-1] + b"?")
    assert names.card(str(three[0]), three[0]).sha256 != card.sha256
    three[-1].write_bytes(last)


def test_a_part_that_is_missing_or_is_not_the_first_is_named(
    three: list[Path], tmp_path: Path
) -> None:
    assert names.check(str(three[0])) == str(three[0])
    with pytest.raises(ParameterError, match=r"3 files; give the first, 'x-00001-of-00003\.gguf'"):
        names.check(str(three[1]))
    alone = Path(shutil.copy(three[0], tmp_path))
    with pytest.raises(ParameterError, match=r"lacks its part 'x-00002-of-00003\.gguf'"):
        names.check(str(alone))
    with pytest.raises(ParameterError, match=r"2 files; give the first, 'x-00001-of-00002\.gguf'"):
        names.check("hf:o/r/q4/x-00002-of-00002.gguf")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells and lets evict")
def test_all_parts_go_out_and_come_in(three: list[Path]) -> None:
    assert page_cache.prepare(three[0], "resident").resident_before == 1.0
    page_cache.evict(three[2])
    share = page_cache.model_fraction(three[0])
    size = three[2].stat().st_size
    assert share == pytest.approx(1 - size / parts.size_bytes(three[0]), abs=0.02)
    assert (page_cache.prepare(three[0], "evicted").resident_before or 0) < 0.02


@pytest.mark.engine
@pytest.mark.usefixtures("outputs")
@pytest.mark.parametrize("state", ["resident", "evicted"])
def test_a_trial_of_all_parts_is_proven(three: list[Path], state: str) -> None:
    plan = lab.experiments.sweep(
        model=str(three[0]), n_ctx=512, n_batch=256, prompt_tokens=32, max_tokens=4,
        page_cache=state, rounds=1, repeats=0,
    )  # fmt: skip
    for record in lab.run(plan, progress=False).records():
        assert (record.status, record.reason) == ("ok", None)
        assert record.page_cache.in_force == state
        held = record.memory["after_load"].places["model_file"]
        assert held == pytest.approx(parts.size_bytes(three[0]), rel=0.05)
