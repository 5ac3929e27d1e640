"""The end of every page: what failed only where something did, and always how it was measured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llm_latency.plan.settings import Settings
from llm_latency.records.record import Record
from llm_latency.report import appendix as module
from tests.support import factories


def heads(monkeypatch: pytest.MonkeyPatch, records: list[Record]) -> list[str]:
    """Return the headings that the appendix of a run shows."""
    shown: list[Any] = []
    monkeypatch.setattr(module, "display", lambda *pieces: shown.extend(pieces))
    frame = factories.to_frame(records)
    run = SimpleNamespace(frame=lambda: frame, info=factories.info(), path=Path("runs/run-1"))
    module.appendix(run)
    texts = [str(piece.data) for piece in shown if hasattr(piece, "data")]
    return [text.removeprefix("## ") for text in texts if text.startswith("## ")]


ALWAYS = ["Method", "Machine and model", "Data"]


def test_where_all_is_well_nothing_is_said_of_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    assert heads(monkeypatch, [factories.record(as_in_force())]) == ALWAYS


def test_failures_and_settings_not_in_force_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = factories.record(as_in_force(), failure=("oom", "no room"))
    rounded = factories.record(as_in_force(n_ctx=1000))
    assert heads(monkeypatch, [failed, rounded]) == [
        "Settings that are not in force as asked",
        "Trials that did not end well",
        *ALWAYS,
    ]


def as_in_force(n_ctx: int = 1024) -> Settings:
    """Return settings of which llama.cpp leaves all but ``n_ctx`` as they are."""
    return Settings(
        n_ctx=n_ctx, n_batch=512, n_ubatch=512, n_gpu_layers=0, n_threads=2, n_threads_batch=2
    )
