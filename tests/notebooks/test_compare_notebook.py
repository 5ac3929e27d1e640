"""The notebook that measures nothing: stored runs in, one page out."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_latency.__main__ import main
from tests.support.pages import plain

ROOT = Path(__file__).parents[2]


@pytest.mark.notebook
def test_two_stored_runs_become_a_page(tmp_path: Path, outputs: Path) -> None:
    out = tmp_path / "out.ipynb"
    runs = f'["{ROOT}/tests/data/version-2", "{ROOT}/tests/data/h200", "{ROOT}/tests/data/h200"]'
    quiet = ["--no-progress-bar", "--log-level", "ERROR"]
    notebook = str(ROOT / "notebooks" / "compare.ipynb")
    assert main(["run", notebook, str(out), *quiet, "-p", "runs", runs]) == 0
    page = plain(out.with_suffix(".html").read_text(encoding="utf-8"))
    assert "INCOMPLETE" not in page and "no cell in common" in page
    assert page.count("data:image/png") == 1 and "AMD EPYC" in page
    assert not outputs.exists()
