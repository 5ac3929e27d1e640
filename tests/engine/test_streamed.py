"""Answers over HTTP, from servers that only pretend."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest

from llm_latency.engine import streamed
from llm_latency.errors import EngineError

PAUSE_S = 0.05


@contextmanager
def answering(lines: Sequence[str], status: int = 200) -> Iterator[httpx.Client]:
    """Yield a client of a server that gives these lines to everybody, a pause before each."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(status)
            self.end_headers()
            for line in lines:
                time.sleep(PAUSE_S)
                self.wfile.write(f"{line}\n\n".encode())
                self.wfile.flush()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.server_address[1]}") as client:
            yield client
    finally:
        server.shutdown()
        server.server_close()


def test_each_chunk_has_the_stamp_at_which_it_came() -> None:
    said = [{"content": "a"}, {"content": ""}, {"content": "b"}, {"content": "", "stop": True}]
    with answering([f"data: {json.dumps(event)}" for event in said]) as client:
        answer = streamed.ask(client, "/completion", {"prompt": [1]})
    assert answer.events == said
    since = [stamp - answer.t0_s for stamp in answer.stamps_s]
    for number, passed_s in enumerate(since, 1):
        assert passed_s >= number * PAUSE_S
    assert answer.end_s >= answer.stamps_s[-1]
    counted = {"prompt_ms": 10.0, "predicted_ms": 20.0}
    timed = streamed.timings(answer, lambda event: event["content"], counted)
    assert timed.ttft_s == since[0]
    assert len(timed.itl_s) == 2  # a chunk without text is none that a client sees
    assert timed.decode_s == pytest.approx(since[2] - since[0])
    assert timed.binding_overhead_s == pytest.approx(timed.total_s - 0.03)


def test_no_garbage_is_collected_meanwhile() -> None:
    with pytest.raises(KeyError), streamed.undisturbed():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()


def test_comments_and_the_last_word_are_no_events() -> None:
    with answering([": ping", 'data: {"content": "a"}', "data: [DONE]"]) as client:
        answer = streamed.ask(client, "/completion", {})
    assert answer.events == [{"content": "a"}]
    assert len(answer.stamps_s) == 1


@pytest.mark.parametrize(
    ("lines", "status", "words"),
    [
        (['{"error": {"code": 400, "message": "too long"}}'], 400, "refused: too long"),
        (["<html>oh</html>"], 502, "status 502: <html>oh</html>"),
        (['data: {"error": {"message": "no room"}}'], 200, "refused: no room"),
        (['error: {"message": "no room"}'], 200, "refused: no room"),
        (["data: {half"], 200, "no JSON"),
    ],
)
def test_a_refusal_says_why(lines: list[str], status: int, words: str) -> None:
    with answering(lines, status) as client, pytest.raises(EngineError, match=words):
        streamed.ask(client, "/completion", {})
