"""The user's own prompt: understood, or refused in one sentence under the name it was given by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_latency import experiments
from llm_latency.errors import ParameterError
from llm_latency.plan.own_prompt import MOST_CHARACTERS, understood
from llm_latency.plan.spec import Plan
from llm_latency.plan.workload import Message, Workload

CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Good evening"}]
MESSAGES = tuple(Message(**one) for one in CHAT)  # type: ignore[arg-type]


def test_text_stays_letter_by_letter(tmp_path: Path) -> None:
    assert understood("", "") == {}
    assert understood("[1] 42, true", "") == {"prompt": "[1] 42, true"}
    assert understood(CHAT, "") == {"messages": MESSAGES}
    text, chat = tmp_path / "a.txt", tmp_path / "a.json"
    text.write_bytes("\ufeffÉté\r\n[]\n".encode())
    chat.write_text(json.dumps(CHAT))
    assert understood("", str(text)) == {"prompt": "Été\n[]\n"}
    assert understood("", chat) == {"messages": MESSAGES}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"\x89PNG\r\n\x1a\n\xff", "no text in UTF-8"),
        ("a.txt", "été".encode("latin-1"), "no text in UTF-8"),
        ("a.txt", b"a\0b", "is no text"),
        ("a.txt", b" \n", "is empty"),
        ("a.json", b"", "is empty"),
        ("a.json", b'[{"role": "user", "content": " "}]', "is empty"),
        ("a.json", b"Good evening", "is no JSON"),
        ("a.json", b"[" * 100_000, "is no JSON"),
        ("a.json", b"[]", "is no chat"),
        ("a.json", b'"Good evening"', "is no chat"),
        ("a.json", b'{"role": "user", "content": "a"}', "is no chat"),
        ("a.json", b'[{"role": "tool", "content": "a"}]', "is no chat"),
        ("a.json", b'[{"role": "user"}]', "is no chat"),
        ("a.json", b'[{"role": "assistant", "content": "a"}]', "the last a user's"),
        ("a.txt", b"a" * (MOST_CHARACTERS + 1), "400,001 characters"),
        ("a.txt", b"a" * (4 * MOST_CHARACTERS + 1), "more than 400,000 characters"),
    ],
)
def test_a_file_that_is_no_prompt_is_refused(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ParameterError, match=words) as caught:
        understood("", str(path))
    said = str(caught.value)
    assert said.startswith("prompt_file=") and "; " in said and "\n" not in said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prompt": 5}, "prompt=5 is refused"),
        ({"prompt": [{}]}, r"prompt=\[{}\] is refused"),
        ({"prompt": "\n"}, "is empty"),
        ({"prompt_file": 5}, "prompt_file='5' is no path"),
        ({"prompt_file": "nosuch.txt"}, "does not exist"),
        ({"prompt_file": "a\0b"}, "prompt_file='a.*b' is no path"),
        ({"prompt_file": "."}, "is a folder"),
    ],
)
def test_what_is_no_prompt_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        experiments.sweep(**given)


def test_there_is_one_prompt(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("b")
    with pytest.raises(ParameterError, match="prompt='a' beside prompt_file"):
        experiments.sweep(prompt="a", prompt_file=path)
    with pytest.raises(ValueError, match="one of prompt, messages"):
        Workload(prompt="a", messages=MESSAGES)


def test_the_plan_holds_the_text_and_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.json").write_text(json.dumps(CHAT))
    plan = experiments.sweep(prompt_file="a.json", prompt_tokens=[64, 128], n_ctx=512)
    assert {cell.workload.messages for cell in plan.cells} == {MESSAGES}
    assert {cell.workload.prompt_tokens for cell in plan.cells} == {None}
    assert plan.parameters["prompt_file"] == str(tmp_path.resolve() / "a.json")
    Path("a.json").unlink()
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    long = "evening " * 1_000  # longer than any other parameter may be
    assert {c.workload.prompt for c in experiments.sweep(prompt=long).cells} == {long}


@pytest.mark.parametrize("question", ["batch_size", "knobs", "kv_types", "threads"])
def test_questions_of_one_prompt_ask_it_in_every_cell(question: str) -> None:
    plan = getattr(experiments, question)(prompt=CHAT)
    asked = {(cell.workload.messages, cell.workload.prompt_tokens) for cell in plan.cells}
    assert asked == {(MESSAGES, None)}
