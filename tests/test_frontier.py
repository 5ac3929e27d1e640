"""The largest context that truly works, by bisection, against trying them all."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_latency import frontier, limits
from llm_latency.errors import ParameterError


@given(st.integers(1, 400), st.integers(-5, 500), st.integers(0, 401))
def test_the_edge_is_found_with_few_questions(most: int, guess: int, edge: int) -> None:
    edge = min(edge, most)
    asked: list[int] = []

    def works(steps: int) -> bool:
        asked.append(steps)
        return steps <= edge

    assert frontier.search(works, guess, most) == (edge or None)
    assert len(set(asked)) == len(asked)
    assert set(asked) <= set(range(1, most + 1))
    assert len(asked) <= 2 * math.ceil(math.log2(most + 1)) + 2


@pytest.mark.parametrize("edge", [5, 40, 128])
def test_a_good_guess_needs_two_probes(edge: int) -> None:
    asked: list[int] = []

    def works(steps: int) -> bool:
        asked.append(steps)
        return steps <= edge

    frontier.search(works, edge, 128)
    assert len(asked) <= 2


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"most": 100}, "most=100"),
        ({"most": "many"}, "most='many'"),
        ({"memory_limit": "much"}, "memory_limit='much'"),
        ({"n_ubatch": -1}, "n_ubatch=-1"),
    ],
)
def test_wrong_parameters_are_refused_at_once(given_: dict[str, object], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        frontier.plan(**given_)  # type: ignore[arg-type]


@pytest.mark.engine
@pytest.mark.skipif(not limits._places(), reason="no cgroup can be made here")
def test_the_frontier_under_a_cap_is_that_of_trying_all(outputs: object) -> None:
    with limits.limited(2**27) as limiter:
        if not limiter.join:
            pytest.skip("no cgroup can be made here")
    plan = frontier.plan(
        memory_limit="42 MiB", most=8192, n_batch=64, n_ubatch=64, n_threads=1, run_id="f",
        # A mapped file gives way when memory is short: slowly, and not at an edge.
        use_mmap=False, type_k="f32", type_v="f32",
    )  # fmt: skip
    store = frontier.run(plan, progress=False)
    (row,) = frontier.found(store.records()).to_dict("records")
    assert row["n_ctx"] and row["fails_at"] == row["n_ctx"] + 256
    assert row["status"] == "oom"
    assert row["probes"] <= 0.25 * (8192 // 256)
    # Each was a process that filled its window.
    for record in store.records():
        assert record.trial.workload.prompt_tokens == record.trial.settings.n_ctx - 4
    # Again: nothing is tried twice.
    before = len(store.records())
    assert len(frontier.run(plan, progress=False).records()) == before
