"""How a model is asked, whoever holds it: this process, a server of its own, or a stranger's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple

from llm_latency.engine.chat import Chat
from llm_latency.engine.vocabulary import Vocabulary
from llm_latency.plan.workload import Sampling, Via
from llm_latency.records.generation import Generation


class Asked(NamedTuple):
    """What is asked; see :meth:`Answering.generate`."""

    prompt: str | Sequence[int]
    max_tokens: int
    length: Literal["fixed", "natural"]
    prefix_tokens: int
    sampling: Sampling | None
    via: Via
    chat: Chat | None
    repeat: int

    @property
    def natural(self) -> bool:
        """Whether the answer may end by itself."""
        return self.length == "natural"

    @property
    def exactly(self) -> int | None:
        """How many tokens must come; ``None`` where the answer may end by itself."""
        return None if self.natural else self.max_tokens


class Answering(Vocabulary, ABC):
    """A model that can be asked: its vocabulary is in this process, and the rest may be too."""

    def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = 64,
        *,
        length: Literal["fixed", "natural"] = "natural",
        prefix_tokens: int = 0,
        sampling: Sampling | None = None,
        via: Via = "engine",
        chat: Chat | None = None,
        repeat: int = 0,
    ) -> Generation:
        """Answer a prompt, and time it.

        Parameters
        ----------
        prompt
            Text, or the tokens themselves.
        max_tokens
            Most tokens to generate; with ``length="fixed"`` exactly so many.
        length
            ``natural`` stops at end-of-generation, ``fixed`` ignores it (a streamed completion
            cannot: it fails its proof where the model ends early).
        prefix_tokens
            How many tokens of the prompt are in the KV cache when the clock starts; 0: every
            prompt token is evaluated anew. What a stranger's server holds, it finds by itself.
        sampling
            How the next token is chosen; ``None``: the most likely one.
        via
            The way through llama-cpp-python, see :class:`~llm_latency.plan.workload.Workload`;
            a model that a server holds is asked over HTTP whatever it says.
        chat
            The messages of which the prompt is made, for ``via="chat"``; text alone is one.
        repeat
            Number of this generation in its process.

        Returns
        -------
        Generation
            With ``.timings`` in seconds, ``.text``, and ``.problem`` if a proof failed.

        Raises
        ------
        EngineError
            If prompt and answer do not fit the context, or whoever holds the model fails or
            refuses; with its own reason.
        """
        return self.answer(
            Asked(prompt, max_tokens, length, prefix_tokens, sampling, via, chat, repeat)
        )

    @abstractmethod
    def answer(self, asked: Asked) -> Generation:
        """Answer what is asked, and time it."""
