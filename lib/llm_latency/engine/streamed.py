"""One answer over HTTP, stamped as it comes: server-sent events, one line for each chunk of text.

The clock starts before the request is written and ends when the answer is closed: what a client
waits for, the way there and back included. Nothing is read out of a line while the clock runs.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx

from llm_latency.errors import EngineError


class Streamed(NamedTuple):
    """What came, and when."""

    t0_s: float
    stamps_s: list[float]
    end_s: float
    events: list[dict[str, Any]]


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
    gc.collect()
    gc.disable()
    try:
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
    finally:
        gc.enable()
    came = [(stamp, _event(line)) for stamp, line in zip(stamps, lines, strict=True)]
    kept = [(stamp, event) for stamp, event in came if event is not None]
    return Streamed(t0_s, [stamp for stamp, _ in kept], end_s, [event for _, event in kept])


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
