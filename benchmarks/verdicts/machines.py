"""How often equal cells bring a verdict to a run on two machines.

``python -m benchmarks.verdicts.machines`` carries out whole sweeps of two cells that do the same
work, and a twin, over two places of this machine: each a process of its own, with a name, a cache,
a lock and a folder of its own, so that to the lab they are two machines. Six rounds are dealt to
both. Faster, slower and "depends on the machine" are wrong here.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

import llm_latency as lab
from llm_latency.plan.spec import Plan
from llm_latency.questions import deciding

NAMES = ("here", "there")


def live(name: str, home: Path) -> None:
    """Make this process a machine of its own, as far as the lab can tell."""
    os.environ["LLM_LATENCY_MACHINE"] = name
    for variable in ("CACHE", "LOCK", "OUTPUTS"):
        os.environ[f"LLM_LATENCY_{variable}"] = str(home / name / variable.lower())


def place(name: str, home: Path) -> ProcessPoolExecutor:
    """Return an executor that works on one such machine, one trial at a time."""
    (home / name).mkdir()
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=spawn, initializer=live, initargs=(name, home))


def plan(rounds: int, seed: int) -> Plan:
    """Return a sweep whose two cells do the same: their prompt fits into either batch."""
    made: Plan = lab.experiments.sweep(
        model="synthetic:tiny",
        n_ctx=512,
        n_batch=[128, 256],
        n_threads=1,
        prompt_tokens=96,
        max_tokens=4,
        repeats=2,
        rounds=rounds,
        seed=seed,
    )
    return made


def main() -> None:
    """Measure, and print how often a verdict was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--equal", type=int, default=40, help="runs of equal cells")
    parser.add_argument("--rounds", type=int, default=6, help="of each run, over both machines")
    parser.add_argument("--seed", type=int, default=0, help="of the first run's order")
    asked = parser.parse_args()
    tally: Counter[str] = Counter()
    dealt: list[int] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as home, ExitStack() as open_:
        places = [open_.enter_context(place(name, Path(home))) for name in NAMES]
        for number in (bar := tqdm(range(asked.equal), unit="run")):
            run = lab.run(plan(asked.rounds, asked.seed + number), places=places, progress=False)
            (found,) = deciding.compared("sweep", run)
            tally[found.verdict] += 1
            rows = run.frame()
            dealt.append(rows["round"].groupby(rows["machine_id"]).nunique().min())
            bar.set_postfix(tally)
    wrong = sum(tally[word] for word in ("faster", "slower", "depends"))
    print(
        f"{asked.rounds} rounds over two machines, at least {min(dealt)} on each: {wrong} wrong "
        f"verdicts in {asked.equal} runs of equal cells; {dict(tally)}; "
        f"{time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
