"""How often verdicts are wrong, and how often they find five per cent.

``python -m benchmarks.verdicts`` compares equal cells with each other many times (A/A), and equal
cells with one whose worker pauses for 5 % of every evaluation. A verdict of faster or slower on
equal cells is wrong; "slower" on the paused one is right. Each comparison measures its own fresh
processes; the twins that give the noise floor are shared by the comparisons of one block, as
they are in a sweep.

Takes about a third of a second per process: 20 to 40 minutes as it stands, on a quiet machine.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pandas as pd
from scipy.stats import binomtest
from tqdm import tqdm

from llm_latency import child, models
from llm_latency.compare import SMALLEST_EFFECT, compare, noise_floor, samples
from llm_latency.record import Record
from llm_latency.spec import Settings, Start, Trial, Workload
from llm_latency.store import to_frame

PAUSING = (sys.executable, "-m", "benchmarks.verdicts.pausing_worker")
BLOCK = 10
"""Comparisons that share one pair of twins."""


def measure(folder: Path, path: Path, number: int, *, pausing: bool) -> Record:
    """Carry out one trial, in a worker that pauses or in the lab's own."""
    ordinary = child.WORKER
    trial = Trial(
        experiment="verdicts",
        model="synthetic:tiny",
        settings=Settings(n_ctx=512, n_batch=256),
        workload=Workload(prompt_tokens=256, max_tokens=32, repeats=2),
        start=Start(page_cache="resident"),
        round=number,
    )
    if pausing:
        child.WORKER = PAUSING
    try:
        return child.carry_out(child.Job("v", trial, str(path), str(folder / "log"), 120))
    finally:
        child.WORKER = ordinary


def block(folder: Path, path: Path, rounds: int, pairs: int, *, pausing: bool) -> pd.DataFrame:
    """Measure some pairs of cells and one pair of twins, round by round, shuffled."""
    frames = []
    for number in range(rounds):
        labels = [(f"{side}{k}", False) for k in range(pairs) for side in "ab"]
        labels += [("twins", False), ("twins", True)]
        random.Random(f"{folder.name}/{number}").shuffle(labels)
        for label, twin in labels:
            slow = pausing and label.startswith("b")
            rows = to_frame([measure(folder, path, number, pausing=slow)])
            frames.append(rows.assign(cell_id=label, twin=twin))
    return pd.concat(frames, ignore_index=True)


def verdicts(frame: pd.DataFrame, pairs: int) -> list[tuple[str, float, float]]:
    """Return the verdict, change and noise floor of every pair of a block."""
    floor = noise_floor(frame, "total_s")
    found = []
    for k in range(pairs):
        a, b = (samples(frame, "total_s", cell_id=f"{side}{k}") for side in "ab")
        result = compare(a, b, floor)
        found.append((result.verdict, result.change, floor or float("nan")))
    return found


def main() -> None:
    """Measure, and print both rates with their intervals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="as params/standard.yaml")
    parser.add_argument("--equal", type=int, default=200, help="comparisons of equal cells")
    parser.add_argument("--paused", type=int, default=50, help="comparisons with a paused one")
    asked = parser.parse_args()
    path = models.resolve("synthetic:tiny")
    print(
        f"{asked.rounds} rounds per comparison; total latency of 256 + 32 tokens; smallest effect "
        f"of interest {SMALLEST_EFFECT:.0%}"
    )
    with tempfile.TemporaryDirectory() as place:
        for name, count, pausing in (("equal", asked.equal, False), ("paused", asked.paused, True)):
            found: list[tuple[str, float, float]] = []
            disturbed: list[float] = []
            with tqdm(total=count, desc=name, unit="comparison") as bar:
                while len(found) < count:
                    pairs = min(BLOCK, count - len(found))
                    folder = Path(place) / f"{name}{len(found)}"
                    folder.mkdir()
                    frame = block(folder, path, asked.rounds, pairs, pausing=pausing)
                    found += verdicts(frame, pairs)
                    disturbed.append(float(frame["disturbed"].mean()))
                    bar.update(pairs)
            if found:
                report(name, found, sum(disturbed) / len(disturbed))


def report(name: str, found: list[tuple[str, float, float]], disturbed: float) -> None:
    """Print how often each verdict came, and the rate that counts with its interval."""
    tally = Counter(verdict for verdict, _, _ in found)
    hits = tally["slower"] + (tally["faster"] if name == "equal" else 0)
    rate = binomtest(hits, len(found)).proportion_ci()
    changes = pd.Series([change for _, change, _ in found])
    floors = pd.Series([floor for _, _, floor in found])
    what = "called faster or slower" if name == "equal" else "called slower"
    print(
        f"{name}: {dict(tally)}; {what}: {hits} of {len(found)} = {hits / len(found):.1%} "
        f"(95 % interval {rate.low:.1%} to {rate.high:.1%}); median change {changes.median():+.2%} "
        f"(middle half {changes.quantile(0.25):+.2%} to {changes.quantile(0.75):+.2%}); median "
        f"noise floor {floors.median():.2%}; disturbed rows {disturbed:.1%}"
    )


if __name__ == "__main__":
    main()
