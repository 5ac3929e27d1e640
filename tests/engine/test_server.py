"""The real llama-server, of the installed engine, on the smallest synthetic model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from llm_latency.engine import programs, prompts
from llm_latency.engine.served import ServedModel
from llm_latency.engine.timed import TimedModel
from llm_latency.errors import EngineError, LabError
from llm_latency.measure import runner
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Plan, Trial
from llm_latency.plan.workload import Workload

pytestmark = pytest.mark.engine
ASKED = Settings(n_ctx=1024, n_batch=256, n_ubatch=128, n_threads=1, type_k="q8_0")


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    try:
        programs.llama_server()
    except LabError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def served(tiny: Path) -> Iterator[ServedModel]:
    model = ServedModel(tiny, ASKED)
    yield model
    model.close()


def test_what_is_asked_is_in_force_as_without_a_server(served: ServedModel, tiny: Path) -> None:
    with TimedModel(tiny, ASKED) as model:
        assert served.effective == model.effective
        assert served.buffers.kv_bytes == model.buffers.kv_bytes
        assert served.buffers.weights_bytes == model.buffers.weights_bytes
        assert served.tokenize("Bonjour, toi") == model.tokenize("Bonjour, toi")
        assert (served.begins, served.beginning) == (model.begins, model.beginning)
        assert prompts.passage(served, 50) == prompts.passage(model, 50)
    parts = served.load.backend_init_s + served.load.model_load_s + served.load.context_s
    assert parts == pytest.approx(served.load.load_s)
    assert min(served.load.model_load_s, served.load.context_s) > 0
    assert served.log.warnings() == []
    assert "CPU" in (served.system_info or "")


def test_every_cache_mode_is_proven_by_the_servers_own_count(served: ServedModel) -> None:
    tokens = prompts.passage(served, 200)
    for prefix in (0, 0, 150, 199, 100, 0):  # longer and shorter than what it holds
        answer = served.generate(tokens, 4, length="fixed", prefix_tokens=prefix)
        assert (answer.problem, answer.evaluated_tokens) == (None, 200 - prefix)
        assert (answer.generated_tokens, answer.refilled_tokens) == (4, 0)
        assert answer.timings.ttft_s <= answer.timings.total_s
        assert answer.timings.binding_overhead_s > 0


def test_a_text_is_asked_as_its_tokens_are(served: ServedModel) -> None:
    text = "Bonjour, comment vas-tu ?"
    said = served.generate(text, 6, length="fixed")
    meant = served.generate(served.tokenize(text), 6, length="fixed")
    assert said.text == meant.text
    assert said.evaluated_tokens == len(served.tokenize(text))


def test_a_broken_promise_is_a_problem(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = prompts.passage(served, 60)
    served.generate(tokens[:30], 1)
    monkeypatch.setattr(served.kv_cache, "prime", lambda tokens: 0)
    answer = served.generate(tokens, 1, prefix_tokens=50)
    assert answer.problem == "a prefix of 50 tokens was asked, but 30 tokens were in the KV cache"


def test_what_does_not_fit_is_refused_in_the_servers_words(served: ServedModel) -> None:
    with pytest.raises(EngineError, match="context size"):
        served.generate(prompts.passage(served, 1030), 1)


def test_what_llama_cpp_refuses_has_its_reason(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="flash_attn"):
        ServedModel(tiny, Settings(n_ctx=512, type_v="q8_0"))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny.read_bytes()[:200_000])
    with pytest.raises(EngineError, match="damaged or cut short"):
        ServedModel(broken, Settings(n_ctx=512))


def test_a_real_run_through_the_server(tiny: Path, outputs: Path) -> None:
    def cell(order: int, **asked: Any) -> Trial:
        workload = Workload(via="server", max_tokens=4, **asked)
        settings = Settings(n_ctx=1024, n_threads=1)
        return Trial(
            experiment="sweep", model="synthetic:tiny", settings=settings, workload=workload,
            order=order,
        )  # fmt: skip

    kept = {"conversation": "fr", "cache_mode": "kept", "repeats": 4}
    prefix = {"prompt_tokens": 64, "cache_mode": "prefix", "prefix_tokens": 40}
    cold = {"prompt_tokens": 64}
    cells = (cell(0, **kept), cell(1, **prefix), cell(2, **cold), cell(3, **cold, at_once=2))
    plan = Plan(experiment="sweep", model="synthetic:tiny", cells=cells, rounds=1)
    run = runner.run(plan, progress=False)
    df = run.frame()
    assert set(df["status"]) == {"ok"}, df["reason"].unique()
    chat = df[df["cache_mode"] == "kept"].sort_values("repeat")
    new = chat["prompt_tokens"].diff().iloc[1:]
    assert len(chat) == 5
    assert chat["evaluated_tokens"].iloc[0] == chat["prompt_tokens"].iloc[0]
    # All but the new message was said before, its answer too.
    assert (chat["evaluated_tokens"].iloc[1:] < new).all()
    assert set(df[df["cache_mode"] == "prefix"]["evaluated_tokens"]) == {24}
    assert set(df[df["cache_mode"] == "cold"]["evaluated_tokens"]) == {64}
    two = df["at_once"] == 2
    assert (df[two]["together_tps"] > df[two]["generated_tokens"] / df[two]["total_s"]).all()
    alone = df[~two]["generated_tokens"] / df[~two]["total_s"]
    assert df[~two]["together_tps"].to_numpy() == pytest.approx(alone.to_numpy())
    for record in run.records():
        before, first = record.memory["before"], record.memory["after_first"]
        # The server's memory, in which the model's file is; not that of Python.
        assert before.rss_bytes == 0
        assert first.places["model_file"] >= 0.9 * tiny.stat().st_size
        assert "python" not in first.places
        assert record.load is not None
        assert record.load.load_s < record.child_s
        assert record.exit_code == 0


START = """
import sys, time
from pathlib import Path
from llm_latency.engine.served import ServedModel
from llm_latency.measure import runner
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Plan, Trial
from llm_latency.plan.workload import Workload
model = ServedModel(Path(sys.argv[1]), Settings(n_ctx=512))
print(model.pid, flush=True)
while True:
    model.generate("Bonjour", 64, length="fixed")
"""


def started(tiny: Path) -> tuple[subprocess.Popen[str], psutil.Process]:
    """Return a process that asks a server of its own without end, and that server."""
    client = subprocess.Popen(
        [sys.executable, "-c", START, str(tiny)], stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    return client, psutil.Process(int(client.stdout.readline()))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the parent sees to it")
def test_a_server_dies_with_the_process_that_started_it(tiny: Path) -> None:
    client, server = started(tiny)
    client.kill()
    client.wait()
    until_s = time.perf_counter() + 5
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
        assert time.perf_counter() < until_s
        time.sleep(0.01)


def test_whoever_asks_ends_as_the_server_did(tiny: Path) -> None:
    client, server = started(tiny)
    os.kill(server.pid, signal.SIGABRT)
    assert client.wait(timeout=30) == -signal.SIGABRT
