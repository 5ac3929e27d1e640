"""Settings, plans and the values that the command line mangles."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llm_latency.errors import ParameterError
from llm_latency.plan.parameters import (
    as_list,
    build,
    check_sizes,
    closed,
    grid,
    plain,
    shown,
    whole,
)
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Plan, Start, Trial
from llm_latency.plan.workload import Sampling, Workload


def trial(**settings: object) -> Trial:
    return Trial(
        experiment="t",
        model="m",
        settings=Settings(**settings),  # type: ignore[arg-type]
        workload=Workload(prompt_tokens=8),
    )


def plan(**changes: object) -> Plan:
    cells = tuple(trial(n_ctx=n) for n in (256, 512, 768, 1024))
    return Plan(**({"experiment": "t", "model": "m", "cells": cells, "rounds": 3} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n_bacth": 512}, ["n_bacth", "did you mean 'n_batch'?"]),
        ({"n_batch": "many"}, ["n_batch='many'", "integer", "prompt tokens"]),
        ({"n_batch": -5}, ["n_batch=-5", "greater than or equal to 1"]),
        ({"n_batch": 512.0}, ["n_batch=512.0", "integer"]),
        ({"n_batch": True}, ["n_batch=True", "integer"]),
        ({"use_mmap": "yes"}, ["use_mmap='yes'", "boolean"]),
        ({"n_ctx": 2**31}, ["n_ctx=2147483648", "2147483647"]),
        ({"n_gpu_layers": -2}, ["n_gpu_layers=-2", "-1"]),
        ({"type_k": "q3"}, ["type_k='q3'", "'q8_0'"]),
        ({"n_batch": 2048, "n_ctx": 512}, ["n_batch=2048", "n_ctx=512", "n_batch=512 or less"]),
        ({"n_ubatch": 512, "n_batch": 128}, ["n_ubatch=512", "n_batch=128"]),
        ({"n_ubatch": 1024}, ["n_ubatch=1024", "n_batch=512"]),
        ({"type_v": "q8_0"}, ["type_v='q8_0'", "flash_attn=true", "type_v='f16'"]),
    ],
)
def test_a_wrong_setting_is_one_sentence_with_name_value_and_remedy(
    values: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ParameterError) as caught:
        build(Settings, values)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_what_nobody_gave_goes_with_any_context() -> None:
    assert build(Settings, {"n_ctx": 256}).n_batch == 512
    assert build(Settings, {"type_v": "bf16"}).conflict is None
    assert build(Settings, {"type_v": "q4_0", "flash_attn": True}).conflict is None


def test_a_workload_has_exactly_one_prompt() -> None:
    for values in ({}, {"prompt": "a", "prompt_tokens": 3}, {"prompt": ""}):
        with pytest.raises(ParameterError, match="prompt"):
            build(Workload, values)
    assert build(Workload, {"prompt": "a"}).prompt_tokens is None


@pytest.mark.parametrize(
    ("given_", "understood"),
    [
        ("[512, 1024]", [512, 1024]),
        ("true", True),
        ("False", False),
        ("null", None),
        ("12", 12),
        ("1e-3", 0.001),
        ("many", "many"),
        ("none", "none"),
        ("[512", "[512"),
        ("-5", -5),
        ("f16", "f16"),
        (7, 7),
        (" 512 ", 512),
        ("1_000", 1000),
        ("1__0", "1__0"),
        ("1_000_", "1_000_"),
        ("007", "007"),
        ("５", "５"),
        ("0x10", "0x10"),
        ("9" * 5000, "9" * 5000),
        ("[" * 5000, "[" * 5000),
        ('["512", "true"]', [512, True]),
        ((1, "2"), [1, 2]),
        (Path("a b.gguf"), str(Path("a b.gguf"))),
        (np.int64(512), 512),
        (np.bool_(True), True),
        (np.array([1, 2]), [1, 2]),
        (range(10**30), range(10**30)),
        (b"512", b"512"),
        ({"a": "1"}, {"a": "1"}),
    ],
)
def test_text_that_is_plainly_a_value_becomes_it(given_: object, understood: object) -> None:
    assert plain(given_) == understood
    assert type(plain(given_)) is type(understood)


def test_a_grid_parameter_takes_one_value_or_a_list() -> None:
    assert as_list("n_ctx", 512) == [512]
    assert as_list("n_ctx", "[512, 1024]") == [512, 1024]
    assert as_list("n_ctx", (512, "1024", 512)) == [512, 1024]
    assert as_list("x", [1, True]) == [1, True]  # equal in Python, not the same value
    with pytest.raises(ParameterError, match=r"n_ctx=\[\]"):
        as_list("n_ctx", "[]")


@given(st.lists(st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False), min_size=1))
def test_json_lists_survive_the_command_line(values: list[object]) -> None:
    assert as_list("x", json.dumps(values)) == as_list("x", values)


def test_the_grid_holds_every_combination_once() -> None:
    cells = grid({"a": [1, 2], "b": ["x", "y", "z"]})
    assert len(cells) == 6
    assert {(c["a"], c["b"]) for c in cells} == {(a, b) for a in (1, 2) for b in "xyz"}


def test_identifiers_depend_on_what_determines_the_result_and_on_nothing_else() -> None:
    one = trial(n_ctx=512)
    assert one.cell_id == trial(n_ctx=512).cell_id
    assert one.cell_id == one.model_copy(update={"round": 3, "order": 9}).cell_id
    assert one.cell_id != trial(n_ctx=513).cell_id
    assert one.cell_id != one.model_copy(update={"model": "other"}).cell_id
    assert one.trial_id != one.model_copy(update={"round": 1}).trial_id


def test_new_settings_leave_old_identifiers_alone() -> None:
    """As the version before them gave them."""
    assert trial(flash_attn=True).cell_id == "ad215a0adcf4"
    assert trial(flash_attn=False).cell_id == trial().cell_id == "c9c67472352f"
    ids = {trial(**new).cell_id for new in (
        {}, {"flash_attn": "auto"}, {"swa_full": False}, {"n_cpu_moe": 2},
        {"op_offload": False},
    )}  # fmt: skip
    assert len(ids) == 5


def test_rounds_hold_every_cell_and_are_shuffled_by_the_seed() -> None:
    trials = plan().trials()
    assert [t.order for t in trials] == list(range(12))
    rounds = [[t.cell_id for t in trials if t.round == r] for r in range(3)]
    assert all(sorted(r) == sorted(rounds[0]) for r in rounds)
    assert len({tuple(r) for r in rounds}) > 1
    assert plan().plan_id == plan().plan_id
    assert plan(seed=1).plan_id != plan().plan_id
    assert len({t.trial_id for t in trials}) == len(trials)


def test_a_plan_survives_json() -> None:
    before = plan(parameters={"n_ctx": [256, 512]})
    after = Plan.model_validate_json(before.model_dump_json())
    assert after == before
    assert after.plan_id == before.plan_id


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x", "x" * 200])
def test_a_run_id_is_a_plain_folder_name(name: str) -> None:
    with pytest.raises(ParameterError, match="run_id"):
        build(Plan, {"experiment": "t", "model": "m", "cells": (trial(),), "run_id": name})


def test_values_are_quoted_in_one_short_line() -> None:
    assert shown("a\n\x1b[31m\u202e") == r"'a\n\x1b[31m\u202e'"
    for value in ("x" * 10_000, 10**5000, [1] * 10_000, {"a": "b" * 500}):
        assert len(shown(value)) <= 100
    assert shown(512) == "512"


def test_what_counts_is_a_whole_number_within_bounds() -> None:
    assert whole("turns", "12") == 12
    for value in (0, 3, True, 1.0, "many", None, [1]):
        with pytest.raises(ParameterError, match=r"turns=.* is refused: give .* from 1 to 2\."):
            whole("turns", value, most=2)


def test_what_is_longer_than_anything_is_refused_before_it_is_quoted() -> None:
    check_sizes({"model": "x" * 1000, "n_ctx": [2**63, 0.5, None]})
    for value in ("x" * 1001, 10**5000, [1, 10**5000]):
        with pytest.raises(ParameterError, match=r"model=.* is refused: nothing so long") as caught:
            check_sizes({"model": value})
        assert len(str(caught.value)) < 250


def test_a_closed_function_names_the_nearest_keyword_and_stays_itself() -> None:
    @closed("question")
    def ask(n_ctx: int, seed: int = 0) -> int:
        """Return something."""
        return n_ctx + seed

    assert ask(1, seed=2) == 3 and ask.__doc__ == "Return something."
    with pytest.raises(ParameterError, match=r"sed is not a parameter of question; .*'seed'\? Al"):
        ask(1, sed=2)  # type: ignore[call-arg]


def test_a_grid_has_an_end() -> None:
    with pytest.raises(ParameterError, match=r"a × b are 10,100 combinations, and 10,000 are the"):
        grid({"a": list(range(101)), "b": list(range(100)), "c": [1]})
    with pytest.raises(ParameterError, match="n_ctx has 10,001 values"):
        as_list("n_ctx", list(range(10_001)))


def test_sampling_is_in_the_identifier_only_where_it_is_asked() -> None:
    greedy = trial()
    assert "sampling" not in greedy.model_dump(exclude_none=True)["workload"]
    hot = greedy.workload.model_copy(update={"sampling": Sampling(temperature=0.7)})
    assert greedy.model_copy(update={"workload": hot}).cell_id != greedy.cell_id


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "temperature 0.8"),
        ({"temperature": 0.0, "repeat_penalty": 1.1}, "temperature 0, repeat_penalty 1.1"),
        ({"top_k": 20, "seed": 3}, "temperature 0.8, top_k 20, seed 3"),
    ],
)
def test_sampling_is_named_by_what_differs(asked: dict[str, Any], words: str) -> None:
    assert build(Sampling, asked).words == words


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"repeat_penalty": 0.0}, "repeat_penalty=0.0"),
        ({"seed": 2**32 - 1}, "seed=4294967295"),
        ({"json_schema": "{not"}, "no JSON"),
        ({"grammar": "root ::= [a]", "json_schema": "{}"}, "one of grammar and json_schema"),
    ],
)
def test_sampling_that_cannot_be_is_one_sentence(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(words)):
        build(Sampling, asked)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cache_mode": "cold"}, "cache_mode='kept'"),
        ({"prompt_tokens": None, "prompt": "x"}, "prompt_tokens"),
        ({"depths": (8, 0)}, "do not go up"),
        ({"repeats": 3}, "repeats=3 ends a walk of 3 depths"),
        ({"depths": ()}, "at least 1"),
    ],
)
def test_a_walk_goes_down_whole_into_a_kept_context(given: dict[str, object], words: str) -> None:
    walk = {"prompt_tokens": 4, "depths": (0, 8, 9), "cache_mode": "kept", "repeats": 5}
    assert build(Workload, walk).depths == (0, 8, 9)
    with pytest.raises(ParameterError, match=words):
        build(Workload, walk | given)


def test_no_walk_leaves_identifiers_alone() -> None:
    assert trial().workload.depths is None and trial().cell_id == "c9c67472352f"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"via": "openai"}, "go together"),
        ({"via": "server", "address": "http://here/v1"}, "go together"),
        ({"via": "openai", "address": "http://here/v1", "cache_mode": "prefix",
          "prefix_tokens": 3}, "leave prefix_tokens out"),
        ({"via": "engine", "at_once": 2}, "leave at_once out"),
        ({"via": "server", "at_once": 2, "cache_mode": "kept"}, "leave at_once out"),
    ],
)  # fmt: skip
def test_ways_past_the_engine_take_what_they_can(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Workload(prompt_tokens=8, **asked)


@pytest.mark.parametrize(
    ("asked", "start", "words"),
    [
        ({"via": "server", "cache_mode": "prefix", "prefix_tokens": 3},
         {"warm_up": "python_state"}, "reads no state"),
        ({"via": "server", "quality_against": "f16"}, {}, "give via='engine'"),
        ({"via": "openai", "address": "http://here/v1"}, {"warm_up": "tokens"}, "has begun"),
        ({"via": "openai", "address": "http://here/v1"}, {"memory_limit_bytes": 2**30},
         "has begun"),
    ],
)  # fmt: skip
def test_a_server_begins_as_it_can(
    asked: dict[str, Any], start: dict[str, Any], words: str
) -> None:
    workload = Workload(prompt_tokens=8, **asked)
    with pytest.raises(ValidationError, match=words):
        Trial(
            experiment="x", model="m", settings=Settings(), workload=workload, start=Start(**start)
        )
