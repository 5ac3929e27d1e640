"""A chat as a model's own template writes it: what it was taught to answer, and to end.

Told in pieces, nothing is ever written otherwise than before, and the context is kept whole. As
applications ask it, ``create_chat_completion`` writes the whole chat anew each time; what the KV
cache still holds of it is what begins alike, and :func:`lost` names why that is not more.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

from llm_latency.engine.library import ChatFormatter, Llama
from llm_latency.errors import EngineError
from llm_latency.plan.workload import Template
from llm_latency.records.generation import Lost

Message = dict[str, str]
"""``role`` and ``content``, as Hugging Face's templates name them."""
OWN = "chat_template.default"
"""llama-cpp-python's name for the template that a file carries."""


class Chat(NamedTuple):
    """Messages, and the template that writes them; ``None``: llama-cpp-python's choice."""

    messages: list[Message]
    template: Template | None = None

    def tokens(self, llama: Llama) -> list[int]:
        """Return the prompt that ``create_chat_completion`` makes, without asking it."""
        caught: list[int] = []

        def catch(prompt: list[int], **_: Any) -> Iterator[Any]:
            caught.extend(prompt)
            return iter(())

        llama.create_completion = catch  # type: ignore[assignment, method-assign]
        try:
            self.ask(llama)
        finally:
            del llama.create_completion
        return caught

    def ask(self, llama: Llama, **options: Any) -> Iterator[dict[str, Any]]:
        """Return the streamed answer: the template is written and read, nothing evaluated yet.

        Raises
        ------
        EngineError
            If the template refuses the messages.
        """
        with self._in_force(llama):
            try:
                return iter(
                    llama.create_chat_completion(self.messages, stream=True, **options)  # type: ignore[arg-type]
                )
            except Exception as error:  # templates raise what they like
                raise EngineError(
                    f"the chat template {llama.chat_format} refuses these messages ({error}); give "
                    "another template, such as chatml"
                ) from None

    @contextlib.contextmanager
    def _in_force(self, llama: Llama) -> Iterator[None]:
        usual = llama.chat_format
        own = OWN if OWN in llama._chat_handlers else usual
        llama.chat_format = own if self.template == "own" else self.template or usual
        try:
            yield
        finally:
            llama.chat_format = usual


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with alike."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def lost(
    held: Sequence[int], prompt: Sequence[int], text: Callable[[Sequence[int]], str]
) -> Lost | None:
    """Return why a prompt does not go on from all that the KV cache holds; ``None`` if it does.

    Parameters
    ----------
    held, prompt
        The tokens in the KV cache, and those that are asked.
    text
        Returns the text of tokens.
    """
    same = common(held, prompt)
    if same == len(held):
        return None
    before, now = text(held[same:]), text(prompt[same:])
    if now.lstrip().startswith(before.strip().rstrip("\ufffd")):
        return "tokens"
    if "think>" in text(held[max(0, same - 8) :]) and "think>" not in now:
        return "thinking"
    return "rewritten" if same > 1 else "beginning"


@dataclass(frozen=True)
class ChatTemplate:
    """The template that a model's file carries.

    Parameters
    ----------
    source
        In Jinja's language.
    beginning, end
        The texts of the model's tokens for the beginning and the end.
    """

    source: str
    beginning: str
    end: str

    @classmethod
    def of(cls, llama: Llama) -> ChatTemplate | None:
        """Return the template of a loaded model; ``None`` where its file carries none."""
        source = llama.metadata.get("tokenizer.chat_template")
        if source is None:
            return None
        ends = (llama.token_bos(), llama.token_eos())
        return cls(source, *(str(llama._model.token_get_text(n)) if n >= 0 else "" for n in ends))

    def pieces(self, messages: list[Message]) -> list[str] | None:
        """Return what each exchange adds to the text, the last message still to be answered.

        Parameters
        ----------
        messages
            The system prompt, then a user's message and its answer in turn, a user's message last.

        Returns
        -------
        list of str or None
            ``None`` where the template refuses these messages, or writes what was said before
            otherwise once more is said: then no context can be kept.
        """
        pieces, text = [], ""
        for length in range(3, len(messages) + 2, 2):
            last = length > len(messages)
            try:
                longer = self._formatter(last)(messages=messages[:length]).prompt
            except Exception:  # templates raise what they like
                return None
            if not longer.startswith(text):
                return None
            pieces.append(longer.removeprefix(text))
            text = longer
        return pieces

    def text(self, messages: list[Message]) -> str | None:
        """Return a chat as one text, its last message to be answered; ``None``: it is refused."""
        try:
            return str(self._formatter(True)(messages=messages).prompt)
        except Exception:  # templates raise what they like
            return None

    @functools.lru_cache(maxsize=4)  # noqa: B019 (a process has one template)
    def _formatter(self, to_answer: bool) -> Any:
        return ChatFormatter(self.source, self.end, self.beginning, to_answer)
