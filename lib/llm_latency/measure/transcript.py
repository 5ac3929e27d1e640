"""What a child reports, line by line, and how it ended; bounded, and nothing passed over.

A child that floods its pipe cannot fill this process's memory. A line that is no event is never
passed over, or a figure might be missing and nobody know.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from llm_latency.engine.protocol import Event

MAX_LINE_BYTES = 1 << 25
"""Longest line that is taken for an event; the times of a million tokens need less."""
MAX_BYTES = 1 << 30
"""Most that a child may report in all."""
EXTRA_EVENTS = 16
"""Events that a child may send beside one for each generation."""

StoppedAt = Literal["deadline", "standstill"]


@dataclass
class Transcript:
    """What a child reported, and how it ended.

    Attributes
    ----------
    max_events : int
        How many events it may report.
    phase : str
        What the child was at last doing.
    events : list of Event
        All that it reported, in order.
    final_event : Event or None
        The one that says how it ended, if it came so far.
    protocol_error : str or None
        Head of the first line that was no event, or one too many.
    stopped_at : str or None
        Why it was ended from here; ``None`` where it ended by itself.
    idle_limit_s : float
        How long it may do nothing, in seconds.
    received_bytes : int
        How much it has reported.
    exit_code : int
        Its exit code; negative: a signal.
    pid : int
        Its number.
    holder : int
        Number of the process that holds the model: the child, or one that it started.
    """

    max_events: int = EXTRA_EVENTS
    phase: str = "start"
    events: list[Event] = field(default_factory=list)
    final_event: Event | None = None
    protocol_error: str | None = None
    stopped_at: StoppedAt | None = None
    idle_limit_s: float = math.inf
    received_bytes: int = 0
    exit_code: int = 0
    pid: int = 0
    holder: int = 0

    def receive(self, line: bytes) -> None:
        """Take one line; half a line is what a child leaves that dies while it writes."""
        torn = not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES
        if torn and self.final_event is None:
            return
        try:
            event = Event.model_validate_json(line)
        except ValueError:
            event = None
        self.received_bytes += len(line)
        flood = len(self.events) >= self.max_events or self.received_bytes > MAX_BYTES
        if event is None or self.final_event is not None or flood:
            self.protocol_error = line[:80].decode("utf-8", "replace").strip()
            return
        self.events.append(event)
        self.holder = event.pid or self.holder
        if event.ended:
            self.final_event = event
        else:
            self.phase = event.phase

    def latest(self, name: str) -> object:
        """Return the latest value that was reported of an event's field; ``None``: none was."""
        values = (getattr(event, name) for event in reversed(self.events))
        return next((value for value in values if value is not None), None)
