"""A million rows of many runs, by ``load_runs`` and by pandas: ``python -m benchmarks.rows``.

Real records are repeated under other names, in other rounds and with other times until there are
rows enough; a run has a thousand or so. ``load_runs`` reads them cold, out of records alone, and
warm, out of what it kept of them; ``pandas.read_parquet`` reads the same rows out of one file. Each
reading is a process of its own and the files are in the page cache, so that what is compared is the
work and not the disk.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_latency.records import cache
from llm_latency.records.store import RunStore

RATIO = 1.5
"""How much longer than pandas the lab may take for the same rows, warm."""
EACH = 3
"""Generations of a record, as with ``repeats=2``."""
STORED = Path(__file__).parents[1] / "tests" / "data" / "h200"
ONE = "frame = __import__('pandas').read_parquet({file!r})"
MANY = "frame = load_runs({runs!r})"
TIMED = """
import resource, time
import pandas, pyarrow.parquet
from llm_latency.records.many import load_runs
began = time.perf_counter()
{reading}
took = time.perf_counter() - began
print(len(frame), took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
{then}
"""


def main() -> int:
    """Print the times and their ratio; return 1 where warm is slower than it may be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--times", type=int, default=3, help="readings of each, in turn")
    parser.add_argument("--place", type=Path, help="where the runs are made, to use them again")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as own:
        place = asked.place or Path(own)
        made = make(place / "runs", asked.rows, asked.runs)
        runs, file = str(place / "runs" / "*"), str(place / "all.parquet")
        print(f"{made:,} rows of {asked.runs:,} runs are made", flush=True)
        for kept in place.glob(f"runs/*/{cache.FILE}"):
            kept.unlink()
        rows, cold, memory = read(MANY.format(runs=runs), f"frame.to_parquet({file!r})")
        print(f"load_runs, cold: {cold:.1f} s, {memory / 2**30:.1f} GiB", flush=True)
        both: list[tuple[float, float]] = []
        for _ in range(asked.times):
            pair = read(ONE.format(file=file)), read(MANY.format(runs=runs))
            if {found for found, *_ in pair} != {rows}:
                raise SystemExit(f"not the same rows: {pair}, cold {rows}")
            both.append((pair[0][1], pair[1][1]))
            for name, (_, took, memory) in zip(
                ("read_parquet", "load_runs, warm"), pair, strict=True
            ):
                print(f"{name}: {took:.2f} s, {memory / 2**30:.1f} GiB", flush=True)
    ratio = statistics.median(warm for _, warm in both) / statistics.median(one for one, _ in both)
    first = cold / statistics.median(one for one, _ in both)
    print(f"{rows:,} rows: warm {ratio:.2f} x pandas.read_parquet, cold {first:.0f} x")
    return 0 if ratio <= RATIO else 1


def make(place: Path, rows: int, runs: int) -> int:
    """Store runs with so many rows in all; those that are there already stay."""
    made = 0
    for number in range(runs):
        wanted = rows * (number + 1) // runs - made
        folder = place / f"run-{number:05d}"
        if not (folder / "run.json").exists():
            info = RunStore(STORED).info | {"run_id": folder.name}
            RunStore.create(folder, info)
            with (folder / "trials.jsonl").open("w", encoding="utf-8") as out:
                out.writelines(lines(folder.name, wanted, number))
        made += wanted
    return made


def lines(run_id: str, rows: int, seed: int) -> Iterator[str]:
    """Yield records of a run of its own, with times of their own, each of some generations."""
    text = (STORED / "trials.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    chance = random.Random(seed)
    for number, start in enumerate(range(0, rows, EACH)):
        record = records[number % len(records)] | {"run_id": run_id}
        record["trial"] = record["trial"] | {"round": number, "order": number}
        answer = record["generations"][0]
        each = range(min(EACH, rows - start))
        record["generations"] = [
            answer | {"repeat": repeat, "timings": other(answer["timings"], chance)}
            for repeat in each
        ]
        yield json.dumps(record, separators=(",", ":")) + "\n"


def other(timings: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Return other times of as many digits: these with the digits from 1 to 9 in another order."""
    digits = "123456789"
    mixed = str.maketrans(digits, "".join(chance.sample(digits, len(digits))))
    made: dict[str, Any] = json.loads(json.dumps(timings).translate(mixed))
    return made


def read(reading: str, then: str = "") -> tuple[int, float, float]:
    """Return how many rows were read in a process of its own, how long that took, and its peak."""
    code = TIMED.format(reading=reading, then=then)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    rows, took, memory = done.stdout.split()
    return int(rows), float(took), float(memory)


if __name__ == "__main__":
    sys.exit(main())
