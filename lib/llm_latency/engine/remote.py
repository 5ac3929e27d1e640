"""A server that is already there: any that answers as OpenAI's does, asked as its clients ask it.

Nothing of how it was started is known, and little of what it holds can be asked for. A figure is
kept with what proves it, and a column says what could not be proven: that is no failure. Where the
server is llama.cpp's own, it is told to use none of what it holds, and its ``timings`` count.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from llm_latency.engine import streamed
from llm_latency.engine.answering import Answering, Asked
from llm_latency.engine.log import LlamaLog
from llm_latency.engine.served import chosen_by
from llm_latency.engine.vocabulary import Vocabulary
from llm_latency.errors import EngineError
from llm_latency.plan.workload import Sampling
from llm_latency.records import proof
from llm_latency.records.generation import Generation
from llm_latency.records.record import Buffers, DeviceMemory

KEY_VARIABLE = "LLM_LATENCY_API_KEY"
"""Environment variable with the key that the server asks for; it is stored nowhere."""


class RemoteCache:
    """What a server was told so far, which it may hold."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def tokens(self) -> list[int]:
        """Return the tokens of all that was said last, by this vocabulary."""
        return self.told


class RemoteModel(Answering):
    """A model that a server holds, of which this process has the vocabulary alone.

    Parameters
    ----------
    path
        The file of the model that the server is said to hold: its tokens make the prompts.
    address
        Where the server listens, such as ``http://127.0.0.1:8080/v1``.

    Raises
    ------
    EngineError
        If nobody answers there, or not as OpenAI's server does.
    """

    pid: int | None = None
    system_info: str | None = None
    load = effective = None

    def __init__(self, path: Path, address: str) -> None:
        super().__init__(Vocabulary.of(path)._llama)
        self.log, self.buffers = LlamaLog(), Buffers()
        self.devices_before: dict[str, DeviceMemory] = {}
        self.kv_cache = RemoteCache()
        self._client = streamed.client(address.rstrip("/"), os.environ.get(KEY_VARIABLE))
        try:
            response = self._client.get("/models", timeout=10)
            listed = response.raise_for_status().json()["data"]
            self._name, owner = str(listed[0]["id"]), str(listed[0].get("owned_by"))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
            raise EngineError(
                f"address={address!r} does not answer as OpenAI's server does ({error}); give one "
                f"whose /models does, ending in /v1 mostly, and its key in {KEY_VARIABLE}"
            ) from None
        self._llama_cpp = owner == "llamacpp"

    def answer(self, asked: Asked) -> Generation:
        """Ask the server; a prefix is whatever it finds by itself."""
        prompt, chat, sampling = asked.prompt, asked.chat, asked.sampling
        tokens = self.tokenize(prompt) if isinstance(prompt, str) else list(prompt)
        body: dict[str, Any] = {
            "model": self._name,
            "max_tokens": asked.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"messages": chat.messages} if chat else {"prompt": self._text(prompt)}),
            **self._chosen_by(sampling),
        }
        if self._llama_cpp:
            body |= {"cache_prompt": asked.prefix_tokens > 0, "ignore_eos": not asked.natural}
        try:
            with streamed.undisturbed():
                path = "/chat/completions" if chat else "/completions"
                answer = streamed.ask(self._client, path, body)
        except httpx.TransportError as error:
            raise EngineError(f"the server went away ({error}); see that it runs") from None
        counted = _counted(answer.events)
        text = "".join(map(_text_of, answer.events))
        self.kv_cache.told = [*tokens, *self.tokenize(text, beginning=False)]
        said = len(self.kv_cache.told) - len(tokens)
        prompt_tokens = counted.get("prompt_tokens", len(tokens))
        cached, generated = counted.get("cached"), counted.get("generated")
        kept = asked.prefix_tokens > 0
        return Generation(
            repeat=asked.repeat,
            prompt_tokens=prompt_tokens,
            prompt_words=len(self.detokenize(tokens, after=[]).split()),
            evaluated_tokens=None if cached is None else prompt_tokens - cached,
            cached_tokens=cached,
            generated_tokens=said if generated is None else generated,
            finish_reason="length" if _reason(answer.events) == "length" else "stop",
            timings=streamed.timings(answer, _text_of, counted),
            text=text,
            text_sha256=hashlib.sha256(text.encode()).hexdigest(),
            unproven=_unproven(counted, all_told=sampling is None or self._llama_cpp),
            problem=proof.problem(
                prompt=prompt_tokens,
                prefix=cached or 0 if kept else 0,
                cached=cached or 0,
                evaluated=prompt_tokens - (cached or 0),
                asked=None if generated is None else asked.exactly,
                generated=generated or 0,
            ),
        )

    def close(self) -> None:
        """Forget the server; it runs on."""
        self._client.close()

    def _text(self, prompt: str | Sequence[int]) -> str:
        """Return a prompt as text: no other server reads these tokens."""
        if isinstance(prompt, str):
            return prompt
        tokens = list(prompt)
        # The server puts the beginning there by itself.
        body = tokens[1:] if self.begins and tokens[:1] == [self.beginning] else tokens
        return self.detokenize(body, after=[])

    def _chosen_by(self, sampling: Sampling | None) -> dict[str, Any]:
        """Return how tokens are chosen, in words that this server knows."""
        if sampling is None or self._llama_cpp:
            return chosen_by(sampling)
        known = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed")
        return {name: getattr(sampling, name) for name in known}


def _text_of(event: Mapping[str, Any]) -> str:
    """Return the text that one event brings."""
    choice: Mapping[str, Any] = next(iter(event.get("choices") or []), {})
    said = choice.get("text") or (choice.get("delta") or {}).get("content")
    return str(said or "")


def _reason(events: Sequence[Mapping[str, Any]]) -> str | None:
    """Return why the answer ended, by the server's word."""
    choices = [choice for event in events for choice in event.get("choices") or []]
    said = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    return said[-1] if said else None


def _counted(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the server counted: nothing that it does not tell."""
    told: dict[str, Any] = {}
    for event in events:
        usage, times = event.get("usage") or {}, event.get("timings") or {}
        told |= {"prompt_tokens": usage.get("prompt_tokens", told.get("prompt_tokens"))}
        details = usage.get("prompt_tokens_details") or {}
        told |= {"cached": details.get("cached_tokens", told.get("cached"))}
        told |= {"generated": usage.get("completion_tokens", told.get("generated"))}
        if "prompt_n" in times:
            told |= {"prompt_tokens": times["prompt_n"] + times["cache_n"]}
            told |= {"cached": times["cache_n"], "generated": times["predicted_n"]}
            told |= {name: times[name] for name in ("prompt_ms", "predicted_ms")}
    return {name: value for name, value in told.items() if value is not None}


def _unproven(counted: Mapping[str, Any], *, all_told: bool) -> str:
    """Return what the server's answer does not prove, or it could not be told."""
    known = {
        "the tokens of the prompt": "prompt_tokens",
        "what of them was evaluated": "cached",
        "the tokens of the answer": "generated",
        "the engine's own time": "prompt_ms",
    }
    missing = [words for words, name in known.items() if name not in counted]
    return ", ".join(["its settings", *missing, *(["its sampling"] * (not all_told))])
