"""A run of several engines: each asked what it is, held to it, and measured by its own worker."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import llm_latency as lab
from llm_latency.errors import LabError, ParameterError
from llm_latency.measure import engines
from llm_latency.measure.resume import check_offload
from llm_latency.questions.engines import View
from llm_latency.questions.engines import plan as ask
from llm_latency.records.store import RunStore
from tests.support.factories import FakeWorker


def short(tiny: Path, **options: Any) -> lab.Plan:
    usual: dict[str, Any] = {
        **{
            "engine": ["home", "again"],
            "prompt_tokens": 8,
            "max_tokens": 3,
            "n_ctx": 256,
            "n_threads": 1,
        },
        **{"rounds": 1, "repeats": 0, "run_id": "kept"},
    }
    return ask(model=str(tiny), **usual | options)


def test_an_engine_that_is_not_here_is_refused_before_anything(tiny: Path, outputs: Path) -> None:
    with pytest.raises(ParameterError, match=r"engine='agian'.*did you mean 'again'"):
        lab.run(short(tiny, engine=["home", "agian"]), progress=False)
    assert not outputs.exists()


@pytest.mark.engine
def test_one_environment_under_two_names_is_measured_as_two(
    tiny: Path, outputs: Path, fake_worker: FakeWorker
) -> None:
    run = lab.run(short(tiny), progress=False)
    frame = run.frame()
    assert set(frame["status"]) == {"ok"} and list(frame["twin"]).count(True) == 1
    assert sorted(frame["engine"]) == ["again", "home", "home"]
    assert set(View(run).measured) == {"home", "again"}
    (card,) = run.info["engines"].values()
    assert card["engine"]["system_info"] == run.info["engine"]["system_info"]
    assert card["versions"] == run.info["versions"]
    assert card["build"] == run.info["machine"]["engine_build"]
    assert len(run.info["foretold"]) == 1
    # The further trials may be anything: what is asked is whether one goes on.
    fake_worker("answers")
    more = short(tiny, rounds=2)
    (run.path / "run.json").write_text(
        json.dumps(run.info | {"plan": more.model_dump(mode="json"), "plan_id": more.plan_id})
    )
    info = RunStore(run.path).info
    told = {"again": card}
    assert engines.changed(info, told) is None
    other = card | {"engine": card["engine"] | {"system_info": "CPU : AVX2 = 1 |"}}
    assert engines.changed(info, {"again": other}) is not None
    with pytest.raises(LabError, match=r"with another engine 'again' .*CPU.*give a new run_id"):
        lab.run(more, progress=False)  # the worker that pretends is another engine


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("raise SystemExit('no such module')", r"'odd' does not hold the lab \(no such module\)"),
        ('print(\'{"build": {}, "versions": {"llm-latency-lab": "0.0.1"}}\')',
         r"'odd' belongs to version 0\.0\.1 of the lab, and this is \d.*make it with"),
        ("print('hello')", r"'odd' does not hold the lab"),
    ],
)  # fmt: skip
def test_an_environment_without_this_lab_is_refused(
    script: str, words: str, tiny: Path, outputs: Path, engine_beside: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    python = tmp_path / "odd" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (tmp_path / "odd.py").write_text(script)
    # A first line with a space in its path names no interpreter.
    python.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{tmp_path / 'odd.py'}'\n")
    python.chmod(0o755)
    monkeypatch.setenv("LLM_LATENCY_ENGINES", str(tmp_path))
    with pytest.raises(LabError, match=words):
        lab.run(short(tiny, engine=["home", "odd"]), progress=False)
    assert not list(outputs.glob("runs/*/trials.jsonl"))


def test_layers_are_put_on_a_device_of_the_engine_that_has_one() -> None:
    card = {"gpu_offload": False}
    info = {"engine": card, "engines": {"wide": {"engine": {"gpu_offload": True}}},
            "model": {"n_layer": 8}}  # fmt: skip
    sweep = lab.experiments.sweep
    check_offload(sweep(engine="wide", n_gpu_layers=3), info)
    with pytest.raises(LabError, match="n_gpu_layers=3 is refused"):
        check_offload(sweep(engine=["wide", "home"], n_gpu_layers=3), info)
