"""The real notebook, by the real papermill, with the real llama.cpp."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm_latency.records.many import load_runs
from llm_latency.report.html import write_report

pytestmark = [pytest.mark.notebook, pytest.mark.engine]
ROOT = Path(__file__).parents[2]
PAPERMILL = shutil.which("papermill", path=str(Path(sys.executable).parent)) or "papermill"
SMALL = ("-p", "n_ctx", "[512, 768]", "-p", "prompt_tokens", "[32, 96]", "-p", "max_tokens", "8",
         "-p", "rounds", "1", "-p", "repeats", "0")  # fmt: skip


def papermill(
    arguments: list[str], outputs: Path, folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, LLM_LATENCY_OUTPUTS=str(outputs))
    return subprocess.run(
        [PAPERMILL, "--no-progress-bar", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_the_sweep_as_typed_in_its_folder(tmp_path: Path) -> None:
    """``cd notebooks && papermill sweep.ipynb out.ipynb -p n_batch 1024``."""
    out = tmp_path / "out.ipynb"
    done = papermill(
        ["sweep.ipynb", str(out), "-p", "n_batch", "1024"], tmp_path / "o", ROOT / "notebooks"
    )
    assert done.returncode == 0, done.stderr
    frame = load_runs(tmp_path / "o" / "runs" / "*")
    assert set(frame["n_batch"]) == {1024}
    # 1024 is not in force where the context is smaller: left out, and said.
    assert set(frame["n_ctx"]) == {1024, 2048}
    assert set(frame["status"]) == {"ok"}
    page = write_report(out).read_text(encoding="utf-8")
    assert "n_ubatch" in page  # why n_batch above it cannot matter
    assert "INCOMPLETE" not in page
    assert "n_batch=1024 beside n_ctx=512" in page


def test_the_sweep_from_the_root_and_its_report(tmp_path: Path) -> None:
    out = tmp_path / "sweep.ipynb"
    done = papermill(
        ["notebooks/sweep.ipynb", str(out), *SMALL, "-p", "n_batch", "[128, 256]"], tmp_path / "o"
    )
    assert done.returncode == 0, done.stderr
    frame = load_runs(tmp_path / "o" / "runs" / "*")
    assert len(frame) == 2 * 2 * 2 + 1  # and the twin
    assert set(frame["status"]) == {"ok"}
    page = write_report(out).read_text(encoding="utf-8")
    assert page.count("data:image/png") + page.count("<svg") >= 4
    assert not re.search(r"<script|(src|href)=.?https?:", page)
    assert "random weights" in page


def test_a_sweep_with_failed_cells_still_finishes(tmp_path: Path) -> None:
    out = tmp_path / "out.ipynb"
    more = ["-p", "n_ctx", "[512, 20000000]", "-p", "n_batch", "256", "-p", "run_id", "hard"]
    arguments = ["notebooks/sweep.ipynb", str(out), *SMALL, *more]
    done = papermill(arguments, tmp_path / "o")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "o" / "runs" / "hard"
    assert set(load_runs(run)["status"]) == {"ok", "oom"}
    page = write_report(out).read_text(encoding="utf-8")
    assert "oom" in page
    assert "failed to allocate" in page
    # The same again measures nothing anew.
    before = (run / "trials.jsonl").read_bytes()
    assert papermill(arguments, tmp_path / "o").returncode == 0
    assert (run / "trials.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("n_bacth", "1024", ["n_bacth=1024", "did you mean 'n_batch'"]),
        ("n_batch", "many", ["n_batch='many'", "integer"]),
        ("n_batch", "-5", ["n_batch=-5", "greater than or equal to 1"]),
        ("model", "nosuch.gguf", ["model='nosuch.gguf'", "does not exist"]),
    ],
)
def test_a_wrong_parameter_stops_the_notebook_before_a_model_loads(
    tmp_path: Path, name: str, value: str, words: list[str]
) -> None:
    out = tmp_path / "out.ipynb"
    done = papermill(["notebooks/sweep.ipynb", str(out), "-p", name, value], tmp_path / "o")
    assert done.returncode != 0
    assert not (tmp_path / "o").exists()
    errors = [
        output
        for cell in json.loads(out.read_text(encoding="utf-8"))["cells"]
        for output in cell.get("outputs", [])
        if output["output_type"] == "error"
    ]
    assert len(errors) == 1
    assert errors[0]["ename"] == "ParameterError"
    assert len(errors[0]["traceback"]) == 1  # the sentence, not the library's code
    for word in words:
        assert word in errors[0]["evalue"]
        assert word in done.stderr


def test_papermill_explains_every_parameter() -> None:
    done = papermill(["--help-notebook", "notebooks/sweep.ipynb"], ROOT / "outputs")
    cells = json.loads((ROOT / "notebooks" / "sweep.ipynb").read_text(encoding="utf-8"))["cells"]
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    names = re.findall(r"^(\w+):", "".join(tagged[0]["source"]), re.M)
    assert len(names) > 15
    for name in names:
        line = re.search(rf"^\s*{name}:.*(?:\n\s{{6,}}.*)*", done.stdout, re.M)
        assert line, name
        assert len(line.group()) > len(name) + 25, line.group()
