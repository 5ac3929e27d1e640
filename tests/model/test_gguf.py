"""Headers that lie about their own size are refused before anything is built of them."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import pytest
from gguf import GGUFReader

from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.model.gguf import outline
from llm_latency.model.header import read_header

HUGE = 2**60


def text(word: bytes) -> bytes:
    return struct.pack("<Q", len(word)) + word


def gguf(*, version: int = 3, tensors: int = 0, keys: int = 1, body: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + body


def items(kind: int, count: int) -> bytes:
    return text(b"a.list") + struct.pack("<IIQ", 9, kind, count)


LIES = {
    "not begin with GGUF": b"GGML" + bytes(100),
    "version 9": gguf(version=9),
    "longer than what is there": b"GGUF\x03",
    "0 tensors and 1152921504606846976 keys": gguf(keys=HUGE),
    "1152921504606846976 tensors": gguf(tensors=HUGE),
    "a name has 1152921504606846976 bytes": gguf(body=struct.pack("<Q", HUGE)),
    "a list has 1152921504606846976 items": gguf(body=items(4, HUGE)),
    "a list has 4000000 items": gguf(body=items(0, 4_000_000) + bytes(4_000_000)),
    "the header is longer": gguf(body=items(8, 1000) + bytes(100)),
    "a list of kind 9": gguf(body=items(9, 1) + bytes(100)),
    "a value of kind 99": gguf(body=text(b"a") + struct.pack("<I", 99)),
    "a tensor has 4294967295 dimensions": gguf(
        tensors=1, keys=0, body=text(b"t") + struct.pack("<I", 2**32 - 1)
    ),
    "a tensor lies behind its end": gguf(
        tensors=1, keys=0, body=text(b"t") + struct.pack("<IQIQ", 1, 32, 0, HUGE)
    ),
}


@pytest.mark.parametrize("words", LIES)
def test_a_lie_is_found_at_once_and_builds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    file = tmp_path / "lie.gguf"
    file.write_bytes(LIES[words])
    monkeypatch.setenv("LLM_LATENCY_CACHE", str(tmp_path / "cache"))
    tracemalloc.start()
    try:
        with pytest.raises(ParameterError, match=words):
            read_header(file)
        assert words in (names.card("lie", file).why or "")
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_headers_of_either_byte_order_are_walked(tiny: Path, tmp_path: Path) -> None:
    assert len(outline(tiny).tensors) == len(read_header(tiny).tensors)
    body = struct.pack(">Q", 1) + b"a" + struct.pack(">II", 4, 7)
    file = tmp_path / "big.gguf"
    file.write_bytes(b"GGUF" + struct.pack(">IQQ", 3, 0, 1) + body)
    assert outline(file).values == {"a": 7}


def test_a_header_is_read_as_the_gguf_package_reads_it(tiny: Path) -> None:
    other, found, header = GGUFReader(tiny), outline(tiny), read_header(tiny)
    assert found.data_offset == other.data_offset
    assert [(t.name, t.kind, t.dims, t.bytes) for t in header.tensors] == [
        (t.name, t.tensor_type.name.lower(), tuple(map(int, t.shape)), t.n_bytes)
        for t in other.tensors
    ]
    for key, value in found.values.items():
        assert (field := other.get_field(key)) is not None and field.contents() == value
    words = other.get_field("tokenizer.ggml.tokens")
    assert words is not None and found.lengths["tokenizer.ggml.tokens"] == len(words.data)


@pytest.mark.parametrize("layers", [0, 2**31 - 1])
def test_layers_that_no_tensor_stands_for_are_no_list(
    tiny: Path, tmp_path: Path, layers: int
) -> None:
    content = bytearray(tiny.read_bytes())
    at = content.index(b"llama.block_count") + len(b"llama.block_count") + 4
    content[at : at + 4] = struct.pack("<I", layers)
    file = tmp_path / "deep.gguf"
    file.write_bytes(content)
    with pytest.raises(ParameterError, match=f"{layers} layers of width 256"):
        read_header(file)


def test_a_name_that_is_a_number_is_still_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_LATENCY_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "odd.gguf"
    numbers = (
        text(name) + struct.pack("<II", 4, 7) for name in (b"general.name", b"7.block_count")
    )
    arch = text(b"general.architecture") + struct.pack("<II", 4, 7)
    file.write_bytes(gguf(keys=3, body=arch + b"".join(numbers)))
    card = names.card("odd", file)
    assert (card.title, card.architecture, card.n_layer, card.why) == ("7", "7", 7, None)
