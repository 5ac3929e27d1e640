"""How tokens are chosen, by the real llama.cpp on the smallest synthetic model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_latency.engine.clock import WAYS
from llm_latency.engine.timed import TimedModel as Model
from llm_latency.errors import EngineError
from llm_latency.plan.settings import Settings
from llm_latency.plan.workload import Sampling, Via

pytestmark = pytest.mark.engine
HOT = Sampling(temperature=1.5, top_k=0, min_p=0.0, repeat_penalty=1.1)


@pytest.fixture(scope="module")
def model(tiny: Path) -> Iterator[Model]:
    with Model(tiny, Settings(n_ctx=512)) as loaded:
        yield loaded


def test_an_equal_seed_draws_an_equal_answer_by_every_way(model: Model) -> None:
    prompt = "What do you see from the window?"
    texts = {}
    for seed in (0, 1):
        asked = HOT.model_copy(update={"seed": seed})
        for via in WAYS:
            found = model.generate(prompt, 8, length="fixed", sampling=asked, via=via)
            assert found.problem is None
            # Chosen when the evaluation is over, and inside the answer's own time.
            assert 0 < (found.timings.sampling_s or 0) < found.timings.binding_overhead_s
            texts[seed, via] = found.text.strip()
    # A chat's prompt is its template's.
    assert len({texts[0, via] for via in WAYS if via != "chat"}) == 1
    assert texts[0, "chat"] != texts[1, "chat"]
    assert texts[0, "engine"] != texts[1, "engine"]
    greedy = model.generate(prompt, 8, length="fixed")
    assert greedy.text.strip() not in texts.values()
    assert greedy.timings.sampling_s < found.timings.sampling_s


@pytest.mark.parametrize("via", list(WAYS))
def test_a_grammar_says_what_an_answer_may_be(model: Model, via: Via) -> None:
    digits = Sampling(grammar='root ::= [0-9] [0-9] "."')
    found = model.generate("Two digits:", 20, sampling=digits, via=via)
    assert found.text.strip()[:2].isdigit() and found.text.strip()[2:] == "."
    assert found.finish_reason == "stop"
    schema = Sampling(json_schema='{"type": "boolean"}')
    assert model.generate("Yes?", 20, sampling=schema, via=via).text.strip() in ("true", "false")


def test_a_grammar_that_is_none_is_one_sentence(model: Model) -> None:
    for via in WAYS:
        with pytest.raises(EngineError, match="does not understand the grammar"):
            model.generate("Hello", sampling=Sampling(grammar="root ::= ("), via=via)
