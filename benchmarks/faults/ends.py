"""Every way a process can end, made to happen: each must be the right status with a reason.

The real worker loads the real engine wherever that can be made to end so: it is stopped, sent
signals while it generates, starved of memory and of disk, and given files and settings that
llama.cpp refuses. Only what no engine does stands in its place as a few lines of Python.
"""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

import llm_latency as lab
from benchmarks.faults.small_disk import small_disk
from llm_latency.errors import LabError
from llm_latency.machine.memory_cap import limited
from llm_latency.measure import process
from llm_latency.measure.trial import carry_out
from llm_latency.model import names as models
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Start, Trial
from llm_latency.plan.workload import Workload
from llm_latency.records.record import Record
from tests.support import jobs

MIB = 2**20
IDLE_S = 2.0
"""Stands in for the minute that a child may do nothing."""
ROOT = Path(__file__).parents[2]
LONG = Workload(prompt_tokens=8, max_tokens=6000, repeats=50)
"""Goes on long after what is done to it."""
NAN = struct.pack("<f", float("nan"))
SHORT = Workload(prompt_tokens=8, max_tokens=2, repeats=0)
Meddle = Callable[[psutil.Process], object]


class End(NamedTuple):
    """One way to end: what is done, and what must come of it."""

    what: str
    record: Callable[[Path], Record]
    status: str
    words: Sequence[str]


def measure(
    place: Path,
    *,
    workload: Workload = SHORT,
    start: Start | None = None,
    model: Path | None = None,
    timeout_s: float = 60,
    meddle: Meddle | None = None,
    worker: Sequence[str] = (),
    **settings: Any,
) -> Record:
    """Carry out one trial while something is done to its process, once it generates."""
    trial = Trial(
        experiment="faults",
        model="synthetic:tiny",
        settings=Settings(**{"n_ctx": 8192, "n_batch": 256, "n_threads": 1} | settings),
        workload=workload,
        start=start or Start(),
    )
    job = jobs.job(place, trial, model=model, timeout_s=timeout_s, worker=tuple(worker))
    log = job.files.log
    log.unlink(missing_ok=True)
    thread = threading.Thread(target=_when_it_generates, args=(log, meddle), daemon=True)
    try:
        if meddle is not None:
            thread.start()
        return carry_out(job)
    finally:
        if meddle is not None:
            thread.join(timeout=30)


def _when_it_generates(log: Path, meddle: Meddle) -> None:
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        time.sleep(0.05)
        loaded = log.exists() and "compute buffer size" in log.read_text(errors="replace")
        for child_process in psutil.Process().children() if loaded else []:
            time.sleep(0.3)
            meddle(child_process)
            return


def signalled(name: str) -> Callable[[Path], Record]:
    """Return a measurement whose process gets a signal while it generates."""

    def record(place: Path) -> Record:
        return measure(
            place, workload=LONG, meddle=lambda one: one.send_signal(getattr(signal, name))
        )

    return record


def truncated_under_way(place: Path) -> Record:
    """Cut off the model's file while it is mapped and used."""
    copy = place / "mapped.gguf"
    shutil.copy(models.resolve("synthetic:tiny"), copy)
    return measure(place, workload=LONG, model=copy, meddle=lambda _: os.truncate(copy, 1 << 16))


def damaged(content: Callable[[bytes], bytes]) -> Callable[[Path], Record]:
    """Return a measurement of a damaged copy of the model."""

    def record(place: Path) -> Record:
        copy = place / "damaged.gguf"
        copy.write_bytes(content(models.resolve("synthetic:tiny").read_bytes()))
        return measure(place, model=copy)

    return record


def valued(content: bytes, key: bytes, value: bytes) -> bytes:
    """Return a model with another value of a key, as long as the one before."""
    at = content.index(key) + len(key) + 4  # behind the number of the value's kind
    return content[:at] + value + content[at + len(value) :]


def standstill(place: Path) -> Record:
    """Stop the process, with a shorter patience."""
    kept, process.IDLE_LIMIT_S = process.IDLE_LIMIT_S, IDLE_S
    try:
        return signalled("SIGSTOP")(place)
    finally:
        process.IDLE_LIMIT_S = kept


def spoiled(lines: str) -> tuple[str, ...]:
    """Return the command of a worker that some lines of Python spoil first."""
    code = f"import os, sys\nfrom llm_latency.engine import worker\n{lines}\nworker.main()"
    return (sys.executable, "-c", code)


def starved(place: Path) -> Record | None:
    """Let the kernel's out-of-memory killer end a process that has no limit of its own.

    Its parent is put into a cgroup, as a container is: ``None`` where none can be made.
    """
    with limited(300 * MIB) as limit:
        if not limit.join:
            return None
        code = (
            "from pathlib import Path\nfrom llm_latency.machine import memory_cap\n"
            "from benchmarks.faults import ends\n"
            f"memory_cap.come_under({limit.join!r}, None)\n"
            f"made = ends.measure(Path({str(place)!r}), n_ctx=131072)\n"
            "print(made.model_dump_json())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
        )
    if done.returncode:
        raise LabError(f"the parent of the starved process died: {done.stderr[-400:]}")
    return Record.model_validate_json(done.stdout)


ENDS = (
    End(
        "a KV cache larger than all memory",
        lambda place: measure(place, n_ctx=20_000_000),
        "oom",
        ["insufficient memory", "smaller n_ctx"],
    ),
    End(
        "more than its memory limit of 64 MiB",
        lambda place: measure(place, n_ctx=32768, start=Start(memory_limit_bytes=64 * MIB)),
        "oom",
        ["in phase 'load'"],
    ),
    End("SIGKILL by somebody", signalled("SIGKILL"), "crashed", ["killed from outside"]),
    End("SIGTERM", signalled("SIGTERM"), "crashed", ["SIGTERM", "asked it to end"]),
    End(
        "a model whose norms divide by nothing that is a number",
        damaged(lambda content: valued(content, b"llama.attention.layer_norm_rms_epsilon", NAN)),
        "crashed",
        ["SIGABRT", "in phase 'generation 0'", "last words:", "GGML_ASSERT"],
    ),
    End("SIGABRT", signalled("SIGABRT"), "crashed", ["SIGABRT", "in phase 'generation"]),
    End("SIGSEGV", signalled("SIGSEGV"), "crashed", ["segmentation fault"]),
    End("SIGILL", signalled("SIGILL"), "crashed", ["illegal instruction", "doctor"]),
    End("SIGFPE", signalled("SIGFPE"), "crashed", ["division by zero"]),
    End("its mapped model cut off", truncated_under_way, "crashed", ["SIGBUS", "shorter"]),
    End("SIGSTOP", standstill, "timeout", ["did nothing for 2 s", "no CPU time"]),
    End(
        "a second to finish what takes a minute",
        lambda place: measure(place, workload=LONG, timeout_s=2),
        "timeout",
        ["not finished within 2 s"],
    ),
    End(
        "type_v='q4_0' without flash_attn",
        lambda place: measure(place, type_v="q4_0"),
        "refused",
        ["flash_attn", "give flash_attn=true"],
    ),
    End(
        "a context too small for the prompt",
        lambda place: measure(place, n_ctx=256, workload=LONG),
        "refused",
        ["n_ctx"],
    ),
    End(
        "a model cut in half",
        damaged(lambda content: content[: len(content) // 2]),
        "refused",
        ["not within the file bounds", "fetch or convert it again"],
    ),
    End(
        "a file that is no model",
        damaged(lambda _: b"no model at all" * 1000),
        "refused",
        ["invalid magic", "no GGUF file"],
    ),
    End(
        "a model with a broken chat template",
        damaged(lambda content: content.replace(b"{% for message", b"{% nor message", 1)),
        "ok",
        [],
    ),
    End("an empty file", damaged(lambda _: b""), "refused", ["magic"]),
    End(
        "a model that is gone",
        lambda place: measure(place, model=place / "gone.gguf"),
        "refused",
        ["does not exist"],
    ),
    End(
        "an exception in the worker",
        lambda place: measure(place, worker=spoiled("worker.measure = lambda *_: {}['x']")),
        "crashed",
        ["KeyError: 'x'"],
    ),
    End(
        "a worker that cannot be imported",
        lambda place: measure(place, worker=(sys.executable, "-m", "no_such_worker")),
        "crashed",
        ["could not start", "No module named"],
    ),
    End(
        "a worker of another version",
        lambda place: measure(
            place,
            worker=spoiled(
                "from llm_latency.engine.protocol import Event\n"
                "class Newer(Event):\n    stage: int = 7\n"
                "worker.Event = lambda **said: Newer(**said, stage=8)"
            ),
        ),
        "crashed",
        ["another version of the protocol"],
    ),
    End(
        "a worker that floods its pipe",
        lambda place: measure(place, worker=spoiled("while True: os.write(1, b'x' * 65536)")),
        "crashed",
        ["sends without end"],
    ),
)


def full_disk(place: Path) -> Iterator[str]:
    """Let the disk fill up in the middle of a run, and go on when there is room."""
    outputs = os.environ.get("LLM_LATENCY_OUTPUTS")
    with small_disk(place, 4 * MIB) as (folder, by, leave):
        os.environ["LLM_LATENCY_OUTPUTS"] = str(folder)
        plan = lab.experiments.sweep(
            n_ctx=256, n_batch=[32, 64], n_threads=1, prompt_tokens=8, max_tokens=2, rounds=4,
            repeats=0, run_id="full",
        )  # fmt: skip
        try:
            leave(96 << 10)
            first, said = [], ""
            try:
                lab.run(plan, progress=False)
            except LabError as error:
                said = str(error)
            first = lab.open_run("full").records()
            leave(3 * MIB)
            run = lab.run(plan, progress=False)
        finally:
            os.environ.pop("LLM_LATENCY_OUTPUTS")
            if outputs is not None:
                os.environ["LLM_LATENCY_OUTPUTS"] = outputs
        found = run.records()
        names = [record.trial.trial_id for record in found]
        yield f"a full disk ({by}) after {len(first)} of {run.planned} records -> LabError: {said}"
        if not said or not 0 < len(first) < run.planned:
            raise LabError(f"a full disk did not stop the run with one error: {run!r}, {said!r}")
        if found[: len(first)] != first or len(set(names)) != len(names) or not run.complete:
            raise LabError(f"after a full disk the run is not whole: {run!r}")
        if {record.status for record in found} != {"ok"}:
            raise LabError(f"after a full disk: {[record.reason for record in found]}")
        yield f"room made -> the same run_id went on: {len(found)} records, each trial once, all ok"
        yield from _no_room_for_a_state(folder, leave)


def _no_room_for_a_state(folder: Path, leave: Callable[[int], None]) -> Iterator[str]:
    asked = Workload(
        prompt_tokens=400, max_tokens=2, repeats=0, cache_mode="prefix", prefix_tokens=390
    )
    start = Start(warm_up="restored_state")
    leave(64 << 10)
    said = ""
    try:
        measure(folder, workload=asked, start=start)
    except LabError as error:
        said = str(error)
    left = [path.name for path in folder.rglob("*.state*")]
    yield f"no room for a prompt's state -> LabError: {said}"
    if "make room" not in said or left:
        raise LabError(f"no room for a state was not one clear error: {said!r}, left: {left}")
    leave(3 * MIB)
    record = measure(folder, workload=asked, start=start)
    yield f"room made -> {record.status}"
    if record.status != "ok":
        raise LabError(f"with room for its state the trial is {record.status}: {record.reason}")


def shown(what: str, record: Record, status: str, words: Sequence[str]) -> str:
    """Return the line of one end.

    Raises
    ------
    LabError
        If it is not the promised one.
    """
    line = f"{what} -> {record.status}: {record.reason}"
    reason = record.reason or ""
    missing = [word for word in words if word not in reason]
    if record.status != status or missing:
        raise LabError(f"{line}; promised was {status}, with {missing or 'this reason'}")
    if psutil.Process().children():
        raise LabError(f"{line}; and a process was left")
    return line


def report() -> Iterator[str]:
    """Make each end happen; the last line is the verdict.

    Raises
    ------
    LabError
        If one has not the promised status and reason.
    """
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for end in ENDS:
            yield shown(end.what, end.record(place), end.status, end.words)
            count += 1
        what = "the kernel out of memory, without a limit of ours"
        if (record := starved(place)) is None:
            yield f"{what} -> not tried: no cgroup can be made here"
        else:
            yield shown(what, record, "oom", ["killed by the system, which ran out of memory"])
            count += 1
        yield from full_disk(place)
    yield f"{count + 2} ways to end: {count + 2} as promised, no process left, parent alive"
