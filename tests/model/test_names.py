"""Where a GGUF comes from and what its header says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llm_latency.errors import ParameterError
from llm_latency.model import names, synthetic


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLM_LATENCY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_names_are_checked_without_touching_a_model(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "my model é.gguf"
    file.write_bytes(b"x")
    assert names.check(str(file)) == str(file)
    assert names.check("Synthetic:Tiny") == "synthetic:tiny:q8_0"
    assert names.check("hf:o/r/f.gguf@abc") == "hf:o/r/f.gguf@abc"
    assert not cache.exists()


def test_a_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "m.gguf").write_bytes(b"x")
    assert names.check("~/m.gguf") == str(tmp_path / "m.gguf")


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "zephyr-7b.gguf").write_bytes(b"x")
    with pytest.raises(ParameterError, match=r"does not exist.*did you mean 'zephyr-7b.gguf'"):
        names.check(str(tmp_path / "zephir-7b.gguf"))
    with pytest.raises(ParameterError, match="is a folder"):
        names.check(str(tmp_path))


def test_what_only_looks_split_is_taken() -> None:
    assert names.check("hf:o/r/x-00001-of-00001.gguf") == "hf:o/r/x-00001-of-00001.gguf"


def test_the_card_tells_what_the_header_says(tiny: Path, cache: Path) -> None:
    card = names.card("synthetic:tiny", tiny)
    shape = synthetic.SHAPES["tiny"]
    assert card.architecture == "llama"
    assert card.quantisation == "Q8_0"
    assert (card.n_layer, card.n_embd, card.n_head_kv) == (
        shape.n_layer,
        shape.n_embd,
        shape.n_head_kv,
    )
    assert (card.n_vocab, card.n_ctx_train) == (shape.n_vocab, shape.n_ctx_train)
    assert card.kv_bytes_per_token == 4096
    assert card.size_bytes == tiny.stat().st_size
    assert card.notice == synthetic.RANDOM_WEIGHTS_NOTICE
    assert (cache / "cards").is_dir()
    # The same file by its path is no synthetic model to the lab, whatever was asked first.
    assert names.card(str(tiny), tiny).notice is None
    assert names.card("synthetic:tiny", tiny) == card


def test_the_checksum_is_kept_and_follows_the_file(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"abc")
    first = names.card("m", file)
    assert first.sha256.startswith("ba7816bf")  # SHA-256 of abc
    assert first.notice is None
    assert "cannot be read" in str(first.why)
    assert names.card("other name", file).name == "other name"
    file.write_bytes(b"abd")
    os.utime(file, ns=(1, 1))
    assert names.card("m", file).sha256 != first.sha256
