"""``python -m llm_latency`` with what cannot be right: one sentence, an exit code, no traceback."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm_latency.__main__ import main

ROOT = Path(__file__).parents[1]
VERSION_2 = str(ROOT / "tests" / "data" / "version-2")
SWEEP = str(ROOT / "notebooks" / "sweep.ipynb")


def said(capsys: pytest.CaptureFixture[str]) -> str:
    err = capsys.readouterr().err.strip()
    assert "Traceback" not in err
    return err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report", "nosuch.ipynb"], "does not exist; give the path of an executed notebook"),
        (["report", "."], "cannot be read"),
        (["report", __file__], "is not a notebook"),
        (["report", "a\0b"], "cannot be read"),
        (["report", "x" * 5000], "cannot be read"),
        (["run", "nosuch.ipynb", "out.ipynb"], "is no file"),
        (["run", str(ROOT / "notebooks"), "out.ipynb"], "is no file"),
        (["run", str(ROOT / "notebooks" / "swep.ipynb"), "o.ipynb"], "did you mean 'sweep.ipynb'"),
        (["run", __file__, "out.ipynb"], "check the notebook"),
        (["run", SWEEP, "no/such/folder/out.ipynb"], "'no/such/folder' is no folder"),
        (["run", SWEEP, "out.ipynb", "-f", "nosuch.yaml"], "nosuch.yaml"),
        (["run", SWEEP, "out.ipynb", "-f", __file__], "check the notebook"),
        (["run", SWEEP, "out.ipynb", "-y", "[1, 2"], "check the notebook"),
        (["run", SWEEP, "out.ipynb", "-p", "n_ctx"], "-p"),
        (["run", SWEEP, "out.ipynb", "--colour"], "--colour"),
        (["run", SWEEP, "out.ipynb", "-k", "cobol"], "check the notebook"),
        (["compare", "a"], "give two or more"),
        (["compare", "a", "b"], "Give the run_id of a stored run"),
        (["export", "bmf", "no/such/folder/x.json", VERSION_2], "cannot be written"),
        (["export", "bmf", "x.json", "nosuch"], "Give the run_id of a stored run"),
    ],
)
def test_what_cannot_be_right_is_one_sentence(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert words in said(capsys)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".html"]


@pytest.mark.parametrize("arguments", [[], ["doctr"], ["doctor", "now"], ["report"], ["run", "a"]])
def test_what_argparse_refuses(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "error: " in said(capsys)


def test_runs_are_compared_in_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    other = str(ROOT / "tests" / "data" / "version-1")
    assert main(["compare", VERSION_2, VERSION_2]) == 0
    assert "The same run: paired round by round" in capsys.readouterr().out
    assert main(["compare", other, VERSION_2]) == 0
    told = capsys.readouterr().out
    assert "version-1 and version-2 have no cell in common" in told
    assert "Intel(R) Xeon(R) Processor" in told and "AMD EPYC" in told
    assert "&#" not in told and "**" not in told


@pytest.mark.parametrize("kind", ["bmf", "llama-bench"])
def test_a_run_is_written_for_other_tools(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x"
    assert main(["export", kind, str(file), VERSION_2]) == 0
    assert str(file) in capsys.readouterr().out and file.stat().st_size


def test_one_damaged_run_does_not_hide_the_others(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in (("a", "{"), ("b", '{"plan": {"cells": [], "rounds": 1}}')):
        (outputs / "runs" / name).mkdir(parents=True)
        (outputs / "runs" / name / "run.json").write_text(content)
    assert main(["runs"]) == 1
    captured = capsys.readouterr()
    assert "run.json" in captured.err and "Traceback" not in captured.err


@pytest.mark.parametrize("place", ["taken", "~no-such-user/x", "taken/below"])
def test_outputs_that_cannot_be_written_stop_a_run_before_a_model_is_made(
    tmp_path: Path, place: str
) -> None:
    """A file stands where the folder should: root itself cannot write there."""
    (tmp_path / "taken").write_text("a file")
    named = place if place.startswith("~") else str(tmp_path / place)
    code = (
        "import llm_latency as lab\n"
        "try: lab.run(lab.experiments.sweep(n_ctx=512, rounds=1), progress=False)\n"
        "except lab.LabError as error: print('LabError:', error)"
    )
    told = dict(os.environ, LLM_LATENCY_OUTPUTS=named, LLM_LATENCY_CACHE=str(tmp_path / "cache"))
    done = subprocess.run(
        [sys.executable, "-c", code], env=told, cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stdout.startswith("LabError:") and "LLM_LATENCY_OUTPUTS" in done.stdout, done.stderr
    assert len(done.stdout.strip().splitlines()) == 1
    assert not (tmp_path / "cache").exists(), "a model was made before the place was looked at"


def test_a_run_is_packed_by_a_command(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (outputs / "runs").mkdir(parents=True)
    stored = ROOT / "tests" / "data" / "version-1"
    assert main(["pack", str(stored)]) == 0
    told, checksum = capsys.readouterr().out.splitlines()
    file = outputs / "version-1.zip"
    assert told == str(file)
    assert checksum == f"SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()}"
    for arguments, words in (
        (["nosuch"], "Give the run_id of a stored run"),
        ([str(file)], "in one file already"),
        ([str(stored), "x.tar"], "does not end in .zip"),
        ([str(stored), str(tmp_path / "no" / "x.zip")], "give the pack another place"),
        ([str(stored), "--report", "nosuch.html"], "give the files of the run"),
    ):
        assert main(["pack", *arguments]) == 2
        assert words in said(capsys)
    (tmp_path / "half.zip").write_bytes(file.read_bytes()[:-9])
    assert main(["pack", str(tmp_path / "half.zip")]) == 2
    assert "is no whole archive" in said(capsys)
