"""A few of ``python -m benchmarks.faults parameters``: refused before anything is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llm_latency.__main__ import main
from llm_latency.questions import QUESTIONS
from tests.support.wrong_parameters import ROOT, WRONG, environment, left_behind, refuse_all

pytestmark = pytest.mark.notebook
FEW = [one for one in WRONG if (one.notebook, one.name) in {
    ("sweep", "n_bacth"), ("warm_up", "question_tokens"), ("everything", "questions"),
    ("calibration", "model"), ("sweep", "prefix_tokens"), ("memory_ledger", "bugdet"),
    ("advise", "prompt_file"),
}]  # fmt: skip


def test_wrong_parameters_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    assert len(FEW) == 7
    assert [(str(one.wrong), one.problem) for one in refuse_all(FEW, tmp_path) if one.problem] == []


def test_an_import_of_the_engine_would_be_seen(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", "import llama_cpp"], env=environment(tmp_path), check=True
    )
    assert [name for name in left_behind(tmp_path) if name.startswith("marks/")]


def test_a_name_that_cannot_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = ["--no-progress-bar", "--log-level", "ERROR"]
    arguments = ["run", str(ROOT / "notebooks" / "sweep.ipynb"), str(tmp_path / "out.ipynb")]
    assert main([*arguments, *quiet, "-y", "n-batch: 1024"]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("a parameter's name cannot be one") and "such as n_batch" in said


def test_every_question_has_its_share() -> None:
    assert len(WRONG) >= 100 and len({str(one) for one in WRONG}) == len(WRONG)
    assert {one.notebook for one in WRONG} == set(QUESTIONS)
