"""Chats as applications ask them, by the real llama.cpp on the smallest synthetic model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from llm_latency.engine import prompts
from llm_latency.engine.chat import Chat, lost
from llm_latency.engine.timed import TimedModel as Model
from llm_latency.errors import EngineError
from llm_latency.plan.settings import Settings
from llm_latency.plan.workload import CacheMode, Workload
from llm_latency.records.generation import Generation

pytestmark = pytest.mark.engine
TURNS = 5


@pytest.fixture(scope="module")
def model(tiny: Path) -> Iterator[Model]:
    with Model(tiny, Settings(n_ctx=2048)) as loaded:
        yield loaded


def turns(model: Model, mode: CacheMode) -> list[Generation]:
    talk = Workload(conversation="en", template="own", via="chat", cache_mode=mode, max_tokens=8)
    answers: list[Generation] = []
    for repeat in range(TURNS):
        said = [answer.text for answer in answers]
        asked = prompts.question(model, talk, repeat, said, model.kv_cache.tokens())
        answer = model.generate(
            asked.prompt, 8, prefix_tokens=asked.prefix_tokens, via="chat", chat=asked.chat
        )
        answers.append(answer.model_copy(update=asked.told))
    return answers


def test_a_cold_chat_evaluates_all_of_every_turn(model: Model) -> None:
    for answer in turns(model, "cold"):
        assert answer.problem is None
        assert (answer.evaluated_tokens, answer.cached_tokens) == (answer.prompt_tokens, 0)
        assert answer.held_tokens is None and answer.lost is None
        assert 20 < (answer.template_tokens or 0) < answer.prompt_tokens
        assert 0 < (answer.timings.template_s or 0) < answer.timings.ttft_s


def test_a_kept_chat_evaluates_what_the_cache_does_not_hold_of_it(model: Model) -> None:
    before, *later = turns(model, "kept")
    assert before.cached_tokens == 0
    for answer in later:
        assert answer.problem is None
        assert answer.evaluated_tokens == answer.prompt_tokens - (answer.cached_tokens or 0)
        # All that was asked before, and of the answer what its text is read as again.
        assert before.prompt_tokens <= (answer.cached_tokens or 0) <= (answer.held_tokens or 0)
        assert (answer.lost is None) == (answer.cached_tokens == answer.held_tokens)
        assert answer.lost in (None, "tokens")  # random weights write what nobody would
        before = answer


@pytest.mark.parametrize(
    ("held", "prompt", "why"),
    [
        ("<s>hello", "<s>hello you", None),
        ("<s>hello", "<s>HELLO", "rewritten"),
        ("<s>hello", "hello", "beginning"),
        ("<s><think>yes</think>hello", "<s>hello you", "thinking"),
        ("<s> hello", "<s>hello you", "tokens"),
    ],
)
def test_why_a_chat_is_not_found_again(held: str, prompt: str, why: str | None) -> None:
    def text(tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))

    assert lost([ord(c) for c in held], [ord(c) for c in prompt], text) == why


@pytest.mark.parametrize("tokens", [60, 200])
def test_a_chat_of_a_number_of_tokens_has_so_many(model: Model, tokens: int) -> None:
    asked = prompts.question(model, Workload(prompt_tokens=tokens, via="chat"), 0)
    assert len(asked.prompt) == pytest.approx(tokens, abs=1)
    short = prompts.question(model, Workload(prompt_tokens=1, via="chat"), 0)
    assert 1 < len(short.prompt) < 60  # no fewer than the template's own


def test_templates_that_are_named_and_those_that_refuse(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [{"role": "user", "content": "Hello"}]
    texts = {
        name: model.detokenize(model.chat_tokens(Chat(said, name)), after=[])
        for name in ("own", "chatml", "llama-2")
    }
    assert "<|im_start|>" in texts["chatml"] and "[INST]" in texts["llama-2"]
    assert "<|im_start|>" not in texts["own"]

    def refuse(**_: object) -> None:
        raise ValueError("no such role")

    monkeypatch.setitem(model._llama._chat_handlers, "chat_template.default", refuse)
    with pytest.raises(EngineError, match=r"refuses these messages \(no such role\); give"):
        model.chat_tokens(Chat(said, "own"))
    assert "create_completion" not in vars(model._llama)  # put back
