"""The notebook that asks everything, here of one question: the others say that they are empty."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_latency.__main__ import main
from llm_latency.questions import QUESTIONS
from llm_latency.records.many import load_runs

pytestmark = [pytest.mark.notebook, pytest.mark.engine]
NOTEBOOK = str(Path(__file__).parents[2] / "notebooks" / "everything.ipynb")


def test_one_page_begins_with_the_answers(tmp_path: Path, outputs: Path) -> None:
    out = tmp_path / "all.ipynb"
    few = ["-p", "questions", "batch_size", "-p", "rounds", "1", "-p", "run_id", "x"]
    quiet = ["--no-progress-bar", "--log-level", "ERROR"]
    assert main(["run", NOTEBOOK, str(out), *quiet, *few]) == 0
    assert set(load_runs(outputs / "runs" / "x-batch_size")["status"]) == {"ok"}
    page = (tmp_path / "all.html").read_text(encoding="utf-8")
    assert "INCOMPLETE" not in page
    assert QUESTIONS["batch_size"].asks.split("`")[-2] in page
    assert "was not run" not in page
    assert page.count("data:image/png") == 1
