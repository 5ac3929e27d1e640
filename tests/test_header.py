"""Headers, of files that are here and of files that are not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from llm_latency import header
from llm_latency.errors import LabError, ParameterError
from llm_latency.header import header_of, read_header


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


class Remote:
    """A file system of one file that counts what is read of it."""

    def __init__(self, content: bytes) -> None:
        self.content, self.read_bytes = content, 0

    def open(self, address: str, mode: str, revision: str | None = None) -> Any:
        outer = self

        class File(io.BytesIO):
            size = len(outer.content)

            def read(self, size: int | None = -1, /) -> bytes:
                found = super().read(size)
                outer.read_bytes += len(found)
                return found

        return File(self.content)


def test_a_model_on_the_hub_is_judged_by_its_head(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote(tiny.read_bytes())
    monkeypatch.setattr(huggingface_hub, "HfFileSystem", lambda: remote)
    monkeypatch.setattr(header, "FIRST_BYTES", 4096)  # too few: it must ask for more
    assert header_of("hf:owner/repo/tiny.gguf@abc") == read_header(tiny)
    assert remote.read_bytes < len(remote.content) / 10


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline() -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "HfFileSystem", offline)
    with pytest.raises(LabError, match=r"hf:owner/repo/m\.gguf.*no route.*network"):
        header_of("hf:owner/repo/m.gguf")
