"""A chat as a model's own template writes it: what it was taught to answer, and to end."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from llm_latency.engine.library import ChatFormatter, Llama

Message = dict[str, str]
"""``role`` and ``content``, as Hugging Face's templates name them."""


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
