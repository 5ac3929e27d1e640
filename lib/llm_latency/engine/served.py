"""A model that llama-server holds: asked over HTTP, timed by its client, proven by its word.

It answers like :class:`~llm_latency.engine.timed.TimedModel` does, so that a trial goes the same
way with either. What is measured is the server's process; this one only asks.

What would make a figure false, and what is done about it here:

- The server keeps what it was asked before. Cold, it is told to use none of it; where a part is to
  be there, the server is brought to hold exactly this part before the clock starts. Its own
  ``timings`` say what it found (``cache_n``) and what it evaluated (``prompt_n``).
- Its log is the only place that says what is in force, and is read as llama.cpp's own is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import httpx

from llm_latency.engine import streamed
from llm_latency.engine.answering import Answering, Asked
from llm_latency.engine.loading import in_force
from llm_latency.engine.server import Server
from llm_latency.engine.vocabulary import Vocabulary
from llm_latency.errors import EngineError
from llm_latency.plan.settings import Settings
from llm_latency.plan.workload import Sampling
from llm_latency.records import proof
from llm_latency.records.generation import Generation
from llm_latency.records.record import DeviceMemory, Effective

ORDER = ("penalties", "top_k", "typ_p", "top_p", "min_p", "temperature")
"""The order in which llama-cpp-python applies its samplers, by the server's names."""


class ServedCache:
    """What the server's slot holds, and how it is brought to hold it."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._held: list[int] = []

    def note(self, tokens: list[int]) -> None:
        """Remember what was evaluated."""
        self._held = tokens

    def tokens(self) -> list[int]:
        """Return the tokens that it holds."""
        return self._held

    def prime(self, tokens: list[int]) -> int:
        """Have exactly these tokens in the slot; return how many had to be evaluated anew.

        Of a prompt that it holds whole, the server evaluates the last token again: that one does
        not count.
        """
        same = 0
        for have, want in zip(self._held, tokens, strict=False):
            if have != want:
                break
            same += 1
        body = {"prompt": tokens, "n_predict": 0, "cache_prompt": True, "stream": True}
        found = int(self._model.ask(body).events[-1]["timings"]["cache_n"])
        self.note(tokens)
        return same - found if same - found > 1 else 0

    def restore(self, state: Path) -> None:
        """Refuse: the server reads no state of llama.cpp's or llama-cpp-python's."""
        raise EngineError(f"llama-server restores no {state.name}; give via='engine'")

    restore_python = restore


class ServedModel(Answering):
    """A model in a llama-server of its own; of its file, this process has the vocabulary alone.

    Attributes
    ----------
    load : LoadTimings
        Where the time went until the server was ready, the warm-up included, in seconds.
    effective : Effective
        The settings in force.
    buffers : Buffers
        What llama.cpp says it allocated, in bytes.
    log : LlamaLog
        What the server said.
    kv_cache : ServedCache
        What its slot holds.
    devices_before : dict
        Nothing: to ask the devices, this process would take some of their memory.
    """

    def __init__(
        self, path: Path, settings: Settings, stream: TextIO | None = None, at_once: int = 1
    ) -> None:
        super().__init__(Vocabulary.of(path)._llama)
        self._server, self._at_once = Server(path, settings, stream, at_once), at_once
        self.log, self.load = self._server.log, self._server.load
        self.effective = self._in_force(settings)
        self.buffers = self.log.buffers()
        self.kv_cache = ServedCache(self)
        self.devices_before: dict[str, DeviceMemory] = {}

    @property
    def pid(self) -> int:
        """The process that holds the model."""
        return self._server.pid

    @property
    def system_info(self) -> str | None:
        """What llama.cpp says of the CPU features that it was compiled for and found."""
        return self.log.after("system_info: ")

    def close(self) -> None:
        """End the server."""
        self._server.close()

    def answer(self, asked: Asked) -> Generation:
        """Ask the server; of several requests at once, the same for all, the slowest is told."""
        prompt, prefix_tokens = asked.prompt, asked.prefix_tokens
        tokens = self.tokenize(prompt) if isinstance(prompt, str) else list(prompt)
        refilled = self.kv_cache.prime(tokens[:prefix_tokens]) if prefix_tokens else 0
        body = {
            # A text is made into tokens by the server, within the time to the first token.
            "prompt": prompt if isinstance(prompt, str) else tokens,
            "n_predict": asked.max_tokens,
            "cache_prompt": prefix_tokens > 0,
            "ignore_eos": not asked.natural,
            "stream": True,
            **chosen_by(asked.sampling),
        }
        answers = self._ask_all(body)
        answer = max(answers, key=lambda one: one.first_s(_text_of) - one.t0_s)
        last, text = answer.events[-1], "".join(map(_text_of, answer.events))
        counted = [one.events[-1]["timings"] for one in answers]
        problems = [
            proof.problem(
                prompt=len(tokens),
                prefix=prefix_tokens,
                cached=each["cache_n"],
                evaluated=each["prompt_n"],
                asked=asked.exactly,
                generated=each["predicted_n"],
            )
            for each in counted
        ]
        took_s = max(one.end_s for one in answers) - min(one.t0_s for one in answers)
        came = [token for event in answer.events for token in event.get("tokens", [])]
        # The last token was sampled and not evaluated.
        self.kv_cache.note([*tokens, *came[:-1]])
        own = last["timings"]
        return Generation(
            repeat=asked.repeat,
            prompt_tokens=len(tokens),
            prompt_words=len(self.detokenize(tokens, after=[]).split()),
            evaluated_tokens=own["prompt_n"],
            cached_tokens=own["cache_n"],
            refilled_tokens=refilled,
            generated_tokens=own["predicted_n"],
            together_tps=sum(each["predicted_n"] for each in counted) / took_s,
            finish_reason="length" if last["stop_type"] == "limit" else "stop",
            timings=streamed.timings(answer, _text_of, own),
            text=text,
            text_sha256=hashlib.sha256(text.encode()).hexdigest(),
            problem=next((one for one in problems if one), None),
        )

    def _ask_all(self, body: dict[str, Any]) -> list[streamed.Streamed]:
        """Ask the same as often as there are to be requests at once, and wait for all answers."""
        with streamed.undisturbed():
            if self._at_once == 1:
                return [self.ask(body)]
            with ThreadPoolExecutor(self._at_once) as pool:
                return list(pool.map(self.ask, [body] * self._at_once))

    def ask(self, body: dict[str, Any]) -> streamed.Streamed:
        """Ask the server for an answer in a stream."""
        with self._alive():
            return streamed.ask(self._server.client, "/completion", body)

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Tell a server that went away from one that refuses."""
        try:
            yield
        except httpx.TransportError as error:
            self._server.check()
            raise EngineError(f"llama-server does not answer ({error}); read its log") from None

    def _in_force(self, settings: Settings) -> Effective:
        number = self.log.number
        return in_force(
            self.log,
            settings,
            self.pid,
            n_ctx=number("llama_context: n_ctx") or 0,
            n_batch=number("llama_context: n_batch") or 0,
            n_ubatch=number("llama_context: n_ubatch") or 0,
            n_threads=number("system_info: n_threads") or 0,
            n_threads_batch=number("n_threads_batch") or 0,
            op_offload=settings.op_offload is not False,  # as it was handed over
            # Of those that are moved no word is said at this verbosity.
            n_cpu_moe=None if settings.n_cpu_moe else 0,
            all_layers=(number("print_info: n_layer") or 0) + 1,
        )


def chosen_by(sampling: Sampling | None) -> dict[str, Any]:
    """Return what the server is told to choose tokens by, in llama-cpp-python's order."""
    told = (sampling or Sampling(temperature=0.0)).model_dump(exclude_none=True)
    if "json_schema" in told:
        told["json_schema"] = json.loads(told["json_schema"])
    return told | {"samplers": ORDER, "repeat_last_n": 64}


def _text_of(event: Mapping[str, Any]) -> str:
    """Return the text that one event brings."""
    return str(event.get("content") or "")
