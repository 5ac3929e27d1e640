"""What a workload asks of a model: for each generation its prompt, and what the KV cache holds."""

from __future__ import annotations

from typing import NamedTuple

from llm_latency.engine.timed import TimedModel
from llm_latency.plan.spec import Workload


class Question(NamedTuple):
    """A prompt, and how many of its tokens are in the KV cache when the clock starts."""

    prompt: str | list[int]
    prefix_tokens: int


def question(model: TimedModel, workload: Workload, repeat: int) -> Question:
    """Return what is asked in a generation; ``repeat`` 0 is the first after loading."""
    prompt: str | list[int]
    if workload.conversation is not None:
        prompt, said = model.conversation(workload.conversation, repeat)
    elif workload.prompt_tokens is not None:
        prompt = model.passage(workload.prompt_tokens)
        said = len(prompt) - 1  # llama.cpp needs a token to evaluate
    else:
        prompt = workload.prompt or ""
        said = len(model.tokenize(prompt)) - 1
    kept = said if workload.cache_mode == "kept" and repeat else 0
    return Question(prompt, kept or workload.prefix_tokens)


def prefix(model: TimedModel, workload: Workload) -> list[int]:
    """Return the tokens that a workload of ``cache_mode="prefix"`` finds in the KV cache."""
    asked = question(model, workload, 0)
    tokens = model.tokenize(asked.prompt) if isinstance(asked.prompt, str) else asked.prompt
    return tokens[: asked.prefix_tokens]
