"""The user's own prompt: text or a chat, given as it is or in a file.

What is measured is the text, and not the file: the plan holds it, so that a run can be repeated
when the file has changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llm_latency.errors import ParameterError
from llm_latency.plan.parameters import shown
from llm_latency.plan.workload import Message, Workload

PROMPT = "a prompt of your own, in place of prompt_tokens"
PROMPT_FILE = "the same in a file: text, or a list of messages (.json: role, content)"
MOST_CHARACTERS = 400_000
"""Longest text: each record keeps it, and no context that is measured here holds more."""
A_CHAT = '[{"role": "user", "content": "Good evening"}]'
ROLES = "system, user and assistant, the last a user's"


def given(value: Any) -> bool:
    """Return whether a parameter says anything."""
    return value is not None and not (isinstance(value, str) and value == "")


def understood(prompt: Any, prompt_file: Any) -> dict[str, Any]:
    """Return the prompt as a field of ``Workload``, by its name; empty where there is none.

    Parameters
    ----------
    prompt
        Text, or a list of messages, each with ``role`` and ``content``; ``""``: none.
    prompt_file
        A file of text, or one that is named ``.json`` with a list of messages; ``""``: none.

    Raises
    ------
    ParameterError
        One sentence that names the parameter and what to do.
    """
    if not given(prompt) and not given(prompt_file):
        return {}
    if given(prompt) and given(prompt_file):
        raise ParameterError(
            f"prompt={shown(prompt)} beside prompt_file={shown(prompt_file)} is refused: there is "
            "one prompt; give one of the two."
        )
    if given(prompt):
        return _workload(f"prompt={shown(prompt)}", prompt)
    path = path_of(prompt_file)
    named = f"prompt_file={str(path)!r}"
    text = _read(path, named)
    if path.suffix.lower() != ".json":
        return _workload(named, text)
    if not text.strip():
        raise _empty(named)
    try:
        messages = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise ParameterError(
            f"{named} is refused: it is no JSON ({why}); give a list of messages, such as "
            f"{A_CHAT}, or name it .txt to have it asked as text."
        ) from None
    return _workload(named, messages, text=False)


def path_of(prompt_file: Any) -> Path:
    """Return where the file of a prompt lies.

    Raises
    ------
    ParameterError
        If it is no path, or there is no file.
    """
    try:
        path = Path(prompt_file).expanduser().resolve()
        if path.is_file():
            return path
        why = "is a folder" if path.is_dir() else "does not exist"
    except (OSError, RuntimeError, TypeError, ValueError):
        path, why = prompt_file, "is no path"
    raise ParameterError(
        f"prompt_file={shown(str(path))} {why}; give a file of text, or of messages as JSON."
    )


def _read(path: Path, named: str) -> str:
    too_long = f"{named} is refused: it has more than {MOST_CHARACTERS:,} characters; give fewer."
    try:
        if path.stat().st_size > 4 * MOST_CHARACTERS:  # as many bytes as UTF-8 takes for one
            raise ParameterError(too_long)
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ParameterError(
            f"{named} is refused: it is no text in UTF-8; save it as such, or give another file."
        ) from None
    except OSError as error:
        raise ParameterError(
            f"{named} cannot be read ({error.strerror}); give a file that can."
        ) from None
    if "\0" in text:
        raise ParameterError(f"{named} is refused: it is no text; give a file of text.")
    return text.replace("\r\n", "\n")


def _empty(named: str) -> ParameterError:
    return ParameterError(f"{named} is refused: it is empty; give at least one word.")


def _workload(named: str, prompt: Any, *, text: bool = True) -> dict[str, Any]:
    """Return the field that holds a prompt, or refuse it under the name that it was given by."""
    if isinstance(prompt, str) and text:
        if not prompt.strip():
            raise _empty(named)
        found: dict[str, Any] = {"prompt": prompt}
        size = len(prompt)
    else:
        try:
            if not isinstance(prompt, list):
                raise TypeError("messages are a list")
            found = {"messages": tuple(Message(**message) for message in prompt)}
            Workload(**found)
            if not found["messages"][-1].content.strip():
                raise _empty(named)
        except (TypeError, ValidationError):
            raise ParameterError(
                f"{named} is refused: it is no chat; give {'text or ' * text}a list of messages, "
                f"such as {A_CHAT}, of the roles {ROLES}."
            ) from None
        size = sum(len(message.content) for message in found["messages"])
    if size > MOST_CHARACTERS:
        raise ParameterError(
            f"{named} is refused: it has {size:,} characters, and {MOST_CHARACTERS:,} are the "
            "most; give fewer."
        )
    return found
