"""What a file is, before anything is measured with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_latency.errors import ParameterError
from llm_latency.memory.fits import fits
from llm_latency.model import kinds
from llm_latency.model.gguf import END_OF_FORMATS, outline
from tests.support.odd_models import header_only, of_format

OTHERS: list[tuple[str, dict[str, Any], str]] = [
    ("clip", {"general.type": "mmproj"}, "mmproj.*the model's own GGUF file"),
    ("clip", {}, "mmproj"),
    ("llama", {"general.type": "adapter", "adapter.type": "lora"}, "adapter.*own GGUF file"),
    ("bert", {"bert.attention.causal": False}, "encoder.*generates text"),
    ("jina-bert-v3", {}, "encoder"),
    ("nomic-bert-moe", {}, "encoder"),
    ("t5encoder", {}, "encoder"),
    ("gemma-embedding", {}, "encoder"),
    ("llama", {"llama.attention.causal": False}, "encoder"),
    ("t5", {}, "decoder only"),
    ("dream", {"dream.attention.causal": False}, "diffusion"),
    ("eagle3", {}, "drafts for another model"),
    ("llama", {"general.type": "imatrix"}, "importances"),
    (
        "llama",
        {"split.count": np.uint16(3), "split.no": np.uint16(1)},
        r"part 2 of 3 .*'odd-00002-of-00003\.gguf'",
    ),
]


@pytest.mark.parametrize(("architecture", "values", "words"), OTHERS)
def test_what_is_no_model_is_refused_by_what_it_is(
    tmp_path: Path, architecture: str, values: dict[str, Any], words: str
) -> None:
    path = header_only(tmp_path / "odd.gguf", architecture, values)
    with pytest.raises(ParameterError, match=rf"model='odd\.gguf' is .*{words}"):
        kinds.check(path)
    with pytest.raises(ParameterError, match=words):
        fits(str(path), "1 GiB")


def test_what_may_be_a_model_is_left_alone(tiny: Path, tmp_path: Path) -> None:
    kinds.check(tiny)
    for values in ({}, {"llama.attention.causal": True}, {"general.type": "model"}):
        kinds.check(header_only(tmp_path / "one.gguf", "llama", values))
    split = {"split.count": np.uint16(3), "split.no": np.uint16(0)}
    kinds.check(header_only(tmp_path / "x-00001-of-00003.gguf", "llama", split))
    (tmp_path / "none.gguf").write_bytes(b"GGUF")
    kinds.check(tmp_path / "none.gguf")


def test_a_format_of_a_fork_is_told_from_damage(tiny: Path, tmp_path: Path) -> None:
    assert outline(tiny).formats == {0, 8}
    with pytest.raises(ParameterError, match=r"number format .*ggml type 200.*Q4_K_M"):
        kinds.check(of_format(tiny, tmp_path / "fork.gguf", 200))
    kinds.check(of_format(tiny, tmp_path / "last.gguf", END_OF_FORMATS - 1))
