"""What choosing a token costs, by the size of the vocabulary: ``python -m benchmarks.sampling``.

A sampler reads every score of the vocabulary, so it costs by the vocabulary and not by the model.
Three models that differ in nothing else are made, and on each, in one process, the ways to choose
take turns in shuffled order over the same prompt. What is clocked is the call alone, when the
evaluation is over. All this is one process: the interval tells of this process's repeats.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from llm_latency.engine import prompts
from llm_latency.engine.timed import TimedModel
from llm_latency.model.synthetic import SHAPES, write_model
from llm_latency.plan.settings import Settings
from llm_latency.plan.workload import Sampling
from llm_latency.stats.estimate import Estimate, estimate

US = 1e6
VOCABULARIES = (10_240, 32_000, 151_936)
"""Of ``synthetic:tiny``, of Llama 2 and of Qwen 2."""
ALL = Sampling(temperature=0.7, top_k=40, top_p=0.95, min_p=0.0, repeat_penalty=1.1)
OFF = ALL.model_copy(update={"top_k": 0, "top_p": 1.0, "repeat_penalty": 1.0})
WAYS: dict[str, Sampling | None] = {
    "the most likely": None,
    "temperature alone": OFF,
    "and top_k": OFF.model_copy(update={"top_k": 40}),
    "and top_p": OFF.model_copy(update={"top_k": 40, "top_p": 0.95}),
    "and repeat_penalty": ALL,
}
"""Each beside those before it; the last is what was asked for."""


def main(arguments: list[str] | None = None) -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=12, help="generations of each way")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    asked = parser.parse_args(arguments)
    print(f"{', '.join(WAYS)}: {ALL.words}")
    print(f"{'vocabulary':<12}{'chosen':<20}{'µs per token':>14}{'interval':>20}{'of decode':>12}")
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        for size in VOCABULARIES:
            path = Path(folder) / f"{size}.gguf"
            write_model(path, replace(SHAPES["tiny"], n_vocab=size), "q8_0")
            with TimedModel(path, Settings(n_ctx=256), nowhere) as model:
                for way, (took, share) in costs(model, asked).items():
                    bounds = f"{took.low * US:.1f} to {took.high * US:.1f}"
                    line = f"{size:<12,}{way:<20}{took.median * US:>14.1f}{bounds:>20}"
                    print(f"{line}{share.median:>12.0%}", flush=True)
            path.unlink()
    return 0


def costs(model: TimedModel, asked: argparse.Namespace) -> dict[str, tuple[Estimate, Estimate]]:
    """Return the seconds per token of each way, and their share of the time between tokens."""
    prompt, rng = prompts.passage(model, 32), random.Random(asked.seed)
    took: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for repeat in range(asked.repeats + 1):
        for way in rng.sample(list(WAYS), len(WAYS)):
            told = model.generate(prompt, asked.max_tokens, length="fixed", sampling=WAYS[way])
            if repeat:  # the first of each is dropped
                took[way].append((told.sampling_token_s, told.sampling_token_s * told.decode_tps))
    return {
        way: (estimate(a for a, _ in each), estimate(b for _, b in each))
        for way, each in took.items()
    }


if __name__ == "__main__":
    sys.exit(main())
