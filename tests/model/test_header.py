"""Headers of files that are here; tests/test_hub.py has those of files that are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from llm_latency.errors import ParameterError
from llm_latency.memory.predict import kv_bytes
from llm_latency.model import names
from llm_latency.model.header import read_header
from llm_latency.plan.settings import Settings


def test_a_header_says_what_memory_follows_from(tiny: Path) -> None:
    found = read_header(tiny)
    assert (found.architecture, found.n_layer, found.n_embd) == ("llama", 8, 256)
    assert found.n_head_kv == (2,) * 8
    assert (found.n_head, found.key_width, found.value_width) == (4, 64, 64)
    assert (found.n_ff, found.n_vocab, found.n_ctx_train) == (1024, 10240, 8192)
    assert 0.95 < found.file_bytes / tiny.stat().st_size < 1
    assert {t.layer for t in found.tensors} == {None, *range(8)}


@pytest.mark.parametrize("content", [b"", b"no model at all" * 100])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(content)
    with pytest.raises(ParameterError, match=r"x\.gguf.*whole GGUF"):
        read_header(file)


def written(path: Path, heads_kv: int | list[int], **more: int) -> Path:
    """Write a header of four layers, two heads of width 8 each, and a tensor for each layer."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(4)
    writer.add_embedding_length(16)
    writer.add_head_count(2)
    writer.add_head_count_kv(heads_kv)
    for key, value in more.items():
        writer.add_uint32(f"llama.{key}", value)
    for layer in range(4):
        writer.add_tensor(f"blk.{layer}.attn_q.weight", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("heads_kv", "more", "per_layer"),
    [
        (2, {}, (2, 2, 2, 2)),
        ([0, 2, 0, 1], {}, (0, 2, 0, 1)),
        (2, {"full_attention_interval": 2}, (0, 2, 0, 2)),
    ],
)
def test_the_card_and_the_prediction_have_one_number(
    tmp_path: Path, cache: Path, heads_kv: Any, more: dict[str, int], per_layer: tuple[int, ...]
) -> None:
    file = written(tmp_path / "x.gguf", heads_kv, **more)
    header = read_header(file)
    assert header.n_head_kv == per_layer
    described = names.describe("x", file)
    assert described.header == header
    # K and V, each of width 8, in two bytes.
    assert described.card.kv_bytes_per_token == sum(per_layer) * (8 + 8) * 2
    assert kv_bytes(header, Settings(n_ctx=256)) == [256 * n * (8 + 8) * 2 for n in per_layer]
    assert described.card.n_head_kv == 2


def test_heads_of_other_layers_than_there_are_foretell_nothing(tmp_path: Path, cache: Path) -> None:
    file = written(tmp_path / "x.gguf", [1, 2])
    with pytest.raises(ParameterError, match="4 layers, and heads of 2"):
        read_header(file)
    described = names.describe("x", file)
    assert (described.header, described.card.n_layer) == (None, 4)
    assert described.card.kv_bytes_per_token is None


def test_a_cache_whose_blocks_fill_no_head_is_refused(tiny: Path) -> None:
    header = read_header(tiny).model_copy(update={"key_width": 80})
    header.check_cache(Settings(type_v="q8_0", flash_attn=True))
    with pytest.raises(ParameterError, match=r"type_k='q8_0'.*80 wide.*type_k='f16'"):
        header.check_cache(Settings(type_k="q8_0"))
