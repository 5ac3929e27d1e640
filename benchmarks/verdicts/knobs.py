"""How often ``knobs`` names a knob that does nothing, and whether it finds ten per cent.

``python -m benchmarks.verdicts.knobs`` carries out whole runs of twelve knobs whose worker does the
same work in every cell, each time in a fresh process: the noise is this machine's. In each run one
knob is measured a second time in a worker that does 10 % more. As measured, a run is to name none;
with that knob in the place of its equal one, that knob and no other.

On two CPUs where others worked it took a quarter of an hour. There, twice: none was named in 20 and
20 of 20 runs, and the dearer knob alone in 20 and 19.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from llm_latency.measure.trial import carry_out
from llm_latency.plan.spec import Trial
from llm_latency.questions.knobs import Effect, View, planning
from llm_latency.records.record import Record
from llm_latency.records.rows import to_frame
from llm_latency.report.page import Rows
from tests.support import fake_worker, jobs

KNOB, SHARE = "offload_kqv", 0.1
"""The knob that costs something, and how much."""
THREADS = 2
"""The worker computes on one; this only says which knobs there are."""


def worker(share: float) -> tuple[str, ...]:
    """Return the command line of a worker whose knob costs so much."""
    options = json.dumps({"knob": KNOB, "share": share})
    return (sys.executable, str(fake_worker.__file__), "works", options)


def cells() -> list[Trial]:
    """Return the baseline and every knob of some machine, but the cores, which a worker pins."""
    base = planning.plan(n_ctx=1024, max_tokens=4, repeats=9).cells[0]
    knobs = planning.every(base, THREADS)
    del knobs["cores"]
    return [base, *(planning.turned(base, change) for change in knobs.values())]


def run(folder: Path, rounds: int) -> tuple[list[Record], list[Record], str]:
    """Measure one run; return its records, those of the dearer knob, and that knob's cell."""
    base, *knobs = cells()
    dear = next(cell for cell in knobs if getattr(cell.settings, KNOB) is False)
    planned = [(cell, 0.0) for cell in (base, base.model_copy(update={"twin": True}), *knobs)]
    found: dict[float, list[Record]] = {0.0: [], SHARE: []}
    for number in range(rounds):
        shuffled = [*planned, (dear, SHARE)]
        random.Random(f"{folder.name}/{number}").shuffle(shuffled)
        for cell, share in shuffled:
            trial = cell.model_copy(update={"round": number})
            job = jobs.job(folder, trial, timeout_s=120, worker=worker(share))
            found[share].append(carry_out(job))
    return found[0.0], found[SHARE], dear.cell_id


def compared(records: list[Record]) -> list[Effect]:
    """Return what each knob of a run does."""
    return View(Rows(to_frame(records), {})).effects


def named(records: list[Record]) -> set[str]:
    """Return the cells of the knobs that a run names."""
    return {one.cell_id for one in compared(records) if one.matters}


def main() -> None:
    """Measure, and print in how many runs the right knobs were named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="as the notebook")
    parser.add_argument("--runs", type=int, default=20)
    asked = parser.parse_args()
    equal: Counter[int] = Counter()
    alone: Counter[tuple[bool, int]] = Counter()
    floors: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        for number in tqdm(range(asked.runs), unit="run"):
            folder = Path(place) / f"run{number}"
            folder.mkdir()
            records, dearer, dear = run(folder, asked.rounds)
            equal[len(named(records))] += 1
            turned = [one for one in records if one.trial.cell_id != dear] + dearer
            found = named(turned)
            alone[dear in found, len(found - {dear})] += 1
            floors += [one.noise_floor or 0.0 for one in compared(records)[0].times.values()]
            tqdm.write(f"equal: {dict(equal)}; {SHARE:.0%}: {dict(alone)}; {floors[-2:]}")
    print(
        f"{len(cells()) - 1} knobs, {asked.rounds} rounds, {asked.runs} runs: "
        f"none named where none differs: {equal[0]}; the knob that costs {SHARE:.0%} named and no "
        f"other: {alone[True, 0]}; median noise floor {sorted(floors)[len(floors) // 2]:.1%}"
    )


if __name__ == "__main__":
    main()
