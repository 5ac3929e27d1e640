"""Which cores a process may use, as users write it."""

from __future__ import annotations

from typing import Any

import pytest

from llm_latency.errors import ParameterError
from llm_latency.plan import cores
from llm_latency.plan.builder import Request
from llm_latency.plan.spec import Start
from llm_latency.questions import sweep


@pytest.mark.parametrize(
    ("value", "meaning", "words"),
    [
        ("any", None, "any"),
        (None, None, "any"),
        ("physical", "physical", "physical"),
        ("[2, 0]", (0, 2), "0,2"),
        (range(4), (0, 1, 2, 3), "0-3"),
    ],
)
def test_cores_are_a_kind_or_a_list(value: Any, meaning: Any, words: str) -> None:
    assert cores.understood(value) == meaning
    assert cores.in_words(cores.understood(value)) == words


@pytest.mark.parametrize("value", [0, True, [], [True], [-1], {0}, "fysical", [[0]], range(10**30)])
def test_what_is_no_choice_of_cores_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ParameterError, match=r"cores=.*such as \[0, 2\]"):
        cores.understood(value)


def test_several_choices_and_one_list_of_cpus_are_told_apart() -> None:
    assert cores.choices(["any", "physical", [0, 1], "any"]) == [None, "physical", (0, 1)]
    assert cores.choices("[0, 1]") == [(0, 1)]
    assert cores.choices("[[0], [1]]") == [(0,), (1,)]


def test_every_question_takes_cores_and_any_leaves_old_identifiers_alone() -> None:
    free, pinned = (sweep.plan(n_ctx=512, n_batch=256, cores=c).cells[0] for c in ("any", [0]))
    assert (free.start.cores, pinned.start.cores) == (None, (0,))
    assert free.cell_id == sweep.plan(n_ctx=512, n_batch=256).cells[0].cell_id != pinned.cell_id
    assert Start.model_validate_json(pinned.start.model_dump_json()) == pinned.start
    asked = Request("x", {"model": "m", "options": {"cores": "physical"}}, str)
    assert asked.cell(prompt_tokens=8, cores=(1,)).start.cores == (1,)
    assert asked.cell(prompt_tokens=8).start.cores == "physical"
