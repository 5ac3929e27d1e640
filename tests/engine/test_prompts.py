"""What is asked of a model: a chat, by its own template or as of every model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_latency.engine import chat, prompts
from llm_latency.engine.timed import TimedModel
from llm_latency.plan.settings import Settings
from llm_latency.plan.workload import Workload

pytestmark = pytest.mark.engine

MESSAGES = [
    {"role": role, "content": role[0] + str(number)}
    for number, role in enumerate(("system", "user", "assistant", "user", "assistant", "user"))
]
CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def model(tiny: Path) -> Iterator[TimedModel]:
    with TimedModel(tiny, Settings(n_ctx=2048)) as loaded:
        yield loaded


def test_a_template_is_told_in_pieces() -> None:
    assert chat.ChatTemplate(CHATML, "^", "$").pieces(MESSAGES) == [
        "<system>s0$<user>u1$<assistant>a2$",
        "<user>u3$<assistant>a4$",
        "<user>u5$<assistant>",
    ]
    assert chat.ChatTemplate("^" + CHATML, "^", "$").pieces(MESSAGES[:2]) == [
        "^<system>s0$<user>u1$<assistant>"
    ]


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no system prompt') }}",
        "{{ messages | length }}" + CHATML,  # writes what was said otherwise each time
        "{{ messages[0].nothing.at_all }}",
    ],
)
def test_a_template_that_keeps_no_context_is_not_used(source: str) -> None:
    assert chat.ChatTemplate(source, "", "").pieces(MESSAGES) is None


def test_a_chat_of_the_users_own_is_written_once(model: TimedModel) -> None:
    assert chat.ChatTemplate(CHATML, "^", "$").text(MESSAGES[1:2]) == "<user>u1$<assistant>"
    tokens, form = prompts.chat(model, MESSAGES)
    assert form == "template" and tokens.count(model.beginning) <= 1
    refused = "{{ raise_exception('no') }}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TimedModel, "chat_template", chat.ChatTemplate(refused, "", ""))
        tokens, form = prompts.chat(model, MESSAGES[:2])
    assert form == "plain"
    assert model.detokenize(tokens, after=[]).strip() == "System: s0\n\nUser: u1\n\nAssistant:"


def test_a_chat_by_the_models_own_template(model: TimedModel) -> None:
    asked = [prompts.conversation(model, "en", turn, own=True) for turn in range(3)]
    (first, nothing, _), (second, said, _), (third, more, _) = asked
    assert {form for *_, form in asked} == {"template"}
    assert nothing == 0 and third[:said] == second[:said]
    assert said > len(first) and more > len(second)
    text = model.detokenize(second, after=[])
    assert text.count("<|user|>") == 2 and text.count("<|assistant|>") == 2
    assert text.rstrip().endswith("<|assistant|>")


def test_a_model_without_a_template_is_asked_as_all_are(
    model: TimedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = prompts.conversation(model, "fr", 1)
    assert prompts.conversation(model, "fr", 1, own=True) != alike
    monkeypatch.setattr(TimedModel, "chat_template", None)
    assert prompts.conversation(model, "fr", 1, own=True) == alike
    assert alike[2] == "plain"
    assert alike[0].count(model.beginning) == 1 and alike[0][0] == model.beginning


def test_a_walk_evaluates_the_message_alone_and_answers_as_a_cold_prompt_does(
    model: TimedModel,
) -> None:
    work = Workload(
        prompt_tokens=5, max_tokens=3, depths=(0, 40, 300), cache_mode="kept", repeats=5
    )
    for repeat in range(6):
        asked = prompts.question(model, work, repeat)
        answer = model.generate(asked.prompt, 3, length="fixed", prefix_tokens=asked.prefix_tokens)
        assert asked.told == {"depth_tokens": (0, 40, 300)[repeat % 3]}
        assert (answer.evaluated_tokens, answer.problem) == (5, None)
        assert answer.prompt_tokens == (5, 45, 305)[repeat % 3]
    cold = model.generate(asked.prompt, 3, length="fixed")
    assert cold.text == answer.text


def test_a_step_that_evaluates_more_than_its_message_says_so(
    model: TimedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prime = model.kv_cache.prime
    monkeypatch.setattr(model.kv_cache, "prime", lambda tokens: prime(tokens[:-7]))
    work = Workload(prompt_tokens=5, max_tokens=2, depths=(40,), cache_mode="kept", repeats=0)
    asked = prompts.question(model, work, 0)
    answer = model.generate(asked.prompt, 2, length="fixed", prefix_tokens=asked.prefix_tokens)
    assert answer.problem is not None and "33 tokens" in answer.problem
