"""What a workload asks of a model, in tokens: its prompts, and what the KV cache holds of them.

The passage and the chats ship with the lab, so that every model is asked the same.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import NamedTuple

from llm_latency.engine.llama import Model
from llm_latency.plan.spec import Language, Workload


class Question(NamedTuple):
    """A prompt, and how many of its tokens are in the KV cache when the clock starts."""

    prompt: str | list[int]
    prefix_tokens: int


def question(model: Model, workload: Workload, repeat: int) -> Question:
    """Return what is asked in a generation; ``repeat`` 0 is the first after loading."""
    prompt: str | list[int]
    if workload.conversation is not None:
        prompt, evaluated_before = conversation(model, workload.conversation, repeat)
    elif workload.prompt_tokens is not None:
        prompt = passage(model, workload.prompt_tokens)
        evaluated_before = len(prompt) - 1  # llama.cpp needs a token to evaluate
    else:
        prompt = workload.prompt or ""
        evaluated_before = len(model.tokenize(prompt)) - 1
    kept = evaluated_before if workload.cache_mode == "kept" and repeat else 0
    return Question(prompt, kept or workload.prefix_tokens)


def prefix(model: Model, workload: Workload) -> list[int]:
    """Return the tokens that a workload of ``cache_mode="prefix"`` finds in the KV cache."""
    first = question(model, workload, 0)
    tokens = model.tokenize(first.prompt) if isinstance(first.prompt, str) else first.prompt
    return tokens[: first.prefix_tokens]


def passage(model: Model, n_tokens: int) -> list[int]:
    """Return exactly ``n_tokens`` tokens: the passage that ships with the lab, repeated."""
    tokens = model.tokenize(_read("passage.txt"))
    # The beginning token stands once, at the head.
    body = tokens[1:] if tokens[0] == model.beginning else tokens
    while len(tokens) < n_tokens:
        tokens += body
    return tokens[:n_tokens]


def conversation(model: Model, language: Language, turn: int) -> tuple[list[int], int]:
    """Return a turn of a chat that ships with the lab, in tokens.

    Parameters
    ----------
    model
        Whose tokens.
    language
        Which chat.
    turn
        Which turn, from 0; beyond its last the chat begins again, its context kept.

    Returns
    -------
    tuple
        The tokens of all that was said before and of the new message, and how many of them
        were said before.
    """
    before, message = _turn(language, turn)
    # Told apart here, so that the tokens of what was said do not depend on what is said next.
    tokens = [t for text in before for t in model.tokenize(text, beginning=False)]
    if model.begins:
        tokens.insert(0, model.beginning)
    return tokens + model.tokenize(message, beginning=False), len(tokens)


def _turn(language: Language, number: int) -> tuple[list[str], str]:
    """Return what was said before, the system prompt first, and the new message.

    No model's own template is used: every model is asked the same.
    """
    chat = json.loads(_read(f"conversation-{language}.json"))
    turns = chat["turns"]
    before = [f"System: {chat['system']}"]
    for earlier in range(number):
        past = turns[earlier % len(turns)]
        before += [_to_answer(past["user"]), f" {past['assistant']}"]
    return before, _to_answer(turns[number % len(turns)]["user"])


def _to_answer(message: str) -> str:
    return f"\n\nUser: {message}\n\nAssistant:"


def _read(name: str) -> str:
    return resources.files("llm_latency").joinpath("data", name).read_text(encoding="utf-8")
