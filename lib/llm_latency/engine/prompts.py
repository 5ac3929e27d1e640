"""What a workload asks of a model, in tokens: its prompts, and what the KV cache holds of them.

The passage and the chats ship with the lab, so that every model is asked the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any, NamedTuple

from llm_latency.engine.chat import Chat, Message, common, lost
from llm_latency.engine.vocabulary import Vocabulary
from llm_latency.plan.workload import Language, Template, Workload
from llm_latency.records.generation import ChatForm


class Question(NamedTuple):
    """A prompt, and how many of its tokens are in the KV cache when the clock starts.

    The rest is told of a chat alone: what :class:`~llm_latency.records.generation.Generation` keeps
    of it, and the messages that the prompt is made of.
    """

    prompt: str | list[int]
    prefix_tokens: int
    told: dict[str, Any] = {}  # noqa: RUF012 (read only)
    chat: Chat | None = None


def question(
    model: Vocabulary,
    workload: Workload,
    repeat: int,
    answers: Sequence[str] = (),
    held: Sequence[int] = (),
) -> Question:
    """Return what is asked in a generation; ``repeat`` 0 is the first after loading.

    A chat goes on from the ``answers`` that the model gave so far, and from the tokens that are
    ``held`` in its KV cache.
    """
    prompt: str | list[int]
    messages = workload.messages is not None or workload.conversation is not None
    if (
        workload.via == "chat"
        or (workload.via == "openai" and messages)
        or (workload.template and not workload.conversation)
    ):
        return _as_applications(model, workload, repeat, answers, held)
    told: dict[str, Any] = {}
    if workload.conversation is not None:
        own = workload.template == "own"
        prompt, evaluated_before, form = conversation(model, workload.conversation, repeat, own=own)
        told = {"chat_form": form}
    elif workload.depths is not None and workload.prompt_tokens is not None:
        depth = workload.depths[repeat % len(workload.depths)]
        walked = passage(model, depth + workload.prompt_tokens)
        return Question(walked, depth, {"depth_tokens": depth})
    else:
        if workload.messages is not None:
            prompt, form = chat(model, [one.model_dump() for one in workload.messages])
            told = {"chat_form": form}
        elif workload.prompt_tokens is not None:
            prompt = passage(model, workload.prompt_tokens)
        else:
            prompt = workload.prompt or ""
        tokens = model.tokenize(prompt) if isinstance(prompt, str) else prompt
        evaluated_before = len(tokens) - 1  # llama.cpp needs a token to evaluate
    kept = evaluated_before if workload.cache_mode == "kept" and repeat else 0
    return Question(prompt, kept or workload.prefix_tokens, told)


def _as_applications(
    model: Vocabulary, workload: Workload, repeat: int, answers: Sequence[str], held: Sequence[int]
) -> Question:
    """Return a chat that goes on from the model's own answers, and what of it is held already."""
    asked = Chat(_chat_messages(model, workload, repeat, answers), workload.template)
    tokens = model.chat_tokens(asked)
    bare = sum(len(model.tokenize(m["content"], beginning=False)) for m in asked.messages)
    told: dict[str, Any] = {"chat_form": "template", "template_tokens": len(tokens) - bare}
    if workload.cache_mode != "kept" or not repeat:
        return Question(tokens, workload.prefix_tokens, told, asked)
    found = min(common(held, tokens), len(tokens) - 1)  # llama.cpp needs a token to evaluate
    why = lost(held, tokens, lambda part: model.detokenize(list(part), after=[]))
    return Question(tokens, found, told | {"held_tokens": len(held), "lost": why}, asked)


def _chat_messages(
    model: Vocabulary, workload: Workload, repeat: int, answers: Sequence[str]
) -> list[Message]:
    if workload.conversation is not None:
        told = _shipped(workload.conversation)
        asked = [told["turns"][n % len(told["turns"])]["user"] for n in range(repeat + 1)]
        turns = [{"user": u, "assistant": a} for u, a in zip(asked, [*answers, ""], strict=True)]
        return _messages(told["system"], turns)
    if workload.messages is not None:
        return [one.model_dump() for one in workload.messages]
    text = workload.prompt or ""
    if workload.prompt_tokens is not None:
        text = _message_of(model, workload.prompt_tokens, workload.template)
    return [{"role": "user", "content": text}]


def _message_of(model: Vocabulary, n_tokens: int, template: Template | None) -> str:
    """Return a piece of the passage that makes a chat of so many tokens, as near as there is."""
    body = passage(model, n_tokens + 1)
    body = body[1:] if body[0] == model.beginning else body[:-1]

    def text(length: int) -> str:
        return model.detokenize(body[:length], after=[])

    def apart(length: int) -> int:
        asked = [{"role": "user", "content": text(length)}]
        return len(model.chat_tokens(Chat(asked, template))) - n_tokens

    # What a template adds is the same for all; a cut word may be read as more tokens or fewer.
    near = max(1, n_tokens - apart(n_tokens))
    return text(min(range(max(1, near - 2), near + 3), key=lambda n: (abs(apart(n)), n)))


def prefix(model: Vocabulary, workload: Workload) -> list[int]:
    """Return the tokens that a workload of ``cache_mode="prefix"`` finds in the KV cache."""
    first = question(model, workload, 0)
    tokens = model.tokenize(first.prompt) if isinstance(first.prompt, str) else first.prompt
    return tokens[: first.prefix_tokens]


def reading(model: Vocabulary, workload: Workload) -> list[int]:
    """Return the tokens by which the quality of a model's predictions is measured.

    Where their number is given, they are of all that ships with the lab, one after the other: in a
    passage that is repeated, what comes next is known, and nothing would be lost.
    """
    if workload.prompt_tokens is None:
        prompt = question(model, workload, 0).prompt
        return model.tokenize(prompt) if isinstance(prompt, str) else prompt
    languages: tuple[Language, ...] = ("en", "fr")
    chats = [_shipped(language) for language in languages]
    told = ["".join(_alike(chat["system"], chat["turns"])) for chat in chats]
    return _repeated(model, "\n\n".join([_read("passage.txt"), *told]), workload.prompt_tokens)


def passage(model: Vocabulary, n_tokens: int) -> list[int]:
    """Return exactly ``n_tokens`` tokens: the passage that ships with the lab, repeated."""
    return _repeated(model, _read("passage.txt"), n_tokens)


def _repeated(model: Vocabulary, text: str, n_tokens: int) -> list[int]:
    tokens = model.tokenize(text)
    # The beginning token stands once, at the head.
    body = tokens[1:] if tokens[0] == model.beginning else tokens
    while len(tokens) < n_tokens:
        tokens += body
    return tokens[:n_tokens]


def chat(model: Vocabulary, messages: list[Message]) -> tuple[list[int], ChatForm]:
    """Return a chat of the user's own in tokens, and the form in which it is written."""
    template = model.chat_template
    text = template.text(messages) if template else None
    if text is not None:  # a template writes the beginning token itself
        return model.tokenize(text, beginning=False), "template"
    said = [f"{one['role'].capitalize()}: {one['content']}" for one in messages]
    return model.tokenize("\n\n".join([*said, "Assistant:"])), "plain"


def conversation(
    model: Vocabulary, language: Language, turn: int, *, own: bool = False
) -> tuple[list[int], int, ChatForm]:
    """Return a turn of a chat that ships with the lab, in tokens.

    Parameters
    ----------
    model
        Whose tokens.
    language
        Which chat.
    turn
        Which turn, from 0; beyond its last the chat begins again, its context kept.
    own
        Write it by the model's own template, where it has one that can.

    Returns
    -------
    tuple
        The tokens of all that was said before and of the new message, how many of them were
        said before, and the form in which they are written.
    """
    chat = _shipped(language)
    turns = [chat["turns"][number % len(chat["turns"])] for number in range(turn + 1)]
    template = model.chat_template if own else None
    pieces = template.pieces(_messages(chat["system"], turns)) if template else None
    # A template writes the beginning token itself.
    tokens = [model.beginning] if model.begins and pieces is None else []
    *before, message = pieces or _alike(chat["system"], turns)
    # Told apart here, so that the tokens of what was said do not depend on what is said next.
    tokens += [t for text in before for t in model.tokenize(text, beginning=False)]
    form: ChatForm = "template" if pieces else "plain"
    return tokens + model.tokenize(message, beginning=False), len(tokens), form


def _messages(system: str, turns: list[dict[str, str]]) -> list[Message]:
    """Return a chat as templates take it, its last message not yet answered."""
    said = [(role, turn[role]) for turn in turns for role in ("user", "assistant")]
    return [{"role": role, "content": text} for role, text in [("system", system), *said[:-1]]]


def _alike(system: str, turns: list[dict[str, str]]) -> list[str]:
    """Return a chat in pieces, as every model is asked the same; the new message is the last."""
    pieces = [f"System: {system}"]
    for turn in turns:
        pieces += [f"\n\nUser: {turn['user']}\n\nAssistant:", f" {turn['assistant']}"]
    return pieces[:-1]


def _shipped(language: Language) -> dict[str, Any]:
    chat: dict[str, Any] = json.loads(_read(f"conversation-{language}.json"))
    return chat


def _read(name: str) -> str:
    return resources.files("llm_latency").joinpath("data", name).read_text(encoding="utf-8")
