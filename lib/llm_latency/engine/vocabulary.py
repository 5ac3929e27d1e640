"""A model's tokens and chat template: all of its file that a prompt needs, and no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_latency.engine.beyond import without_broken_templates
from llm_latency.engine.chat import Chat, ChatTemplate
from llm_latency.engine.library import C, Llama, logging_to, without_devices
from llm_latency.engine.log import LlamaLog
from llm_latency.errors import EngineError


class Vocabulary:
    """What turns text into a model's tokens and back.

    Parameters
    ----------
    llama
        The model, of which the vocabulary at least is loaded.
    """

    def __init__(self, llama: Any) -> None:
        self._llama = llama
        self._vocab = llama._model.vocab

    @classmethod
    def of(cls, path: Path) -> Vocabulary:
        """Return that of a file, whose weights stay where they are.

        Raises
        ------
        EngineError
            If llama.cpp cannot read it.
        """
        log = LlamaLog()
        with logging_to(log), without_devices(), without_broken_templates(log):
            try:
                return cls(Llama(str(path), vocab_only=True, verbose=True))
            except Exception as error:  # a damaged file fails anywhere
                raise EngineError(log.reason(str(error))) from None

    @property
    def n_vocab(self) -> int:
        """How many tokens there are to choose from."""
        return int(C.llama_vocab_n_tokens(self._vocab))

    def tokenize(self, text: str, *, beginning: bool = True) -> list[int]:
        """Return the tokens of a text, with the model's own beginning token if it has one."""
        return list(self._llama.tokenize(text.encode(), add_bos=beginning, special=True))

    @property
    def chat_template(self) -> ChatTemplate | None:
        """The template that its file carries, if it carries one."""
        return ChatTemplate.of(self._llama)

    def chat_tokens(self, chat: Chat) -> list[int]:
        """Return the prompt that llama-cpp-python makes of a chat."""
        return chat.tokens(self._llama)

    @property
    def begins(self) -> bool:
        """Whether the model wants its beginning token at the head of a prompt."""
        return bool(C.llama_vocab_get_add_bos(self._vocab))

    @property
    def beginning(self) -> int:
        """The model's token for the beginning of a text."""
        return int(self._llama.token_bos())

    def detokenize(self, tokens: list[int], after: list[int]) -> str:
        """Return the text of tokens that follow others."""
        return str(self._llama.detokenize(tokens, prev_tokens=after).decode("utf-8", "replace"))

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer."""
        return bool(C.llama_vocab_is_eog(self._vocab, token))
