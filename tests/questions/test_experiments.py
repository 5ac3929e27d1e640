"""The questions' parameters: taken, understood or refused before anything is made or loaded."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_latency as lab
from llm_latency import experiments
from llm_latency.errors import LabError, ParameterError
from llm_latency.memory import frontier
from llm_latency.model import names as models
from llm_latency.plan.builder import LEFT_TO_THE_ENGINE
from llm_latency.plan.parameters import shown
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Plan, Start
from llm_latency.plan.workload import Workload
from llm_latency.questions import QUESTIONS, module
from llm_latency.questions.notebook import defaults
from llm_latency.records.store import RunStore
from tests.support.factories import FakeWorker


@pytest.fixture(autouse=True)
def nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a plan must not touch a model")

    monkeypatch.setattr(models, "resolve", refuse)
    monkeypatch.setattr(models, "skeleton", refuse)


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
        ({"wait_s": -1}, ["wait_s=-1", "greater than or equal to 0"]),
        ({"wait_s": "an hour"}, ["wait_s='an hour'", "number"]),
        ({"wait_s": float("inf")}, ["wait_s=inf", "finite"]),
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
    outputs: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    monkeypatch.setattr(models, "resolve", lambda *_, **__: tiny)
    fake_worker("measures_nothing")
    made = experiments.sweep(n_ctx=512, n_batch=256, rounds=1, run_id="kept")
    run = lab.run(made, progress=False)
    usual = {key: value for key, value in defaults(experiments.sweep).items() if key != "run_id"}
    alone = experiments.from_notebook("sweep", usual | {"run_id": "kept"})
    assert alone.plan_id == made.plan_id
    # Nothing is measured again.
    before = (run.path / "trials.jsonl").read_bytes()
    lab.run(alone, progress=False)
    assert (run.path / "trials.jsonl").read_bytes() == before
    # How long to wait for others is no other question.
    patient = experiments.from_notebook("sweep", usual | {"run_id": "kept", "wait_s": 7})
    assert (patient.plan_id, patient.wait_s) == (made.plan_id, 7.0)
    # With other parameters it is another question, and the run is not touched.
    other = experiments.from_notebook("sweep", usual | {"run_id": "kept", "n_ctx": 1024})
    with pytest.raises(ParameterError, match="holds another plan"):
        lab.run(other, progress=False)


def test_a_run_of_another_question_is_refused(
    outputs: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    plan = experiments.sweep(n_ctx=512, rounds=1, run_id="kept")
    RunStore.create(outputs / "runs" / "kept", {"plan": plan.model_dump(mode="json")
                    | {"experiment": "warm_up"}})  # fmt: skip
    with pytest.raises(ParameterError, match="run_id='kept' is a run of warm_up"):
        experiments.from_notebook("sweep", defaults(experiments.sweep) | {"run_id": "kept"})


GIVEN = [
    # what is given, and what it plainly means
    *((value, value) for value in (None, True, False, 0, -1, 1, 512, 2**31 - 1, 2**40, 10**5000)),
    *((value, value) for value in (0.0, 0.5, 512.0, -0.5, 1e300, float("nan"), float("inf"))),
    *((text, text) for text in ("", " ", "many", "many\nlines", "nan", "é", "../x", "con")),
    *((text, text) for text in ("a\0b", "~no-such-user/x", "x" * 300, "9" * 5000, "[" * 3000)),
    (" 512 ", 512),
    ("512.0", 512.0),
    ("1_000", 1000),
    ("1e-3", 0.001),
    ("true", True),
    ("null", None),
    ("-Infinity", float("-inf")),
    ("[512, 1024]", [512, 1024]),
    ("[true, false]", [True, False]),
    ([], []),
    ([[]], [[]]),
    ([512, [1024]], [512, [1024]]),
    (["512", "true"], [512, True]),
    ((256, 512), [256, 512]),
    (range(3), [0, 1, 2]),
    (range(10**30), range(10**30)),
    ({}, {}),
    ({1: 2, "b": 3}, {1: 2, "b": 3}),
    ({512}, {512}),
    (b"512", b"512"),
    (object, object),
    (np.int64(512), 512),
    (np.float64("nan"), float("nan")),
    (np.bool_(True), True),
    (np.array([256, 512]), [256, 512]),
    (Path("x"), os.fspath("x")),
]
PLANNERS = {**{name: module(name).plan for name in QUESTIONS}, "frontier": frontier.plan}
DIRECT = {*Settings.model_fields, *Workload.model_fields, *Start.model_fields}


def in_cells(plan: Plan, name: str) -> set[Any]:
    parts = ("settings", "workload", "start")
    return {
        getattr(getattr(cell, part), name)
        for cell in plan.cells
        for part in parts
        if name in type(getattr(cell, part)).model_fields
    }


@pytest.mark.parametrize("name", sorted(PLANNERS))
def test_whatever_is_given_is_planned_as_it_stands_or_refused_by_name(name: str) -> None:
    usual = {key: value for key, value in defaults(PLANNERS[name]).items() if key != "options"}
    for parameter, (value, meaning) in itertools.product(usual, GIVEN):
        try:
            plan = PLANNERS[name](**{parameter: value})
        except ParameterError as error:
            said = str(error)
            assert parameter in said, said
            assert "\n" not in said and len(said) < 1500, said
            continue
        if parameter == "run_id":
            # A name is taken letter by letter; of numbers, those that are written one way only.
            assert isinstance(value, str) or type(meaning) in (int, type(None))
            assert ("" if value is None else str(value).strip()) in (plan.run_id or "")
        elif parameter == "prompt":  # letter by letter, too
            assert plan.parameters[parameter] is value
            assert in_cells(plan, "prompt") == {value or None}
        elif (name, parameter) not in {("everything", "questions"), ("frontier", "rounds")}:
            assert repr(plan.parameters[parameter]) == repr(meaning), (parameter, value)
        # A list of CPUs is one value, one request at once is none of several, and an address is
        # of one way alone.
        if name == "sweep" and parameter in DIRECT - {"cores", "prompt", "at_once", "address"}:
            wanted = meaning if isinstance(meaning, list) else [meaning]
            none = {"0"} if parameter in LEFT_TO_THE_ENGINE else set()
            found = {shown(v) for v in in_cells(plan, parameter)}
            found |= {
                shown(v) for v in wanted if f"{parameter}={v} beside" in " ".join(plan.left_out)
            }
            assert found == {"None" if shown(v) in none else shown(v) for v in wanted}
        if name != "everything":  # of which each part is one of the others
            assert type(plan).model_validate_json(plan.model_dump_json()) == plan


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = SCALARS | st.lists(SCALARS, max_size=4) | st.dictionaries(SCALARS, SCALARS, max_size=2)
TYPED = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
CHEAP = ("cold_start", "max_tokens", "conversation", "memory_locking", "sweep", "warm_up")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_whatever_is_typed_or_handed_over_is_planned_or_refused(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(CHEAP))
    parameter = data.draw(st.sampled_from(list(defaults(PLANNERS[name]))))
    value = data.draw(VALUES | TYPED.map(lambda v: json.dumps(v)))
    try:
        plan = PLANNERS[name](**{parameter: value})
    except ParameterError as error:
        assert parameter in str(error) and "\n" not in str(error)
    else:
        assert type(plan).model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize("name", sorted(PLANNERS))
def test_a_name_that_nothing_is_called_by_is_refused_with_the_nearest(name: str) -> None:
    others = {"everything": ("sede", "seed"), "compare": ("run", "runs")}
    wrong, near = others.get(name, ("max_tokns", "max_tokens"))
    with pytest.raises(ParameterError, match=wrong) as caught:
        PLANNERS[name](**{wrong: 1})
    assert f"did you mean {near!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("sweep", {"n_ctx": 512, "prompt_tokens": 500, "max_tokens": 32}),
        ("sweep", {"n_ctx": [2048, 512], "prompt_tokens": [64, 490]}),
        ("cold_start", {"n_ctx": 64, "max_tokens": 60}),
        ("warm_runs", {"prompt_tokens": 500}),
        ("prompt_size", {"prompt_tokens": 500, "max_tokens": 32, "n_ctx": 512}),
        ("max_tokens", {"max_tokens": [8, 16, 2048], "held_out": 8}),
        ("batch_size", {"n_ctx": 1024}),
        ("memory_locking", {"prompt_tokens": 500}),
        ("memory_ledger", {"n_ctx": 512}),
        ("knobs", {"n_ctx": 512}),
        ("advise", {"n_ctx": 512, "prompt_tokens": 500}),
    ],
)
def test_a_prompt_and_an_answer_that_do_not_fit_are_refused_before_anything_runs(
    name: str, given: dict[str, Any]
) -> None:
    with pytest.raises(ParameterError) as caught:
        PLANNERS[name](**given)
    for word in ("n_ctx=", "prompt_tokens=", "max_tokens="):
        assert word in str(caught.value)


def test_what_just_fits_is_planned() -> None:
    plan = experiments.sweep(n_ctx=512, prompt_tokens=480, max_tokens=32)
    assert {c.workload.prompt_tokens for c in plan.cells} == {480}


def test_a_grid_that_nobody_would_measure_is_refused_at_once() -> None:
    with pytest.raises(ParameterError, match=r"n_ctx × n_batch are 1,000,000 combinations"):
        experiments.sweep(n_ctx=range(1000, 2000), n_batch=range(1, 1001))


@pytest.mark.parametrize("folder", ["a folder", "Zéphyr (β) 7B", "b[1]*?", "x" * 200])
def test_a_model_lies_where_it_lies(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / folder
    place.mkdir()
    file = place / "m é.gguf"
    file.write_bytes(b"GGUF")
    link = tmp_path / "link.gguf"
    link.symlink_to(file)
    monkeypatch.setenv("HOME", str(place))
    for name in (str(file), file, str(link), "~/m é.gguf"):
        plan = experiments.sweep(model=name)  # type: ignore[arg-type]
        assert Path(plan.model).samefile(file)
    for name in (str(place), str(file) + "x", str(place / "m e.gguf")):
        with pytest.raises(ParameterError, match="model="):
            experiments.sweep(model=name)


@pytest.mark.parametrize(
    ("run_id", "name"),
    [
        ("", None), ("  ", None), (None, None), ("a", "a"), ("été-1.b_2", "été-1.b_2"),
        (20260101, "20260101"), ("x" * 100, "x" * 100), ("console", "console"), ("null", "null"),
    ],
)  # fmt: skip
def test_names_that_a_run_can_have(run_id: Any, name: str | None) -> None:
    assert experiments.sweep(run_id=run_id).run_id == name


@pytest.mark.parametrize(
    "run_id",
    ["../x", "a/b", "a\\b", ".hidden", "-x", "x.", "con", "NUL.txt", "lpt1", "a b", "x" * 101,
     "é" * 101, "日" * 80, "a\nb", "a\0b", "a:b", 1.5, True, ["a"]],
)  # fmt: skip
def test_names_that_a_run_cannot_have_on_every_system(run_id: Any) -> None:
    for planner in (experiments.sweep, experiments.calibration, experiments.everything):
        with pytest.raises(ParameterError, match="run_id="):
            planner(run_id=run_id)


def test_a_cell_of_the_users_own_with_ipythons_words_is_none_of_papermills() -> None:
    cells = ["", "# Parameters of mine\n%time n_bacth = 1\n"]
    assert experiments.from_notebook("sweep", notebook(In=cells)).cells


def test_a_newer_plan_is_not_guessed_at(outputs: Path) -> None:
    plan = experiments.sweep(n_ctx=512, rounds=1, run_id="kept").model_dump(mode="json")
    RunStore.create(outputs / "runs" / "kept", {"plan": plan | {"colour": "blue"}})
    with pytest.raises(LabError, match=r"run\.json.*'colour'.*update the lab"):
        experiments.from_notebook("sweep", defaults(experiments.sweep) | {"run_id": "kept"})


@pytest.mark.parametrize(
    ("question", "name", "instead"),
    [("cold_start", "use_mlock", "reading"), ("advise", "n_batch", "n_ubatch")],
)
def test_an_option_that_a_question_sets_is_refused_with_what_to_give(
    question: str, name: str, instead: str
) -> None:
    cell = f"# Parameters\n{name} = True"
    with pytest.raises(ParameterError, match=f"{name}=True is refused.*; give {instead}"):
        experiments.from_notebook(question, {"In": [cell], name: True})


def test_what_does_not_go_together_is_left_out_and_told() -> None:
    plan = experiments.sweep(n_ctx=[512, 4096], n_batch=[256, 2048], n_ubatch=[0, 512])
    sizes = {(c.settings.n_ctx, c.settings.n_batch, c.settings.n_ubatch) for c in plan.cells}
    assert sizes == {(512, 256, None), (4096, 256, None), (4096, 2048, None), (4096, 2048, 512)}
    assert set(plan.left_out) == {
        "n_batch=2048 beside n_ctx=512",
        "n_ubatch=512 beside n_batch=256",
    }
    assert [cell.twin for cell in plan.cells].count(True) == 1
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    with pytest.raises(ParameterError, match="n_ubatch=512 beside n_batch=128"):
        experiments.sweep(n_batch=[128, 256], n_ubatch=512)
    advised = experiments.advise(type_v="q8_0", n_ubatch=64)
    assert {cell.settings.flash_attn for cell in advised.cells} == {True}
    assert len(advised.left_out) == 1 and advised.cells[-1].twin


def test_a_default_batch_is_what_the_context_holds() -> None:
    plan = experiments.warm_runs(n_ctx=256, prompt_tokens=64)
    assert {cell.settings.n_batch for cell in plan.cells} == {256} and plan.left_out == ()
