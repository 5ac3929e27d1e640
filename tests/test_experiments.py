"""The questions' parameters: taken, understood or refused before anything is made or loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from factories import FakeChild

import llm_latency as lab
from llm_latency import experiments, models
from llm_latency.errors import ParameterError
from llm_latency.experiments.notebook import defaults
from llm_latency.store import RunStore


@pytest.fixture(autouse=True)
def nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a plan must not touch a model")

    monkeypatch.setattr(models, "resolve", refuse)


def test_the_default_sweep_is_three_by_three() -> None:
    plan = experiments.sweep()
    cells = {(c.settings.n_ctx, c.settings.n_batch) for c in plan.cells}
    assert len(cells) == 9
    assert plan.parameters["n_ctx"] == [512, 1024, 2048]


def test_every_grid_parameter_takes_one_value_or_a_list() -> None:
    plan = experiments.sweep(
        n_ctx="[512, 1024]", n_batch=256, use_mmap=[True, "false"], type_k=["f16", "q8_0"],
        n_threads=[0, 1], prompt_tokens="16",
    )  # fmt: skip
    assert len(plan.cells) == 2 * 2 * 2 * 2 + 1  # and the twin
    assert [c.twin for c in plan.cells].count(True) == 1
    assert {c.settings.n_threads for c in plan.cells} == {None, 1}
    assert {c.settings.use_mmap for c in plan.cells} == {True, False}
    assert {c.workload.prompt_tokens for c in plan.cells} == {16}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n_batch": "many"}, ["n_batch='many'", "integer"]),
        ({"n_batch": -5}, ["n_batch=-5", "greater than or equal to 1"]),
        ({"n_batch": "-5"}, ["n_batch=-5"]),
        ({"n_batch": [512, 0]}, ["n_batch=0"]),
        ({"n_ctx": []}, ["n_ctx=[]"]),
        ({"n_ctx": "512,1024"}, ["n_ctx='512,1024'"]),
        ({"use_mlock": "oui"}, ["use_mlock='oui'"]),
        ({"model": "nosuch.gguf"}, ["model='nosuch.gguf'", "does not exist"]),
        ({"model": "synthetic:tyni"}, ["tyni", "tiny"]),
        ({"model": "hf:owner/file"}, ["hf:owner/repo/file.gguf"]),
        ({"model": ""}, ["model=''"]),
        ({"prompt_tokens": 0}, ["prompt_tokens=0"]),
        ({"max_tokens": "many"}, ["max_tokens='many'"]),
        ({"warm_up": "tea"}, ["warm_up='tea'", "'batch'"]),
        ({"rounds": 0}, ["rounds=0"]),
        ({"repeats": -1}, ["repeats=-1"]),
        ({"timeout_s": 0}, ["timeout_s=0"]),
        ({"run_id": "../up"}, ["run_id='../up'"]),
        ({"type_v": "q9"}, ["type_v='q9'"]),
    ],
)
def test_wrong_parameters_are_one_sentence(given: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ParameterError) as caught:
        experiments.sweep(**given)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def notebook(**names: Any) -> dict[str, Any]:
    return {"In": ["", "n_ctx = 512"], "n_ctx": 512, "n_batch": 256, **names}


def test_a_notebooks_variables_become_the_plan() -> None:
    plan = experiments.from_notebook("sweep", notebook(scratch=5, lab=object()))
    assert {c.settings.n_ctx for c in plan.cells} == {512}
    assert {c.settings.n_batch for c in plan.cells} == {256}


def test_a_misspelt_injected_parameter_stops_the_notebook() -> None:
    cells = ["", "n_ctx = 512", "# Parameters\nn_bacth = 1024\nn_ctx = 512\n"]
    with pytest.raises(ParameterError, match=r"n_bacth=1024.*did you mean 'n_batch'"):
        experiments.from_notebook("sweep", notebook(In=cells, n_bacth=1024))


def test_the_users_own_variables_are_not_parameters() -> None:
    cells = ["", "# Parameters\nn_ctx = 512\n", "n_bacth = 3  # the user's own"]
    assert experiments.from_notebook("sweep", notebook(In=cells, n_bacth=3)).cells


def test_the_shown_error_is_the_sentence_alone() -> None:
    error = ParameterError("n_batch=-5 is refused.")
    assert error._render_traceback_() == ["ParameterError: n_batch=-5 is refused."]


def test_a_stored_run_named_alone_brings_its_own_plan(
    outputs: Path, fake_child: FakeChild, monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    monkeypatch.setattr(models, "resolve", lambda *_, **__: tiny)
    fake_child('send(phase="end", engine=dict(version="1", system_info="", gpu_offload=False, '
               'devices=[]), ended="done")')  # fmt: skip
    made = experiments.sweep(n_ctx=512, n_batch=256, rounds=1, run_id="kept")
    run = lab.run(made, progress=False)
    usual = {key: value for key, value in defaults(experiments.sweep).items() if key != "run_id"}
    alone = experiments.from_notebook("sweep", usual | {"run_id": "kept"})
    assert alone.plan_id == made.plan_id
    # Nothing is measured again.
    before = (run.path / "trials.jsonl").read_bytes()
    lab.run(alone, progress=False)
    assert (run.path / "trials.jsonl").read_bytes() == before
    # With other parameters it is another question, and the run is not touched.
    other = experiments.from_notebook("sweep", usual | {"run_id": "kept", "n_ctx": 1024})
    with pytest.raises(ParameterError, match="holds another plan"):
        lab.run(other, progress=False)


def test_a_run_of_another_question_is_refused(
    outputs: Path, fake_child: FakeChild, monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    plan = experiments.sweep(n_ctx=512, rounds=1, run_id="kept")
    RunStore.create(outputs / "runs" / "kept", {"plan": plan.model_dump(mode="json")
                    | {"experiment": "warm_up"}})  # fmt: skip
    with pytest.raises(ParameterError, match="run_id='kept' is a run of warm_up"):
        experiments.from_notebook("sweep", defaults(experiments.sweep) | {"run_id": "kept"})
