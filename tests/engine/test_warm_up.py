"""Warm-ups and stored states, through the real llama.cpp."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_latency.engine import prompts
from llm_latency.engine import warm_up as warming
from llm_latency.engine.timed import TimedModel
from llm_latency.errors import EngineError
from llm_latency.measure import runner
from llm_latency.model import names
from llm_latency.plan.builder import Request
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Start, WarmUp
from llm_latency.plan.workload import Workload
from llm_latency.records.rows import rows
from tests.support import odd_models

pytestmark = pytest.mark.engine
ASKED = Workload(prompt_tokens=120, prefix_tokens=100, cache_mode="prefix", max_tokens=8, repeats=0)


@pytest.mark.parametrize("kind", ["system_prompt", "restored_state", "python_state"])
def test_what_a_warm_up_leaves_answers_as_a_cold_prompt_does(
    tiny: Path, tmp_path: Path, kind: WarmUp
) -> None:
    start, state = Start(warm_up=kind), tmp_path / "a.state"
    with TimedModel(tiny, Settings(n_ctx=512)) as model:
        cold = model.generate(prompts.passage(model, 120), max_tokens=8, length="fixed")
        if kind != "system_prompt":
            made = warming.make_state(model, start, ASKED, state)
            assert (made.tokens, made.bytes) == (100, state.stat().st_size)
    with TimedModel(tiny, Settings(n_ctx=512)) as model:
        warming.warm_up(model, start, ASKED, state)
        assert model.load.warm_up_s > 0
        assert model.kv_cache.length() == 100
        asked = prompts.question(model, ASKED, 0)
        warm = model.generate(asked.prompt, 8, length="fixed", prefix_tokens=asked.prefix_tokens)
    assert (warm.evaluated_tokens, warm.problem) == (20, None)
    assert warm.text == cold.text


def test_a_state_of_another_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    state = tmp_path / "a.state"
    state.write_bytes(b"not a state" * 100)
    with TimedModel(tiny, Settings(n_ctx=512)) as model, pytest.raises(EngineError, match="state"):
        warming.warm_up(model, Start(warm_up="restored_state"), ASKED, state)


def test_every_warm_up_in_a_real_run(outputs: Path) -> None:
    asked = Request(
        "sweep", {"model": "synthetic:tiny", "options": {"n_ctx": 512, "rounds": 1}}, names.check
    )
    kinds = ["none", "tokens", "batch", "system_prompt", "restored_state", "python_state"]
    cells = [
        asked.cell(warm_up=kind, page_cache="evicted", **ASKED.model_dump(exclude_none=True))
        for kind in kinds
    ]
    run = runner.run(asked.plan(cells), progress=False)
    found = {r.trial.start.warm_up: r for r in run.records() if not r.trial.twin}
    assert {r.status for r in found.values()} == {"ok"}, [r.reason for r in found.values()]
    assert found["none"].load and found["none"].load.warm_up_s == 0
    for kind in kinds[1:]:
        load = found[kind].load
        assert load and load.warm_up_s > 0
    # A pickled state also holds what llama-cpp-python keeps of the logits.
    small, large = (found[kind].state for kind in kinds[-2:])
    assert small and large and 0 < small.bytes < large.bytes
    assert rows(found["restored_state"])[0]["state_bytes"] == small.bytes
    assert rows(found["none"])[0]["state_bytes"] is None
    # They are large with a large model, and nothing of the run depends on them.
    assert not (run.path / "states").exists()


def test_what_was_said_stays_in_the_cache(tiny: Path) -> None:
    talk = Workload(conversation="fr", cache_mode="kept", max_tokens=4, repeats=3)
    with TimedModel(tiny, Settings(n_ctx=2048)) as model:
        said = 0
        for turn in range(4):
            asked = prompts.question(model, talk, turn)
            assert (asked.prefix_tokens == 0) == (turn == 0)
            answer = model.generate(
                asked.prompt, 4, length="fixed", prefix_tokens=asked.prefix_tokens
            )
            assert answer.problem is None
            assert answer.prompt_tokens > said  # the context grows
            said = answer.prompt_tokens
            if turn:
                assert answer.evaluated_tokens < 100 < asked.prefix_tokens
        cold = model.generate(asked.prompt, 4, length="fixed")
    assert cold.evaluated_tokens == said
    assert cold.text == answer.text


def test_the_same_prompt_again_evaluates_one_token(tiny: Path) -> None:
    again = Workload(prompt_tokens=50, cache_mode="kept", max_tokens=4)
    with TimedModel(tiny, Settings(n_ctx=256)) as model:
        answers = []
        for repeat in range(3):
            asked = prompts.question(model, again, repeat)
            answers.append(
                model.generate(asked.prompt, 4, length="fixed", prefix_tokens=asked.prefix_tokens)
            )
    assert [a.evaluated_tokens for a in answers] == [50, 1, 1]
    assert len({a.text for a in answers}) == 1
    assert {a.problem for a in answers} == {None}


def test_a_state_that_cannot_be_cut_is_refilled_and_told(tmp_path: Path) -> None:
    again = Workload(prompt_tokens=50, cache_mode="kept", max_tokens=4)
    with TimedModel(odd_models.recurrent(tmp_path / "m.gguf"), Settings(n_ctx=512)) as model:
        answers = []
        for repeat in range(3):
            asked = prompts.question(model, again, repeat)
            answers.append(
                model.generate(asked.prompt, 4, length="fixed", prefix_tokens=asked.prefix_tokens)
            )
        # What is only gone on with needs no cut.
        warmed = Start(warm_up="system_prompt")
        system = Workload(prompt_tokens=50, cache_mode="prefix", prefix_tokens=40)
        warming.warm_up(model, warmed, system, tmp_path / "none")
        first, later = (
            model.generate(prompts.passage(model, 50), 4, prefix_tokens=40) for _ in range(2)
        )
    assert [a.evaluated_tokens for a in answers] == [50, 1, 1]
    assert [a.refilled_tokens for a in answers] == [0, 49, 49]
    assert len({a.text for a in answers}) == 1
    assert {a.problem for a in (*answers, first, later)} == {None}
    assert (first.refilled_tokens, later.refilled_tokens) == (0, 40)


def test_words_are_counted_beside_tokens(tiny: Path) -> None:
    with TimedModel(tiny, Settings(n_ctx=256)) as model:
        answer = model.generate("one two three", max_tokens=1)
    assert answer.prompt_words == 3 < answer.prompt_tokens
