"""Kill anything at any moment: nothing is lost, nothing is there twice, and nothing lives on."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import llm_latency as lab
from llm_latency.measure.trial import carry_out
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Start, Trial
from llm_latency.plan.workload import Workload
from llm_latency.records.folders import TrialFiles
from llm_latency.records.record import Record
from tests.support import jobs
from tests.support.factories import FakeChild

ROOT = Path(__file__).parents[2]
GONE_S = 10.0
SMALL = {
    "n_ctx": 256, "n_batch": 256, "n_threads": 1, "n_threads_batch": 1, "prompt_tokens": 16,
    "max_tokens": 4, "repeats": 0, "run_id": "both", "wait_s": 120,
}  # fmt: skip
MEASURE = (
    "import json, sys; import llm_latency as lab; "
    "lab.run(lab.experiments.sweep(**json.loads(sys.argv[1])), progress=False)"
)
LONG = """
import sys
from pathlib import Path
from llm_latency.measure.trial import carry_out
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Trial
from llm_latency.plan.workload import Workload
from tests.support.jobs import job
trial = Trial(
    experiment="t", model="m",
    settings=Settings(n_ctx=8192, n_batch=8192, n_threads=1, n_threads_batch=1, n_gpu_layers=0),
    workload=Workload(prompt_tokens=int(sys.argv[1]), max_tokens=int(sys.argv[2])))
carry_out(job(Path(sys.argv[3]), trial, timeout_s=600))
"""
WAITING = """
import subprocess, sys
from llm_latency.measure.job import worker_command
subprocess.Popen(worker_command(), stdin=subprocess.PIPE).wait()
"""


def worker_of(parent: subprocess.Popen[bytes]) -> psutil.Process:
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        for found in psutil.Process(parent.pid).children():
            with contextlib.suppress(psutil.Error):
                if "llm_latency.engine.worker" in found.cmdline():
                    return found
        time.sleep(0.005)
    raise AssertionError("there is no child")


@pytest.mark.engine
@pytest.mark.parametrize(
    ("what", "lines", "tokens", "after_s"),
    [
        ("waits for its request", WAITING, (), 0.5),
        ("starts", LONG, (4, 8000), 0.0),
        ("loads", LONG, (4, 8000), 0.3),
        ("evaluates a long prompt in one call", LONG, (8000, 4), 1.5),
        ("decodes", LONG, (4, 8000), 1.5),
    ],
)
def test_a_child_does_not_outlive_its_parent(
    tmp_path: Path, what: str, lines: str, tokens: tuple[int, ...], after_s: float
) -> None:
    arguments = [*(str(number) for number in tokens), str(tmp_path)]
    parent = subprocess.Popen([sys.executable, "-c", lines, *arguments], cwd=ROOT)
    left = worker_of(parent)
    time.sleep(after_s)
    assert left.is_running(), f"the child {what} no longer"
    parent.kill()
    parent.wait()
    try:
        left.wait(timeout=GONE_S)  # by itself, it would go on for longer than that
    finally:
        if left.is_running():
            left.kill()


@pytest.mark.engine
def test_two_processes_that_go_on_with_one_run_share_it(outputs: Path) -> None:
    """Under different locks, as on two machines that share a disk, the run's own holds."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MEASURE, json.dumps(SMALL)],
            env=dict(os.environ, LLM_LATENCY_LOCK=str(outputs.parent / f"{number}.lock")),
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert sum("Waiting up to 120 s: " in text for text in said) == 1
    lines = (outputs / "runs" / "both" / "trials.jsonl").read_bytes().splitlines()
    done = [Record.model_validate_json(line).trial.trial_id for line in lines]
    assert sorted(done) == sorted(t.trial_id for t in lab.open_run("both").plan.trials())


@pytest.mark.parametrize("left", ["no card", "half a card", "half a state", "all"])
def test_a_state_is_trusted_only_with_its_card(
    tmp_path: Path, fake_child: FakeChild, left: str
) -> None:
    fake_child(
        """
        state = request["state_path"]
        if request.get("make_state"):
            open(state, "wb").write(b"new state")
            send(phase="end", ended="done",
                 state=dict(tokens=4, bytes=9, evaluate_s=0.1, save_s=0.1))
        else:
            answer(0); send(phase="end", ended="done", cpu_s=0.0)
        """
    )
    trial = Trial(
        experiment="t",
        model="m",
        settings=Settings(),
        workload=Workload(prompt_tokens=8, prefix_tokens=4, cache_mode="prefix", repeats=0),
        start=Start(warm_up="restored_state"),
    )
    state = TrialFiles(tmp_path, trial).state
    state.parent.mkdir()
    state.write_bytes(b"old" if left == "half a state" else b"old state")
    card = {"tokens": 4, "bytes": 9, "evaluate_s": 7.0, "save_s": 7.0}
    text = json.dumps(card)
    if left != "no card":
        state.with_suffix(".json").write_text(text[:20] if left == "half a card" else text)
    found = carry_out(jobs.job(tmp_path, trial)).state
    assert found is not None
    assert (state.read_bytes(), found.evaluate_s) == (
        (b"old state", 7.0) if left == "all" else (b"new state", 0.1)
    )
    assert sorted(path.suffix for path in state.parent.iterdir()) == [".json", ".state"]


@pytest.mark.engine
def test_a_few_kills_through_the_real_engine() -> None:
    """The short form of ``python -m benchmarks.faults kills``."""
    lines = (
        "from benchmarks.faults import kills; "
        "kills.ROUNDS.update(child=3, parent=1); "
        "print(*kills.report(6), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    verdict = done.stdout.splitlines()[-1]
    assert verdict.startswith(
        "6 kills (4 child, 2 parent, 0 kernel): 0 records lost, 0 twice, 0 of "
    )
    assert "0 orphans" in verdict
