"""How a child ended: its status and the reason, in words that somebody can act on.

What a child said last counts first. A child that said nothing is judged by what ended it (a
limit, a signal, this process's patience) and by the last words in its log, where llama.cpp, the
C++ library or Python tells why.
"""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path

from llm_latency.engine import log as llama_log
from llm_latency.measure.process import Heard
from llm_latency.records.record import MemoryLimit, Status

TAIL_BYTES = 1 << 16
"""How much of a log's end is looked at."""
MEANINGS = {
    "SIGSEGV": "segmentation fault",
    "SIGILL": "illegal instruction: the engine is built for another CPU; "
    "run 'python -m llm_latency doctor'",
    "SIGFPE": "arithmetic error, such as a division by zero",
    "SIGABRT": "llama.cpp gave up",
    "SIGBUS": "bus error: the model file became shorter, or the disk is full; "
    "see that it is whole and that nobody writes to it",
    "SIGTERM": "somebody asked it to end",
    "SIGHUP": "its session was closed",
    "SIGXCPU": "its CPU time was limited; raise it (ulimit -t)",
}
WINDOWS = {0xC0000005: "SIGSEGV", 0xC000001D: "SIGILL", 0xC0000094: "SIGFPE", 0xC0000409: "SIGABRT"}
"""Exit codes by which Windows says the same."""


def system_kills() -> int | None:
    """Return how many processes the kernel's out-of-memory killer ended since the machine began.

    Those that it ended for a cgroup's limit are among them. ``None`` where nobody counts.
    """
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return None
    counts = dict(line.split() for line in lines)
    return int(counts["oom_kill"]) if "oom_kill" in counts else None


@dataclass(frozen=True)
class Circumstances:
    """What is known of a child's end beside what it told.

    Attributes
    ----------
    timeout_s : float
        How long it was allowed to take.
    log : Path
        Where its words went.
    log_start : int
        How long the log was before: others wrote that.
    generations : int or None
        How many it was to tell of; ``None``: none in particular.
    limit_bytes : int or None
        The limit of its memory, if it had one of its own.
    limit_by : str or None
        What held that limit.
    limit_kills : int
        Processes that were ended because of that limit.
    system_kills : int or None
        Processes that the kernel's out-of-memory killer ended on the whole machine: until the
        child began, and of :meth:`after` meanwhile; ``None`` where nobody counts them.
    """

    timeout_s: float
    log: Path
    log_start: int = 0
    generations: int | None = None
    limit_bytes: int | None = None
    limit_by: str | None = None
    limit_kills: int = 0
    system_kills: int | None = field(default_factory=lambda: system_kills())

    def after(self, limit: MemoryLimit | None) -> Circumstances:
        """Return what is known when the child has ended, with what its limit did."""
        before, now = self.system_kills, system_kills()
        return replace(
            self,
            limit_bytes=limit.asked_bytes if limit else None,
            limit_by=limit.by if limit else None,
            limit_kills=(limit.kills if limit else None) or 0,
            system_kills=None if before is None or now is None else now - before,
        )


def how_it_ended(heard: Heard, around: Circumstances) -> tuple[Status, str | None]:
    """Return the status and reason of a child: by its last word, else by how it died."""
    where = f"in phase '{heard.phase}'; llama.cpp's log: {around.log.name}"
    if heard.strange is not None:
        return "crashed", (
            "the child speaks another version of the protocol or sends without end (it told "
            f"{heard.strange!r}; restart Python, so that both are of one version), {where}"
        )
    said = heard.ended
    if said is not None and said.ended is not None:
        if said.ended == "done":
            return _done(heard, around, where)
        reason = said.reason or "it gave no reason"
        return said.ended, f"{reason}, {where}" if said.ended == "crashed" else reason
    if heard.stop == "deadline":
        return "timeout", f"not finished within {around.timeout_s:g} s, {where}"
    if heard.stop == "silence":
        for_s = f"it did nothing for {heard.silent_s:g} s in phase '{heard.phase}'"
        return "timeout", f"{for_s}: no CPU time, nothing read; llama.cpp's log: {around.log.name}"
    return _killed(heard.exit_code, around, where) or _died(heard, around, where)


def _done(heard: Heard, around: Circumstances, where: str) -> tuple[Status, str | None]:
    came = sum(event.generation is not None for event in heard.events)
    if around.generations in (None, came):
        return "ok", None
    return "crashed", (
        f"the child said that it was done after {came} of {around.generations} generations: it "
        f"speaks another version of the protocol (restart Python), {where}"
    )


def _killed(exit_code: int, around: Circumstances, where: str) -> tuple[Status, str] | None:
    """Return the status of a child that was killed; ``None`` where it was not.

    Whoever is killed can tell nothing. The kernel counts what its out-of-memory killer ends:
    where it counted nobody, it was somebody else, for a reason that is not known: to call that
    "out of memory" would make a cell look too large that is not. Where it counted somebody, on
    the whole machine, that was most likely this child, which asks to be the first.
    """
    if around.limit_kills:
        limit = f"its limit of {mib(around.limit_bytes)}"
        return "oom", f"killed by the system: it needed more than {limit}, {where}"
    if exit_code != -getattr(signal, "SIGKILL", 9):
        return None
    if around.system_kills:
        return "oom", (
            "killed by the system, which ran out of memory (give a smaller n_ctx or model, or "
            f"close other programs), {where}"
        )
    if around.system_kills == 0:
        return "crashed", (
            "killed from outside (SIGKILL), not by the kernel for want of memory: by somebody, a "
            f"job's limits or a memory daemon (measure again under a new run_id), {where}"
        )
    return "oom", f"killed from outside, most likely because memory ran out, {where}"


def _died(heard: Heard, around: Circumstances, where: str) -> tuple[Status, str]:
    tail = tail_of(around.log, around.log_start)
    if around.limit_by == "rlimit" and "pthread_create failed" in tail:
        # A thread's stack is memory, too; numpy's library then sends itself a signal.
        limit = mib(around.limit_bytes)
        return "oom", f"its threads found no room within its limit of {limit}, {where}"
    words = llama_log.last_words(tail)
    short = llama_log.speaks_of_memory(words)
    what = death(heard.exit_code)
    if heard.exit_code > 0 and not heard.events:
        what = f"the child could not start ({what})"
    told = f"; last words: {words}{llama_log.next_step(words)}" if words else ""
    return "oom" if short else "crashed", f"{what}, {where}{told}"


def mib(count: int | None) -> str:
    """Return a number of bytes in MiB."""
    return f"{(count or 0) / 2**20:.0f} MiB"


def death(exit_code: int) -> str:
    """Say in words what an exit code means."""
    if exit_code >= 0 and exit_code not in WINDOWS:
        return f"the child ended with exit code {exit_code} and no answer"
    name = WINDOWS.get(exit_code, f"signal {-exit_code}")
    with contextlib.suppress(ValueError):
        name = signal.Signals(-exit_code).name
    meaning = MEANINGS.get(name)
    return f"the child died by {name}" + (f" ({meaning})" if meaning else "")


def tail_of(log: Path, start: int = 0) -> str:
    """Return the end of a log, of what was written after its first bytes; empty: nothing."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(start, file.tell() - TAIL_BYTES))
            return file.read(TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
