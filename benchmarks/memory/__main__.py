"""How well memory is foretold: ``python -m benchmarks.memory``.

What llama.cpp's plan foretells against what it then allocates, over random models and settings,
the KV cache to the byte; and the frontier under a cap on RAM, by the search and by trying
every context on the grid, in shuffled order, each probe a process that fills its window.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from llm_latency.engine.llama import Model
from llm_latency.measure.runner import run
from llm_latency.measure.trial import carry_out
from llm_latency.memory import frontier
from llm_latency.memory.dry_run import foretelling
from llm_latency.model import names
from llm_latency.model.header import read_header
from llm_latency.model.synthetic import SHAPES
from llm_latency.plan.settings import PADDING, Settings
from llm_latency.plan.spec import Plan
from tests.support import jobs

MODELS = tuple(
    f"synthetic:{shape}{kind}"
    for shape in SHAPES
    if shape not in ("1b", "7b")
    for kind in ("", ":q4_0", ":f16")
)
KV_BYTES = 2 * 0.0051 * 2**20
"""llama.cpp prints MiB with two decimals, and beside a sliding window two caches."""


def totals(count: int, seed: int) -> bool:
    """Print the furthest of predicted over allocated; return whether all are within 3 %."""
    chance = random.Random(seed)
    ratios: list[tuple[float, str, Settings]] = []
    exact = True
    for _ in tqdm(range(count), unit="load", desc="totals"):
        name, asked = chance.choice(MODELS), _settings(chance)
        path = names.resolve(name)
        with open(os.devnull, "w") as nowhere, Model(path, asked, nowhere) as model:
            real = model.log.buffers()
        with foretelling(path, read_header(path), "cpu") as foretell:
            said = foretell(asked)
        exact = exact and abs(said.host.kv_bytes - (real.kv_bytes or 0)) <= KV_BYTES
        total = sum(value or 0 for value in real.model_dump(exclude={"by_device"}).values())
        ratios.append((said.total_bytes / total, name, asked))
    low, high = min(ratios, key=lambda r: r[0]), max(ratios, key=lambda r: r[0])
    ratio, name, asked = max(ratios, key=lambda r: abs(r[0] - 1))
    print(
        f"{count} loads: predicted / allocated {low[0]:.4f} to {high[0]:.4f}, KV cache "
        + ("exact" if exact else "NOT EXACT")
    )
    print(f"the furthest: {ratio:.4f}, {name}, {asked.model_dump(exclude_defaults=True)}")
    return exact and low[0] >= 0.97 and high[0] <= 1.03


def _settings(chance: random.Random) -> Settings:
    """Return settings at random: context, batch, flash attention, KV format, mapped or read."""
    flash, kind = chance.random() < 0.5, chance.choice(["f16", "q8_0", "q4_0"])
    return Settings(
        n_ctx=chance.choice([512, 1000, 2048, 4096]),
        n_batch=512,
        n_ubatch=chance.choice([32, 128, 512]),
        flash_attn=flash,
        type_k=kind,  # type: ignore[arg-type]
        type_v=kind if flash else "f16",  # type: ignore[arg-type]
        use_mmap=chance.random() < 0.5,
        swa_full=chance.choice([None, False]),
    )


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
    parser.add_argument("--loads", type=int, default=200, help="random models and settings")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("LLM_LATENCY_OUTPUTS", folder)
        held = [totals(asked.loads, asked.seed), edges(asked.limit, asked.most, asked.seed)]
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
