"""The texts that ship with the lab, to be asked of any model."""

from __future__ import annotations

import json
from importlib import resources

from llm_latency.plan.spec import Language


def passage() -> str:
    """Return the French and English passage that prompts of a given length are cut from."""
    return _read("passage.txt")


def turn(language: Language, number: int) -> tuple[list[str], str]:
    """Return a turn of the chat in that language.

    Parameters
    ----------
    language
        ``fr`` or ``en``.
    number
        Which turn, from 0; beyond its last the chat begins again.

    Returns
    -------
    tuple
        What was said before, piece by piece, the system prompt first; and the new message, with
        what asks the model to answer. No model's own template is used: every model is asked the
        same.
    """
    chat = json.loads(_read(f"conversation-{language}.json"))
    turns = chat["turns"]
    before = [f"System: {chat['system']}"]
    for earlier in range(number):
        said = turns[earlier % len(turns)]
        before += [_asked(said["user"]), f" {said['assistant']}"]
    return before, _asked(turns[number % len(turns)]["user"])


def _asked(message: str) -> str:
    return f"\n\nUser: {message}\n\nAssistant:"


def _read(name: str) -> str:
    return resources.files("llm_latency").joinpath("data", name).read_text(encoding="utf-8")
