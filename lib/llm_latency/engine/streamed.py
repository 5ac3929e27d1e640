"""One answer over HTTP, stamped as it comes: server-sent events, one line for each chunk of text.

The clock starts before the request is written and ends when the answer is closed: what a client
waits for, the way there and back included. Nothing is read out of a line while the clock runs.
"""

from __future__ import annotations

import contextlib
import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import httpx

from llm_latency.errors import EngineError
from llm_latency.records.generation import Timings

ENGINE_MS = ("prompt_ms", "predicted_ms")
"""llama.cpp's own count of a prompt and of the tokens after it, by its servers' names."""
TextOf = Callable[[Mapping[str, Any]], str]
"""What returns the text that an event brings."""


class Streamed(NamedTuple):
    """What came, and when."""

    t0_s: float
    stamps_s: list[float]
    end_s: float
    events: list[dict[str, Any]]

    def stamps_of(self, text: TextOf) -> list[float]:
        """Return the stamps of the events that bring text: a client sees no others."""
        pairs = zip(self.stamps_s, self.events, strict=True)
        return [stamp for stamp, event in pairs if text(event)]

    def first_s(self, text: TextOf) -> float:
        """Return when the first text came; where none did, the end."""
        return next(iter(self.stamps_of(text)), self.end_s)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let Python collect no garbage while the context lasts."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def client(address: str, key: str | None = None) -> httpx.Client:
    """Return what asks a server: one connection per question, for it may close any of them.

    Parameters
    ----------
    address
        Where it listens, ``http://host:port``.
    key
        The key that it asks for.
    """
    return httpx.Client(
        base_url=address,
        headers={"Authorization": f"Bearer {key}"} if key else {},
        limits=httpx.Limits(max_keepalive_connections=0),
        timeout=None,  # the trial has a deadline
        trust_env=False,
    )


def ask(client: httpx.Client, path: str, body: Mapping[str, Any]) -> Streamed:
    """Ask for an answer in a stream, and return its events with their stamps.

    Raises
    ------
    EngineError
        If the server refuses, with its own reason.
    httpx.TransportError
        If it is not there, or goes away.
    """
    lines: list[str] = []
    stamps: list[float] = []
    clock = time.perf_counter
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
    t0_s = clock()
    asked = json.dumps(body)
    with client.stream("POST", path, content=asked, headers=headers) as response:
        if response.is_error:
            raise EngineError(_refusal(response.status_code, response.read()))
        for line in response.iter_lines():
            if line:
                stamps.append(clock())
                lines.append(line)
    end_s = clock()
    came = [(stamp, _event(line)) for stamp, line in zip(stamps, lines, strict=True)]
    kept = [(stamp, event) for stamp, event in came if event is not None]
    return Streamed(t0_s, [stamp for stamp, _ in kept], end_s, [event for _, event in kept])


def timings(answer: Streamed, text: TextOf, counted: Mapping[str, Any]) -> Timings:
    """Return the stamps of an answer as durations in seconds, with the server's own count."""
    stamps, first_s = answer.stamps_of(text), answer.first_s(text)
    last_s = stamps[-1] if stamps else answer.end_s
    engine = [counted[name] / 1e3 if name in counted else None for name in ENGINE_MS]
    return Timings(
        ttft_s=first_s - answer.t0_s,
        prefill_s=None,
        decode_s=last_s - first_s,
        total_s=answer.end_s - answer.t0_s,
        itl_s=[b - a for a, b in zip([answer.t0_s, *stamps], stamps, strict=False)],
        engine_prefill_s=engine[0],
        engine_decode_s=engine[1],
    )


def _event(line: str) -> dict[str, Any] | None:
    """Return what one line tells; ``None`` where it tells nothing."""
    head, _, text = line.partition(":")
    if head not in ("data", "error") or text.strip() == "[DONE]":
        return None
    try:
        event = json.loads(text)
    except ValueError:
        raise EngineError(f"the server sent what is no JSON: {line[:80]!r}") from None
    if head == "error" or "error" in event:
        raise EngineError(_reason(event))
    return dict(event)


def _refusal(status: int, content: bytes) -> str:
    try:
        return _reason(json.loads(content))
    except ValueError:
        said = " ".join(content.decode("utf-8", "replace").split())[:200]
        return f"the server answered with HTTP status {status}: {said or 'no word'}"


def _reason(told: Any) -> str:
    error = told.get("error", told) if isinstance(told, dict) else told
    said = error.get("message", error) if isinstance(error, dict) else error
    return f"the server refused: {' '.join(str(said).split())[:300]}"
