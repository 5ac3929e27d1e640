"""``python -m llm_latency run``: papermill, then the report, and one sentence where it stops."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_latency.__main__ import main

pytestmark = [pytest.mark.notebook, pytest.mark.engine]
NOTEBOOK = str(Path(__file__).parents[2] / "notebooks" / "sweep.ipynb")
QUIET = ["--no-progress-bar", "--log-level", "ERROR"]


def test_a_run_leaves_notebook_and_report(
    tmp_path: Path, outputs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.ipynb"
    small = ["-p", "n_ctx", "512", "-p", "n_batch", "256", "-p", "prompt_tokens", "16",
             "-p", "max_tokens", "4", "-p", "rounds", "1", "-p", "repeats", "0"]  # fmt: skip
    assert main(["run", NOTEBOOK, str(out), *QUIET, *small]) == 0
    printed = capfd.readouterr()
    assert str(tmp_path / "out.html") in printed.out
    assert "encryption" not in printed.err  # a kernel's warning that it has none
    assert "INCOMPLETE" not in (tmp_path / "out.html").read_text(encoding="utf-8")
    assert list((outputs / "runs").glob("*/trials.jsonl"))


def test_a_run_that_stops_says_why_in_one_sentence(
    tmp_path: Path, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.ipynb"
    assert main(["run", NOTEBOOK, str(out), *QUIET, "-p", "n_bacth", "1024"]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("n_bacth=1024")
    assert "did you mean 'n_batch'" in said
    assert "INCOMPLETE" in (tmp_path / "out.html").read_text(encoding="utf-8")
    assert not outputs.exists()


def test_a_notebook_that_is_not_there_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(tmp_path / "nosuch.ipynb"), str(tmp_path / "out.ipynb"), *QUIET]) == 2
    assert "nosuch.ipynb" in capsys.readouterr().err
