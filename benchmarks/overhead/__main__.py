"""What the lab's own time stamps cost per token: ``python -m benchmarks.overhead``.

In one process, on one loaded model, two ways through the same tokens take turns in shuffled
order: the lab's generation, with a time stamp per token, and a bare loop of ``llama_decode`` and
``llama_sampler_sample`` through ctypes, clocked only before its first and after its last call.
Their difference per token is all that the lab adds: methods of its own, stamps, lists. The same
once more with calls that do nothing in place of llama.cpp's shows it free of the engine's noise.
What is behind both (ctypes, sampling in C) is printed beside it.

A token of the tiny model is short, so that a few microseconds can be seen in it, and generations
are short, so that what disturbs the machine falls on few of them; what Python adds does not
depend on the model. All this is one process: the interval tells of this process's
repeats, run it again for another.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import llama_cpp.llama_cpp as C

from llm_latency.engine import prompts
from llm_latency.engine.timed import TimedModel
from llm_latency.model import names as models
from llm_latency.plan.settings import Settings
from llm_latency.stats.estimate import Estimate, estimate

US = 1e6
LIMIT_US = 20.0
"""The lab's promise: its stamps cost no more per token."""


def bare(model: TimedModel, prompt: list[int], limit: int) -> tuple[float, list[int]]:
    """Generate with C calls alone; return the seconds of all, and the tokens."""
    context, sampler = model._ctx, model._sampler
    array = (C.llama_token * len(prompt))(*prompt)
    first = C.llama_batch_get_one(ctypes.cast(array, C.llama_token_p), len(prompt))
    one = (C.llama_token * 1)()
    step = C.llama_batch_get_one(one, 1)
    decode, sample = C.llama_decode, C.llama_sampler_sample
    tokens = [0] * limit
    model.kv_cache.forget()
    gc.collect()
    gc.disable()
    try:
        model.reset_counters()
        start_s = time.perf_counter()
        decode(context, first)
        token = tokens[0] = sample(sampler, context, -1)
        for place in range(1, limit):
            one[0] = token
            decode(context, step)
            token = tokens[place] = sample(sampler, context, -1)
        return time.perf_counter() - start_s, tokens
    finally:
        gc.enable()


def lab(model: TimedModel, prompt: list[int], limit: int) -> float:
    """Generate as the lab does; return the seconds from its first stamp to its last."""
    return model.generate(prompt, limit, length="fixed").timings.total_s


@contextlib.contextmanager
def without_the_engine() -> Iterator[None]:
    """Let both loops call nothing: what is left is Python, and a busy machine cannot hide it."""
    names = {"llama_decode": lambda *_: 0, "llama_sampler_sample": lambda *_: 1}
    originals = {name: getattr(C, name) for name in names}
    for name, nothing in names.items():
        setattr(C, name, nothing)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(C, name, original)


def in_turn(
    ways: Mapping[str, Callable[[], float]], count: int, rng: random.Random
) -> dict[str, list[float]]:
    """Return what each way took, the ways taking turns in shuffled order."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():  # the first of each is dropped
        way()
    for _ in range(count):
        order = list(ways)
        rng.shuffle(order)
        for name in order:
            taken[name].append(ways[name]())
    return taken


def difference(taken: Mapping[str, list[float]]) -> Estimate:
    return estimate(a - b for a, b in zip(taken["lab"], taken["bare"], strict=True))


def each(call: Callable[[], Any], count: int = 2000) -> float:
    """Return the seconds of one call, over many."""
    start_s = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start_s) / count


def say(label: str, value: Estimate) -> None:
    shown = value.times(US)
    kind = "95 % interval" if value.kind == "interval" else "range"
    bounds = f"{kind} {shown.low:7.1f} to {shown.high:7.1f}, n = {shown.n}"
    print(f"{label:<46}{shown.median:9.1f} µs  ({bounds})")


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit code is 1 if the stamps cost more than promised."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--model", default="synthetic:tiny")
    parser.add_argument("--n-threads", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=300, help="pairs of generations")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    limit, rng = asked.max_tokens, random.Random(asked.seed)
    path = models.resolve(asked.model, progress=True)
    settings = Settings(
        n_ctx=256 * (1 + (limit + 8) // 256),
        n_batch=256,
        n_ubatch=256,
        n_threads=asked.n_threads,
        n_threads_batch=asked.n_threads,
    )
    with open("/dev/null" if sys.platform != "win32" else "NUL", "w") as nowhere:
        model = TimedModel(path, settings, nowhere)
        prompt = prompts.passage(model, 8)
        ways: dict[str, Callable[[], float]] = {
            "lab": lambda: lab(model, prompt, limit) / limit,
            "bare": lambda: bare(model, prompt, limit)[0] / limit,
        }
        taken = in_turn(ways, asked.repeats, rng)
        with without_the_engine():
            alone = difference(in_turn(ways, asked.repeats, rng))
        sampling_s = each(lambda: C.llama_sampler_sample(model._sampler, model._ctx, -1))
        call_s = each(lambda: C.llama_n_ctx(model._ctx))
    stamps: list[float] = []
    stamp_s = each(lambda: stamps.append(time.perf_counter()))
    added = difference(taken)
    print(f"{asked.model}, {asked.n_threads} thread(s), {limit} tokens, {asked.repeats} pairs")
    say("bare loop of C calls, per token", estimate(taken["bare"]))
    say("the lab's generation, per token", estimate(taken["lab"]))
    say("difference: what the lab adds, per token", added)
    say("the same with calls that do nothing", alone)
    print(f"of which a stamp and its append: {stamp_s * US:.2f} µs")
    print(f"behind both: one sampling {sampling_s * US:.1f} µs, a call of C {call_s * US:.2f} µs")
    if added.low * US > LIMIT_US:
        print(f"NOT KEPT: the lab adds more than {LIMIT_US:g} µs per token.")
        return 1
    if added.high * US > LIMIT_US:
        print("Undecided: the interval reaches too far; repeat it on a quiet machine.")
        return 0
    print(f"Kept: the lab adds at most {LIMIT_US:g} µs per token.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
