"""How well memory is foretold: ``python -m benchmarks.memory``.

The total that is predicted from a file's header, against what llama.cpp allocates, over cells
that no constant was fitted to; and the frontier under a cap on RAM, by the search and by trying
every context on the grid, in shuffled order, each probe a process that fills its window.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from llm_latency.engine.llama import Model
from llm_latency.measure.runner import run
from llm_latency.measure.trial import carry_out
from llm_latency.memory import frontier, predict
from llm_latency.model import names
from llm_latency.model.header import read_header
from llm_latency.plan.spec import PADDING, Plan, Settings
from tests.support import jobs

MODELS = ("synthetic:tiny", "synthetic:tiny:q4_0", "synthetic:125m", "synthetic:125m:q4_0")
CONTEXTS = (512, 2048, 8192, 32768)
BATCHES = (64, 256, 512, 2048)


def totals() -> bool:
    """Print the furthest of predicted over allocated; return whether all are within 3 %."""
    ratios: list[tuple[float, str, Settings]] = []
    cells = list(itertools.product(MODELS, CONTEXTS, BATCHES, (False, True), (False, True)))
    for name, n_ctx, n_ubatch, flash, mapped in tqdm(cells, unit="cell", desc="totals"):
        if (n_ctx * n_ubatch > 2**24 and not flash) or (mapped and n_ctx > CONTEXTS[0]):
            continue  # a compute buffer of gigabytes; weights are the same in every context
        path = names.resolve(name)
        settings = Settings(
            n_ctx=n_ctx, n_batch=2048, n_ubatch=n_ubatch, flash_attn=flash, use_mmap=mapped
        )
        with open(os.devnull, "w") as nowhere, Model(path, settings, nowhere) as model:
            buffers = model.log.buffers().model_dump(exclude={"by_device"})
        real = sum(value or 0 for value in buffers.values())
        ratios.append(
            (predict.predict(read_header(path), settings).total_bytes / real, name, settings)
        )
    low, high = min(ratios, key=lambda r: r[0]), max(ratios, key=lambda r: r[0])
    worst = max(ratios, key=lambda r: abs(r[0] - 1))
    print(f"{len(ratios)} cells: predicted / allocated {low[0]:.4f} to {high[0]:.4f}")
    asked = worst[2]
    print(
        f"the furthest: {worst[0]:.4f}, {worst[1]}, n_ctx {asked.n_ctx}, n_ubatch "
        f"{asked.n_ubatch}, flash_attn {asked.flash_attn}, use_mmap {asked.use_mmap}"
    )
    return low[0] >= 0.97 and high[0] <= 1.03


def edges(limit: str, most: int, seed: int) -> bool:
    """Print the frontier by search and by trying all; return whether they agree, cheaply."""
    plan = frontier.plan(
        memory_limit=limit,
        most=most,
        n_batch=[64, 256],
        n_ubatch=0,
        n_threads=1,
        # A mapped file gives way when memory is short: slowly, and not at an edge.
        use_mmap=False,
        type_k="f32",
        type_v="f32",
    )
    store = run(plan, progress=False)
    found = frontier.found(store.records())
    steps = most // PADDING
    held = True
    for cell in plan.cells:
        row = found[found["n_batch"] == cell.settings.n_batch].iloc[0]
        worked = _exhaustively(plan, cell.settings.n_batch, steps, seed)
        share = row["probes"] / steps
        agrees = row["n_ctx"] == worked
        held = held and agrees and share <= 0.25
        print(
            f"n_batch {cell.settings.n_batch} under {limit}: search n_ctx {row['n_ctx']} with "
            f"{row['probes']} probes, all {steps} tried: {worked}; {share:.0%} of the probes, "
            + ("agrees" if agrees else "DIFFERS")
        )
    return held


def _exhaustively(plan: Plan, n_batch: int, steps: int, seed: int) -> int | None:
    """Return the largest context below the smallest that fails, by trying every one."""
    cell = next(c for c in plan.cells if c.settings.n_batch == n_batch)
    order = list(range(1, steps + 1))
    random.Random(seed).shuffle(order)
    works = {}
    with tempfile.TemporaryDirectory() as folder:
        for step in tqdm(order, unit="probe", desc=f"every n_ctx, n_batch {n_batch}"):
            trial = frontier.probe(cell, step * PADDING)
            record = carry_out(jobs.job(Path(folder), trial, timeout_s=plan.timeout_s))
            works[step] = record.status == "ok"
    fails = min((step for step, fine in works.items() if not fine), default=steps + 1)
    if any(fine for step, fine in works.items() if step > fails):
        print("what works for one context did not work for every smaller one", file=sys.stderr)
    return (fails - 1) * PADDING or None


def main() -> None:
    """Print all, and exit with 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", default="48 MiB", help="cap on RAM for the frontier")
    parser.add_argument("--most", type=int, default=8192, help="largest context to try")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("LLM_LATENCY_OUTPUTS", folder)
        held = [totals(), edges(asked.limit, asked.most, asked.seed)]
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
