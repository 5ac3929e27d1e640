"""What the questions' tests share: figures are closed, and notebooks are carried out for real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from llm_latency.records.many import load_runs
from llm_latency.report.html import write_report
from tests.support.pages import CarriedOut, plain

matplotlib.use("agg")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def carried_out(tmp_path: Path) -> CarriedOut:
    """Return a function that runs a notebook by papermill, with parameters typed as text.

    It returns the rows of what was measured, and the page of the report as its reader sees it:
    finished, and with a figure.
    """

    def carry_out(name: str, **parameters: Any) -> tuple[pd.DataFrame, str]:
        out = tmp_path / f"{name}.ipynb"
        program = shutil.which("papermill", path=str(Path(sys.executable).parent)) or "papermill"
        typed = (word for key, value in parameters.items() for word in ("-p", key, str(value)))
        done = subprocess.run(
            [program, "--no-progress-bar", f"notebooks/{name}.ipynb", str(out), *typed],
            cwd=ROOT,
            # A cache of its own: another process that has the file mapped would keep it in RAM.
            env=os.environ
            | {
                "LLM_LATENCY_OUTPUTS": str(tmp_path / "o"),
                "LLM_LATENCY_CACHE": str(tmp_path / "cache"),
            },
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        page = write_report(out).read_text(encoding="utf-8")
        assert "INCOMPLETE" not in page
        assert page.count("data:image/png") + page.count("<svg") >= 1
        return load_runs(tmp_path / "o" / "runs" / "*"), plain(page)

    return carry_out
