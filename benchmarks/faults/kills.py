"""Kill anything at any moment: is anything lost, twice, half-believed, or left running?

Short trials of the smallest model are carried out over and over while children, the process that
calls ``lab.run``, and Jupyter kernels (or papermill, which holds one) are ended by SIGKILL: half
of the time at a moment drawn by chance, half as soon as a record appears in the file. Each run is
gone on with under its run_id until it is complete, and every line of it is then accounted for.
Kills alone hardly ever tear a line; power cuts do, so some are torn here on purpose: cut anywhere,
whole but for the sign that ends it, or zeros in place of what was written.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import llm_latency as lab
from llm_latency.machine import lock
from llm_latency.records import files
from llm_latency.records.record import Record

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "sweep.ipynb"
DRIVER = (
    "import json, sys; import llm_latency as lab; "
    "lab.run(lab.experiments.sweep(**json.loads(sys.argv[1])), progress=False)"
)
WORKLOAD: dict[str, Any] = {
    "n_ctx": 256, "n_batch": 256, "n_threads": 1, "n_threads_batch": 1, "n_gpu_layers": 0,
    "prompt_tokens": 16, "max_tokens": 4, "repeats": 0, "wait_s": 60,
}  # fmt: skip
ROUNDS = {"child": 12, "parent": 10, "kernel": 8}
"""Rounds of one run, by what is killed; a round is two trials, a cell and its twin."""
SPAN_S = {"child": 0.7, "parent": 4.0, "kernel": 12.0}
"""Within how long a moment is drawn: about as long as the killed one would live."""
GONE_S = 10.0
"""How long what a killed process had started may take to end by itself."""
LONG = {"n_ctx": 8192, "max_tokens": 8000}
"""What makes a child live longer than that: its parent's end must end it, not its own."""
LONG_SHARE = 0.1
"""Share of the killed parents that have such a child."""
PLANTED_S = -1.0
"""A duration that nobody measures: it marks the records that must not be believed."""


@dataclass
class Tally:
    """What was done and what was found."""

    kills: Counter[str] = field(default_factory=Counter)
    planted: int = 0
    lost: int = 0
    twice: int = 0
    trusted: int = 0
    orphans: int = 0
    trials: int = 0

    def __str__(self) -> str:
        kinds = ", ".join(f"{self.kills[kind]} {kind}" for kind in SPAN_S)
        return (
            f"{self.kills.total()} kills ({kinds}): {self.lost} records lost, {self.twice} twice, "
            f"{self.trusted} of {self.planted} half lines trusted, {self.orphans} orphans; "
            f"{self.trials} trials complete"
        )


class Story:
    """One run that is begun, killed, gone on with, and accounted for at its end."""

    def __init__(
        self, place: Path, name: str, kind: str, tally: Tally, rng: random.Random, **changed: int
    ) -> None:
        self.place, self.kind, self.tally, self.rng = place, kind, tally, rng
        self.values = {**WORKLOAD, "rounds": ROUNDS[kind], "run_id": name, **changed}
        self.plan = lab.experiments.sweep(**self.values)
        self.folder = place / "runs" / name
        self.file = self.folder / "trials.jsonl"
        self.environment = dict(
            os.environ,
            LLM_LATENCY_OUTPUTS=str(place),
            LLM_LATENCY_LOCK=str(place / "machine.lock"),
        )
        self.seen: list[bytes] = []
        self.last: int | None = None

    def begin(self) -> subprocess.Popen[bytes]:
        """Start what carries out the run, or goes on with it."""
        command = [sys.executable, "-c", DRIVER, json.dumps(self.values)]
        if self.kind == "kernel":
            given = [f for k, v in self.values.items() for f in ("-p", k, str(v))]
            out = self.place / f"{self.folder.name}.ipynb"
            command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(NOTEBOOK)]
            command += [str(out), *given]
        with (self.place / f"{self.folder.name}.log").open("ab") as log:
            return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def killed(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait for a moment and kill; return whether there was still something to kill."""
        victim = process.pid
        if self.kind == "child":
            self.last = self._first(process, "llm_latency.engine.worker", for_s=60)
            if self.last is None:
                return False
            time.sleep(self.rng.uniform(0, SPAN_S["child"]))
            return self._kill(self.last)
        self._moment(process)
        if self.kind == "kernel" and self.rng.random() < 0.7:
            found = self._first(process, "ipykernel", for_s=0)
            victim = found or victim
        return self._kill(victim)

    def orphaned(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a parent while its child works."""
        self._first(process, "llm_latency.engine.worker", for_s=60)  # says what the engine is
        time.sleep(self.rng.uniform(0.5, 3))
        self._kill(process.pid)
        self.settle(process)

    def _moment(self, process: subprocess.Popen[bytes]) -> None:
        span_s = SPAN_S[self.kind]
        until_s = time.monotonic() + self.rng.uniform(0, span_s)
        size = None
        if self.rng.random() < 0.5:
            # As a record is written: when the file has grown by that much, or a few ms later.
            until_s = time.monotonic() + 2 * span_s
            size = self._size() + self.rng.randrange(8000)
        while process.poll() is None and time.monotonic() < until_s:
            if size is not None and self._size() > size:
                time.sleep(self.rng.uniform(0, 0.004))
                return
            time.sleep(0.001)

    def _size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def _first(self, process: subprocess.Popen[bytes], word: str, for_s: float) -> int | None:
        """Return a process below another, a new one, whose command has a word in it."""
        until_s = time.monotonic() + for_s
        while True:
            for one in _below(process.pid):
                if one.pid != self.last and word in _command(one):
                    return one.pid
            if process.poll() is not None or time.monotonic() > until_s:
                return None
            time.sleep(0.01)

    def _kill(self, pid: int) -> bool:
        try:
            victim = psutil.Process(pid)
            if victim.status() == psutil.STATUS_ZOMBIE:
                return False
            victim.kill()
        except psutil.NoSuchProcess:
            return False
        self.tally.kills[self.kind] += 1
        return True

    def settle(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until all that the run had started is gone, and compare what is stored."""
        until_s = time.monotonic() + GONE_S
        while process.poll() is None and time.monotonic() < until_s:
            time.sleep(0.01)  # papermill sees by itself that its kernel is dead
        while (left := self._alive()) and time.monotonic() < until_s:
            time.sleep(0.02)
        self.tally.orphans += len(left)
        for one in left:
            one.kill()
        process.wait()
        now = self._lines()
        self.tally.lost += sum(a != b for a, b in itertools.zip_longest(self.seen, now) if a)
        self.seen = now
        with contextlib.suppress(OSError):
            note = lock.Note.model_validate_json((self.place / "machine.lock.json").read_text())
            if note.run_id == self.folder.name:
                # What the dead one had told others to be stored must be.
                self.tally.lost += max(0, (note.stored or 0) - len(now))

    def _alive(self) -> list[psutil.Process]:
        return [one for one in psutil.process_iter() if _outputs(one) == str(self.place)]

    def _lines(self) -> list[bytes]:
        content = self.file.read_bytes() if self.file.exists() else b""
        return [line for line in content.split(b"\n")[:-1] if files.sound(line)]

    @property
    def complete(self) -> bool:
        """Whether every trial has its record."""
        return len(self.seen) >= len(self.plan.trials())

    def tear(self) -> None:
        """Leave at the file's end what a power cut leaves, for a trial that is still to come."""
        done = {_trial_id(line) for line in self.seen}
        left = [trial for trial in self.plan.trials() if trial.trial_id not in done]
        if not self.seen or not left:
            return
        record = json.loads(self.seen[-1]) | {"child_s": PLANTED_S}
        record["trial"] = json.loads(left[0].model_dump_json())
        whole = json.dumps(record).encode()
        cut = self.rng.choice([self.rng.randrange(1, len(whole)), len(whole)])
        zeros = b"\0" * cut + whole[cut:] + b"\n"
        with self.file.open("ab") as out:
            out.write(self.rng.choice([whole[:cut], zeros]))
        self.tally.planted += 1

    def account(self) -> None:
        """Go on until the run is complete, and account for every line of it."""
        process = self.begin()
        if process.wait(timeout=600):
            log = (self.place / f"{self.folder.name}.log").read_text(errors="replace")
            raise lab.LabError(f"the run {self.folder.name} does not go on: {log[-2000:]}")
        self.settle(process)
        records = [Record.model_validate_json(line) for line in self._lines()]
        self.tally.trusted += sum(record.child_s == PLANTED_S for record in records)
        counts = Counter(r.trial.trial_id for r in records)
        self.tally.twice += sum(count - 1 for count in counts.values())
        planned = {trial.trial_id for trial in self.plan.trials()}
        self.tally.lost += len(planned - set(counts))
        frame = lab.load_runs(self.folder)
        if set(frame["trial_id"]) != planned or list(self.folder.glob("run.json.*")):
            raise lab.LabError(f"the run {self.folder.name} does not read as it was planned")
        self.tally.trials += len(planned)


def _below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _asked(call: Callable[[], Any]) -> Any:
    """Return what a process says of itself; ``None`` where it is gone or another user's."""
    try:
        return call()
    except psutil.Error:
        return None


def _command(process: psutil.Process) -> str:
    return " ".join(_asked(process.cmdline) or [])


def _outputs(process: psutil.Process) -> str | None:
    """Return where a process would leave its runs: that tells whose it is."""
    return (_asked(process.environ) or {}).get("LLM_LATENCY_OUTPUTS")


def _trial_id(line: bytes) -> str:
    return Record.model_validate_json(line).trial.trial_id


def tell(kind: str, count: int, place: Path, tally: Tally, rng: random.Random) -> str:
    """Kill one kind of process so many times, over as many runs as that takes."""
    start_s = time.monotonic()
    for number in itertools.count():
        story = Story(place, f"{kind}-{number}", kind, tally, rng)
        process = None
        while tally.kills[kind] < count:
            if process is None and kind == "parent" and rng.random() < LONG_SHARE:
                long = Story(place, f"long-{tally.kills[kind]}", kind, tally, rng, **LONG)
                long.orphaned(long.begin())
                continue
            process = process or story.begin()
            killed = story.killed(process)
            if kind == "child" and process.poll() is None:
                continue  # the run goes on with its next trial
            story.settle(process)
            process = None
            if not killed and story.complete:
                break
            if rng.random() < 0.4:
                story.tear()
        if process is not None:  # it lost its last child, and goes on by itself
            process.wait()
        story.account()
        if tally.kills[kind] >= count:
            took = f"{time.monotonic() - start_s:.0f} s"
            return f"{kind}: {count} kills over {number + 1} runs, in {took}"
    raise AssertionError


def report(count: int = 200, seed: int = 0) -> Iterator[str]:
    """Kill, resume and account; yield what to print, the verdict last.

    Parameters
    ----------
    count
        How many kills: three of five of children, the rest of parents and a few kernels.
    seed
        Of the moments.

    Raises
    ------
    LabError
        If a record was lost or is there twice, a half line was believed, or a process of a killed
        one lived on.
    """
    rng, tally = random.Random(seed), Tally()
    kernels, children = round(0.075 * count), round(0.6 * count)
    shares = {"child": children, "parent": count - children - kernels, "kernel": kernels}
    with tempfile.TemporaryDirectory(prefix="llm-latency-kills-") as place:
        for kind, share in shares.items():
            if share:
                yield tell(kind, share, Path(place), tally, rng)
    yield str(tally)
    if tally.lost or tally.twice or tally.trusted or tally.orphans:
        raise lab.LabError(f"a promise is broken (seed {seed}): {tally}")
