"""Headers of files that are here; tests/test_hub.py has those of files that are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_latency.errors import ParameterError
from llm_latency.model.header import read_header


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
