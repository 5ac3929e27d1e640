"""How often verdicts are wrong, and how often they find five per cent.

``python -m benchmarks.verdicts`` compares equal cells with each other many times (A/A), and equal
cells with one whose worker pauses for 5 % of every evaluation. A verdict of faster or slower on
equal cells is wrong; "slower" on the paused one is right. Cells are measured in blocks, round by
round, each time in a fresh process; each cell is compared with four others that follow it in its
block (two where one pauses), and the twins that give the noise floor are shared by a block, as in a
sweep: the comparisons of a block are not independent, so the printed interval of a rate is too
narrow. One thread, so that a core is left for the system. Both rates are printed twice: with the
quickest generation of each process, which is what verdicts use, and with the median.

With ``--sequential`` one looks after every round, and a comparison ends at the first look that
settles it: both rates are those at the end, and the share of trials that this saved is printed.
``--sweep`` measures a sweep to its end and prints what of it a run would need that may stop.

A block is 144 processes at twelve rounds, of over half a second each on a quiet machine.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Literal

import pandas as pd
from scipy.stats import binomtest
from tqdm import tqdm

from benchmarks.verdicts import saved
from llm_latency.measure.trial import carry_out
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Start, Trial
from llm_latency.plan.workload import Workload
from llm_latency.records.record import Record
from llm_latency.records.rows import to_frame
from llm_latency.stats.compare import SMALLEST_EFFECT, Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import FEWEST, estimate
from tests.support import jobs

Within = Literal["quickest", "median"]
PAUSING = (sys.executable, "-m", "benchmarks.verdicts.pausing_worker")
BLOCK = 10
"""Cells that share one pair of twins."""
UNSETTLED = Comparison(estimate([]), None, "undecided", "")
"""A comparison before its first look."""


def measure(folder: Path, number: int, *, pausing: bool) -> Record:
    """Carry out one trial, in a worker that pauses or in the lab's own."""
    trial = Trial(
        experiment="verdicts",
        model="synthetic:tiny",
        settings=Settings(n_ctx=512, n_batch=256, n_threads=1),
        workload=Workload(prompt_tokens=96, max_tokens=16, repeats=4),
        start=Start(page_cache="resident"),
        round=number,
    )
    worker = PAUSING if pausing else ()
    return carry_out(jobs.job(folder, trial, timeout_s=120, worker=worker))


def block(folder: Path, rounds: int, *, pausing: bool) -> pd.DataFrame:
    """Measure the cells of a block and a pair of twins, round by round, shuffled.

    With ``pausing``, every second cell is measured in the worker that pauses.
    """
    frames = []
    for number in range(rounds):
        labels = [(k, False) for k in range(BLOCK)] + [(BLOCK, False), (BLOCK, True)]
        random.Random(f"{folder.name}/{number}").shuffle(labels)
        for label, twin in labels:
            slow = pausing and label % 2 == 1 and label < BLOCK
            rows = to_frame([measure(folder, number, pausing=slow)])
            frames.append(rows.assign(cell_id=label, twin=twin))
    return pd.concat(frames, ignore_index=True)


def verdicts(frame: pd.DataFrame, within: Within, *, pausing: bool) -> list[Comparison]:
    """Compare each cell of a block with others; the paused one, if any, comes second."""
    floor = noise_floor(frame, "total_s", within)
    found = []
    for k, step in itertools.product(range(BLOCK), (1, 3) if pausing else (1, 2, 3, 4)):
        pair = sorted((k, (k + step) % BLOCK), key=lambda label: pausing and label % 2)
        a, b = (samples(frame, "total_s", within=within, cell_id=label) for label in pair)
        found.append(compare(a, b, floor))
    return found


def ended(frame: pd.DataFrame, rounds: int, *, pausing: bool) -> list[Comparison]:
    """Return each comparison of a block as it stood when a look after a round settled it."""
    final: dict[int, Comparison] = {}
    # As in a run: its twins leave when one may look.
    frame = frame[~frame["twin"] | (frame["round"] < FEWEST)]
    for n in range(FEWEST, rounds + 1):
        seen = frame[frame["round"] < n]
        seen.attrs["looks"] = rounds
        for place, found in enumerate(verdicts(seen, "quickest", pausing=pausing)):
            if not final.get(place, UNSETTLED).settled:
                final[place] = found
    return list(final.values())


def main() -> None:
    """Measure, and print both rates with their intervals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="as params/standard.yaml")
    parser.add_argument("--equal", type=int, default=200, help="comparisons of equal cells")
    parser.add_argument("--paused", type=int, default=60, help="comparisons with a paused one")
    parser.add_argument("--sequential", action="store_true", help="look after every round")
    parser.add_argument("--sweep", action="store_true", help="3 x 3 cells of synthetic:125m")
    asked = parser.parse_args()
    print(
        f"{asked.rounds} rounds per comparison; total latency of 96 + 16 tokens, one thread; "
        f"smallest effect of interest {SMALLEST_EFFECT:.0%}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as place:
        for name, count, pausing in (("equal", asked.equal, False), ("paused", asked.paused, True)):
            found: dict[Within, list[Comparison]] = {"quickest": []}
            found |= {} if asked.sequential else {"median": []}
            disturbed: list[float] = []
            each = (2 if pausing else 4) * BLOCK
            bar = tqdm(range(-(-count // each)), desc=name, unit="block")
            for number in bar:
                folder = Path(place) / f"{name}{number}"
                folder.mkdir()
                frame = block(folder, asked.rounds, pausing=pausing)
                for within, results in found.items():
                    results += (
                        ended(frame, asked.rounds, pausing=pausing)
                        if asked.sequential
                        else verdicts(frame, within, pausing=pausing)
                    )
                disturbed.append(float(frame["disturbed"].mean()))
                bar.set_postfix(Counter(one.verdict for one in found["quickest"]))
            for within, results in found.items():
                report(name, within, results, disturbed)
                if asked.sequential and results:
                    used = sum(one.ratio.n for one in results) / len(results)
                    print(f"trials saved: {1 - used / asked.rounds:.0%}", flush=True)
    if asked.sweep:
        saved.report(saved.measured(asked.rounds))


def report(name: str, within: Within, found: list[Comparison], disturbed: list[float]) -> None:
    """Print how often each verdict came, and the rate that counts with its interval."""
    if not found:
        return
    tally = Counter(result.verdict for result in found)
    hits = tally["slower"] + (tally["faster"] if name == "equal" else 0)
    rate = binomtest(hits, len(found)).proportion_ci()
    changes = pd.Series([result.change for result in found])
    floors = pd.Series([result.noise_floor for result in found], dtype=float)
    what = "called faster or slower" if name == "equal" else "called slower"
    print(
        f"{name}, by the {within} of each process: {what}: {hits} of {len(found)} = "
        f"{hits / len(found):.1%} (95 % interval {rate.low:.1%} to {rate.high:.1%}); "
        f"{dict(tally)}; median change {changes.median():+.2%} (middle half "
        f"{changes.quantile(0.25):+.2%} to {changes.quantile(0.75):+.2%}); median noise floor "
        f"{floors.median():.2%}; disturbed rows {sum(disturbed) / len(disturbed):.1%}",
        flush=True,
    )


if __name__ == "__main__":
    main()
