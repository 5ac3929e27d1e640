"""What tests share: a place for outputs, the smallest model, and children that only pretend."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_latency.measure.job import WORKER_VARIABLE
from llm_latency.model import names
from tests.support.factories import FakeChild


@pytest.fixture(scope="session", autouse=True)
def lock_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the tests apart from a run that measures on this machine, and from other tests."""
    path = tmp_path_factory.mktemp("lock") / "machine.lock"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_LATENCY_LOCK", str(path))
        yield path


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Send all that runs leave to a folder of the test's own."""
    folder = tmp_path / "outputs"
    monkeypatch.setenv("LLM_LATENCY_OUTPUTS", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny() -> Path:
    """Return the file of the smallest synthetic model."""
    return names.resolve("synthetic:tiny")


@pytest.fixture
def fake_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeChild:
    """Return a function that puts a few lines of Python in the place of the real worker.

    The lines find the request as ``request`` and send events with ``send(**event)``.
    """
    head = """
        import json, os, signal, sys, time
        request = json.loads(sys.stdin.readline())
        def send(**event):
            print(json.dumps(event), flush=True)
        def answer(repeat=0, ttft_s=0.1, evaluated=None):
            prompt = request["trial"]["workload"]["prompt_tokens"]
            count = request["trial"]["workload"]["max_tokens"]
            itl = [ttft_s] + [0.01] * (count - 1)
            send(phase=f"generation {repeat + 1}", generation=dict(
                repeat=repeat, prompt_tokens=prompt, evaluated_tokens=evaluated or prompt,
                generated_tokens=count, finish_reason="length",
                timings=dict(ttft_s=ttft_s, prefill_s=ttft_s, decode_s=sum(itl[1:]),
                             total_s=sum(itl), itl_s=itl, engine_prefill_s=ttft_s,
                             engine_decode_s=sum(itl[1:]))))
    """

    def install(lines: str) -> None:
        script = tmp_path / "fake_worker.py"
        script.write_text(textwrap.dedent(head) + textwrap.dedent(lines), encoding="utf-8")
        monkeypatch.setenv(WORKER_VARIABLE, json.dumps([sys.executable, str(script)]))

    return install
