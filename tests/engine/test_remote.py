"""Servers that are already there: one that only pretends, and a real llama-server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from llm_latency.engine import programs
from llm_latency.engine.remote import KEY_VARIABLE, RemoteModel
from llm_latency.engine.server import Server
from llm_latency.errors import EngineError, LabError
from llm_latency.measure import runner
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Plan, Trial
from llm_latency.plan.workload import Sampling, Workload

pytestmark = pytest.mark.engine


@contextmanager
def pretending(usage: Mapping[str, Any] | None = None) -> Iterator[tuple[str, list[Any]]]:
    """Yield the address of a server that answers three words, and what it was asked."""
    asked: list[Any] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say({"data": [{"id": "some-model", "owned_by": "somebody"}]})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, json.loads(body), self.headers["Authorization"]))
            self.send_response(200)
            self.end_headers()
            for word in ("one ", "two ", "three"):
                part = {"delta": {"content": word}} if "chat" in self.path else {"text": word}
                self._event({"choices": [part | {"finish_reason": None}]})
            self._event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
            if usage is not None:
                self._event({"choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")

        def _say(self, content: Mapping[str, Any]) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def _event(self, content: Mapping[str, Any]) -> None:
            self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_that_tells_nothing_proves_nothing(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    with pretending() as (address, asked):
        answer = RemoteModel(tiny, address).generate("Bonjour", 8, sampling=Sampling(top_k=3))
    ((path, body, key),) = asked
    assert (path, body["prompt"], key) == ("/v1/completions", "Bonjour", "Bearer secret")
    assert not {"cache_prompt", "ignore_eos", "top_k"} & set(body)
    assert answer.text == "one two three"
    assert (answer.evaluated_tokens, answer.cached_tokens, answer.problem) == (None, None, None)
    assert len(answer.timings.itl_s) == 3
    assert answer.timings.engine_prefill_s is None
    assert answer.timings.binding_overhead_s is None
    assert answer.unproven is not None
    assert "evaluated" in answer.unproven
    assert "sampling" in answer.unproven


def test_what_a_server_counts_is_a_proof(tiny: Path) -> None:
    usage = {"prompt_tokens": 40, "completion_tokens": 3, "prompt_tokens_details": None}
    with pretending(usage) as (address, _):
        answer = RemoteModel(tiny, address).generate("Bonjour", 3, length="fixed")
    assert (answer.prompt_tokens, answer.generated_tokens, answer.problem) == (40, 3, None)
    assert answer.evaluated_tokens is None
    usage["prompt_tokens_details"] = {"cached_tokens": 30}
    with pretending(usage) as (address, _):
        model = RemoteModel(tiny, address)
        cold, kept = (model.generate("Bonjour", 8, prefix_tokens=n) for n in (0, 5))
        short = model.generate("Bonjour", 8, length="fixed", prefix_tokens=5)
    assert cold.problem == "cold was asked, but 30 tokens were in the KV cache"
    assert (kept.evaluated_tokens, kept.cached_tokens, kept.problem) == (10, 30, None)
    assert short.problem == "8 tokens were to be generated, 3 came"


def test_nobody_there_is_one_sentence(tiny: Path) -> None:
    for address in ("http://127.0.0.1:9", "nonsense", "http://127.0.0.1:9/v1/"):
        with pytest.raises(EngineError, match="does not answer as OpenAI's server does"):
            RemoteModel(tiny, address)


def test_a_real_run_against_a_server_that_is_there(
    tiny: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        programs.llama_server()
    except LabError as error:
        pytest.skip(str(error))
    server = Server(tiny, Settings(n_ctx=2048, n_threads=1))
    monkeypatch.setenv(KEY_VARIABLE, server.key)
    address = f"{server.address}/v1"

    def cell(order: int, **asked: Any) -> Trial:
        workload = Workload(via="openai", address=address, max_tokens=4, repeats=2, **asked)
        return Trial(
            experiment="sweep", model="synthetic:tiny", settings=Settings(), workload=workload,
            order=order,
        )  # fmt: skip

    cells = (cell(0, prompt_tokens=64), cell(1, conversation="fr", cache_mode="kept"))
    plan = Plan(experiment="sweep", model="synthetic:tiny", cells=cells, rounds=1)
    try:
        run = runner.run(plan, progress=False)
        server.client.get("/health").raise_for_status()  # it is not ours, and lives on
    finally:
        server.close()
    df = run.frame()
    assert set(df["status"]) == {"ok"}, df["reason"].unique()
    cold = df[df["cache_mode"] == "cold"]
    assert (cold["evaluated_tokens"] == cold["prompt_tokens"]).all()
    assert set(df["generated_tokens"]) == {4}
    chat = df[df["cache_mode"] == "kept"].sort_values("repeat")
    assert (chat["cached_tokens"].iloc[1:] > 0).all()
    assert set(df["unproven"]) == {"its settings"}
    assert df["rss_bytes"].isna().all()
    stored = (run.path / "trials.jsonl").read_text() + (run.path / "run.json").read_text()
    assert server.key not in stored
