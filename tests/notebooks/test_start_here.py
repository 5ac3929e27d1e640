"""The first notebook: it runs in seconds, and leads to every question in its order."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from llm_latency.__main__ import main
from llm_latency.questions import QUESTIONS
from llm_latency.questions import notebook as writer

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "start_here.ipynb"


def test_its_links_are_the_questions_in_their_order() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    (table,) = (cell.source for cell in cells if "| question |" in cell.source)
    rows = re.findall(r"(?m)^\| (.+) \| \[(\w+)\]\((\w+)\.ipynb\) \|$", table)
    assert rows == [(question.asks, name, name) for name, question in QUESTIONS.items()]


def test_it_has_no_parameters_to_be_written(tmp_path: Path) -> None:
    copy = tmp_path / NOTEBOOK.name
    copy.write_bytes(NOTEBOOK.read_bytes())
    writer.main([str(copy)])
    assert copy.read_text("utf-8") == NOTEBOOK.read_text("utf-8")


@pytest.mark.notebook
@pytest.mark.engine
def test_it_runs_and_its_page_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "out.ipynb"
    quiet = ["--no-progress-bar", "--log-level", "ERROR"]
    assert main(["run", str(NOTEBOOK), str(out), *quiet]) == 0
    page = out.with_suffix(".html").read_text(encoding="utf-8")
    assert "INCOMPLETE" not in page
    assert page.count("data:image/png") == 1
    assert re.search(r"1 of \d+ prompt tokens evaluated", page), "the prompt cache is shown"
