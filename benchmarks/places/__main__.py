"""What a place costs, in trials per minute against the plain loop: ``python -m benchmarks.places``.

One machine, one worker: the same small trials are measured in runs of the plain loop and in runs
at that worker, in turns, which goes first alternating. The first trial of a run is left out: what
is prepared counts into it, and its cost is printed beside. Trials of the tiny model are the
shortest there are, so a place costs less of all others.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from typing import Any

import llm_latency as lab
from llm_latency.stats.estimate import estimate
from tests.support import elsewhere

LEAST = 0.97
"""The lab's promise: so many of the plain loop's trials per minute, at least."""


def measured(plan: lab.Plan, places: Any = None) -> tuple[float, float]:
    """Carry out a plan; return its trials per minute, and the seconds of its first."""
    run = lab.run(plan, places=places, progress=False)
    first, *others = run.records()
    if {record.status for record in run.records()} != {"ok"}:
        raise SystemExit(f"not all of {run.path} was measured")
    return 60 * len(others) / sum(record.took_s or 0.0 for record in others), first.took_s or 0.0


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit code is 1 if a place costs more than promised."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.places", description=__doc__)
    parser.add_argument("--pairs", type=int, default=6, help="of runs")
    parser.add_argument("--rounds", type=int, default=3, help="of two trials, in each run")
    asked = parser.parse_args(arguments)
    found: dict[str, list[tuple[float, float]]] = {"plain": [], "dask": []}
    with tempfile.TemporaryDirectory() as outputs:
        os.environ["LLM_LATENCY_OUTPUTS"] = outputs
        with elsewhere.cluster(1) as client:
            places = {"plain": None, "dask": lab.places.dask(client)}
            for pair in range(asked.pairs):
                for way in sorted(places, reverse=bool(pair % 2)):
                    plan = lab.experiments.sweep(
                        n_ctx=512,
                        n_batch=256,
                        prompt_tokens=128,
                        max_tokens=32,
                        rounds=asked.rounds,
                        seed=pair,
                        run_id=f"{way}-{pair}",
                    )
                    found[way].append(measured(plan, places[way]))
                both = "; ".join(f"{way} {found[way][-1][0]:.2f}" for way in found)
                print(f"pair {pair + 1}: {both} trials per minute", flush=True)
    for way, words in (("plain", "plain loop"), ("dask", "one Dask worker")):
        speed = estimate(per_minute for per_minute, _ in found[way])
        first = estimate(first_s for _, first_s in found[way])
        print(
            f"{words:<16}{speed.median:7.2f} trials per minute ({speed.low:.2f} to "
            f"{speed.high:.2f}, {speed.n} runs); the first after {first.median:.1f} s"
        )
    both = zip(found["dask"], found["plain"], strict=True)
    ratio = estimate(there / here for (there, _), (here, _) in both)
    kind = "95 % interval" if ratio.kind == "interval" else "range"
    print(f"ratio of a pair {ratio.median:.4f} ({kind} {ratio.low:.4f} to {ratio.high:.4f})")
    below, above = ratio.high < LEAST, ratio.low >= LEAST
    verdict = "NOT KEPT" if below else "Kept" if above else "Undecided, take more --pairs"
    print(f"{verdict}: at least {LEAST:g} of the plain loop.")
    return int(below)


if __name__ == "__main__":
    sys.exit(main())
