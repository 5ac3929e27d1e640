"""A run goes on where it was begun, with what it was begun with, or not at all."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

import llm_latency as lab
from llm_latency.errors import LabError, ParameterError
from llm_latency.measure.resume import check_offload
from llm_latency.model import names
from llm_latency.records.store import RunStore
from tests.support.factories import FakeWorker


@pytest.fixture
def begun(
    outputs: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> Any:
    """Return a function that stores a run, changes what it stands on, and goes on with it."""
    monkeypatch.setattr(names, "resolve", lambda *_, **__: tiny)
    fake_worker("answers")

    def go_on(change: dict[str, Any], stop: int = 1) -> RunStore:
        plan = lab.experiments.sweep(
            n_ctx=512, n_batch=256, prompt_tokens=16, max_tokens=2, rounds=1, run_id="kept"
        )
        run = lab.run(plan, progress=False)
        lines = (run.path / "trials.jsonl").read_text().splitlines(keepends=True)
        (run.path / "trials.jsonl").write_text("".join(lines[:stop]))
        info = json.loads((run.path / "run.json").read_text())
        for part, values in change.items():
            info[part] |= values
        (run.path / "run.json").write_text(json.dumps(info))
        return lab.run(plan, progress=False)

    return go_on


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"machine": {"machine_id": "x", "cpu": "another CPU"}}, "on another machine"),
        ({"versions": {"llama_cpp_python": "0.0.1"}}, "with another engine .*0.0.1, here"),
        ({"model": {"sha256": "0" * 64}}, "with another model file"),
    ],
)
def test_a_run_is_of_one_machine_one_engine_and_one_file(
    begun: Any, change: dict[str, Any], words: str, outputs: Path
) -> None:
    with pytest.raises(LabError, match=rf"'kept' was begun {words}.*give a new run_id"):
        begun(change)
    assert len(RunStore(outputs / "runs" / "kept").records()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"machine": {"machine_id": "the same, in a new container"}},
        {"machine": {"machine_id": None}, "versions": {"llama_cpp_python": None}},
    ],
)
def test_it_goes_on_where_nothing_that_matters_has_changed(
    begun: Any, change: dict[str, Any]
) -> None:
    assert begun(change).complete


def test_a_complete_run_is_read_anywhere(begun: Any) -> None:
    change = {"machine": {"machine_id": "x", "cpu": "another CPU"}, "model": {"sha256": "0"}}
    assert begun(change, stop=99).complete


@pytest.mark.parametrize(("layers", "refused"), [(0, False), (3, True), (8, True), (9, False)])
def test_some_layers_need_a_device(layers: int, refused: bool) -> None:
    plan = lab.experiments.sweep(n_gpu_layers=layers)
    info = {"engine": {"gpu_offload": False}, "model": {"n_layer": 8}}
    with pytest.raises(LabError) if refused else contextlib.nullcontext():
        check_offload(plan, info)
    check_offload(plan, info | {"engine": {"gpu_offload": True}})


def test_a_cpu_that_is_not_ours_is_refused_before_anything_is_loaded(outputs: Path) -> None:
    plan = lab.experiments.sweep(n_ctx=512, n_batch=256, cores=[60_000])
    with pytest.raises(ParameterError, match=r"cores=\[60000\] is refused"):
        lab.run(plan, progress=False)
    assert not (outputs / "runs").exists()
