"""Damaged models: each of a thousand must be one record with a status, and harm nothing else.

A small valid GGUF file is damaged in one place, by a seeded choice: in its header, in a value,
in the table of tensors, in the weights, or by cutting it off. Each goes through the lab's own
way of measuring (a fresh process that loads it and generates), and through its own readers of
headers. A damaged file that still loads and answers is ``ok``: much damage does not show.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.faults.canaries import Canaries
from benchmarks.faults.damage import KINDS, damaged, survey
from llm_latency.errors import LabError, ParameterError
from llm_latency.measure import trial as one_trial
from llm_latency.model import header, names, synthetic
from llm_latency.model.weights import Shape
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Start, Trial
from llm_latency.plan.workload import Workload
from llm_latency.records.record import Record
from tests.support import jobs

SHAPE = Shape(n_layer=2, n_embd=64, n_head=2, n_head_kv=1, n_ff=64, n_vocab=512, n_ctx_train=512)
"""Small, so that a damaged byte hits something that matters; the file has some 140 kB."""
LIMIT_BYTES = 1 << 30
TIMEOUT_S = 20.0
GROWTH_BYTES = 1 << 29
"""How much this process may grow over all files."""
TYPED = {"ok", "invalid", "refused", "oom", "crashed", "timeout"}


def measure(path: Path, folder: Path, number: int) -> Record:
    """Carry out one trial on a damaged file, under a memory limit; its log lies in the folder."""
    trial = Trial(
        experiment="faults",
        model=path.name,
        settings=Settings(n_ctx=256, n_batch=32, n_threads=1),
        workload=Workload(prompt_tokens=8, max_tokens=2, repeats=0),
        start=Start(memory_limit_bytes=LIMIT_BYTES),
        round=number,
    )
    job = jobs.job(folder, trial, model=path, timeout_s=TIMEOUT_S)
    try:
        return one_trial.carry_out(job)
    finally:
        job.files.log.unlink(missing_ok=True)


def read(path: Path) -> float:
    """Let the lab's own readers read a damaged header; return the seconds of both."""
    start_s = time.perf_counter()
    names.describe("damaged", path)
    with contextlib.suppress(ParameterError):
        header.read_header(path)
    return time.perf_counter() - start_s


def report(count: int = 1000, seed: int = 0) -> Iterator[str]:
    """Damage, measure and count; the last line is the verdict.

    Raises
    ------
    LabError
        If a file left no typed record, something was written that should not be, a child was
        left, or this process grew.
    """
    statuses: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    reasons: Counter[tuple[str, str]] = Counter()
    broken: list[str] = []
    worst: list[str] = []
    slowest_s, longest_s = 0.0, 0.0
    others = set(psutil.Process().children(recursive=True))
    before_bytes = most_bytes = psutil.Process().memory_info().rss
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole.gguf"
        synthetic.write_model(whole, SHAPE, "q8_0", name="small")
        where = survey(whole)
        canaries = Canaries(Path(place))
        with canaries.standing():
            for number in range(count):
                how, content = damaged(where, seed, number)
                kind, what = how.partition(":")[0], f"file {number} ({how})"
                path = canaries.folders["models"] / f"{number}.gguf"
                path.write_bytes(content)
                canaries.set()
                try:
                    slowest_s = max(slowest_s, read(path))
                    most_bytes = max(most_bytes, psutil.Process().memory_info().rss)
                    record = measure(path, Path(place), number)
                except Exception as error:  # what should never be
                    broken.append(f"{what} raised {type(error).__name__}: {error}")
                else:
                    broken += [f"{what} {fault}" for fault in faults(record)]
                    statuses[kind][record.status] += 1
                    reasons[record.status, brief(record.reason)] += 1
                    if record.status not in ("ok", "refused"):
                        worst.append(f"{what} -> {record.status}: {brief(record.reason)[:300]}")
                    longest_s = max(longest_s, record.child_s)
                broken += [f"{what} wrote {name}" for name in canaries.touched()]
                left = set(psutil.Process().children(recursive=True)) - others
                broken += [f"{what} left process {one.pid}" for one in left]
                path.unlink()
    grown = most_bytes - before_bytes
    if grown > GROWTH_BYTES:
        broken.append(f"this process grew by {grown / 2**20:.0f} MiB")
    total = Counter[str]()
    for kind, found in statuses.items():
        total += found
        yield f"{kind:<8}" + ", ".join(f"{status} {n}" for status, n in sorted(found.items()))
    for (status, reason), n in sorted(reasons.items(), key=lambda one: -one[1])[:12]:
        yield f"{n:4d} x {status}: {reason[:200]}"
    yield from worst[:20]
    yield (
        f"{len(reasons)} different reasons; longest child {longest_s:.1f} s; slowest reading of a "
        f"header {slowest_s:.2f} s; this process grew by {grown / 2**20:.0f} MiB"
    )
    if broken:
        raise LabError(f"{len(broken)} of {count} files broke a promise: {'; '.join(broken[:5])}")
    tally = ", ".join(f"{n} {status}" for status, n in total.most_common())
    yield (
        f"{count} bad files: {total.total()} typed records ({tally}), 0 files written outside, "
        "no child left, parent alive"
    )


def faults(record: Record) -> list[str]:
    """Return what is wrong with a record of a damaged file."""
    found = []
    if record.status not in TYPED:
        found.append(f"ended as {record.status}")
    if record.status != "ok" and not record.reason:
        found.append(f"is {record.status} without a reason")
    if record.status == "ok" and len(record.generations) != 1:
        found.append(f"is ok with {len(record.generations)} generations")
    again = Record.model_validate_json(record.model_dump_json())
    if again.model_dump_json() != record.model_dump_json():
        found.append("reads back as another record")
    return found


def brief(reason: str | None) -> str:
    """Return a reason without what differs from file to file."""
    words = re.sub(r"; llama\.cpp's log: \S+\.log", "", reason or "")
    return "".join("#" if c.isdigit() else c for c in words)
