"""How a child ended: its status and the reason, in words that somebody can act on.

What a child reported last counts first. A child that reported no end is judged by what ended it (a
limit, a signal, this process's patience) and by the last words in its log, where llama.cpp, the
C++ library or Python tells why.
"""

from __future__ import annotations

import contextlib
import re
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path

from llm_latency.engine import log as llama_log
from llm_latency.measure.transcript import Transcript
from llm_latency.records.record import MemoryLimit, Status

TAIL_BYTES = 1 << 16
"""How much of a log's end is looked at."""
SIGNAL_MEANINGS = {
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
WINDOWS_EXIT_CODES = {
    0xC0000005: "SIGSEGV",
    0xC000001D: "SIGILL",
    0xC0000094: "SIGFPE",
    0xC0000409: "SIGABRT",
}
"""Exit codes by which Windows says the same."""
PHASES = {
    "load": "while loading",
    "warm-up": "between loading and the first generation",
    "generation 0": "in the first generation",
}
"""Phases of a child in words; those of later generations are counted."""


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
    """What is known of a child's end beside what it reported.

    Attributes
    ----------
    timeout_s : float
        How long it was allowed to take.
    log : Path
        Where its log went.
    log_start : int
        How long the log was before: others wrote that.
    generations : int or None
        How many it was to report; ``None``: none in particular.
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


def outcome_of(transcript: Transcript, circumstances: Circumstances) -> tuple[Status, str | None]:
    """Return the status and reason of a child: by its final event, else by how it died."""
    where = f"in phase '{transcript.phase}'; llama.cpp's log: {circumstances.log.name}"
    if transcript.protocol_error is not None:
        return "crashed", (
            "the child speaks another version of the protocol or sends without end (it told "
            f"{transcript.protocol_error!r}; restart Python, so that both are of one version), "
            f"{where}"
        )
    final = transcript.final_event
    if final is not None and final.ended is not None:
        if final.ended == "done":
            return _done(transcript, circumstances, where)
        reason = final.reason or "it gave no reason"
        return final.ended, f"{reason}, {where}" if final.ended == "crashed" else reason
    if transcript.stopped_at == "deadline":
        return "timeout", f"not finished within {circumstances.timeout_s:g} s, {where}"
    if transcript.stopped_at == "standstill":
        idle = f"it did nothing for {transcript.idle_limit_s:g} s in phase '{transcript.phase}'"
        log = circumstances.log.name
        return "timeout", f"{idle}: no CPU time, nothing read; llama.cpp's log: {log}"
    killed = _killed(transcript.exit_code, circumstances, where)
    return killed or _died(transcript, circumstances, where)


def where_ended(reason: str) -> str:
    """Return in which phase a process ended, in words; empty where the reason does not say."""
    match = re.search(r"in phase '([^']+)'", reason)
    if match is None:
        return ""
    later = re.fullmatch(r"generation (\d+)", match[1])
    if match[1] not in PHASES and later:
        return f"in generation {int(later[1]) + 1}"
    return PHASES.get(match[1], f"in phase {match[1]}")


def _done(
    transcript: Transcript, circumstances: Circumstances, where: str
) -> tuple[Status, str | None]:
    reported = sum(event.generation is not None for event in transcript.events)
    planned = circumstances.generations
    if planned in (None, reported):
        return "ok", None
    return "crashed", (
        f"the child said that it was done after {reported} of {planned} generations: it speaks "
        f"another version of the protocol (restart Python), {where}"
    )


def _killed(exit_code: int, circumstances: Circumstances, where: str) -> tuple[Status, str] | None:
    """Return the status of a child that was killed; ``None`` where it was not.

    Whoever is killed can tell nothing. The kernel counts what its out-of-memory killer ends:
    where it counted nobody, it was somebody else, for a reason that is not known: to call that
    "out of memory" would make a cell look too large that is not. Where it counted somebody, on
    the whole machine, that was most likely this child, which asks to be the first.
    """
    if circumstances.limit_kills:
        limit = f"its limit of {mib(circumstances.limit_bytes)}"
        return "oom", f"killed by the system: it needed more than {limit}, {where}"
    if exit_code != -getattr(signal, "SIGKILL", 9):
        return None
    if circumstances.system_kills:
        return "oom", (
            "killed by the system, which ran out of memory (give a smaller n_ctx or model, or "
            f"close other programs), {where}"
        )
    if circumstances.system_kills == 0:
        return "crashed", (
            "killed from outside (SIGKILL), not by the kernel for want of memory: by somebody, a "
            f"job's limits or a memory daemon (measure again under a new run_id), {where}"
        )
    return "oom", f"killed from outside, most likely because memory ran out, {where}"


def _died(transcript: Transcript, circumstances: Circumstances, where: str) -> tuple[Status, str]:
    tail = tail_of(circumstances.log, circumstances.log_start)
    if circumstances.limit_by == "rlimit" and "pthread_create failed" in tail:
        # A thread's stack is memory, too; numpy's library then sends itself a signal.
        limit = mib(circumstances.limit_bytes)
        return "oom", f"its threads found no room within its limit of {limit}, {where}"
    words = llama_log.last_words(tail)
    out_of_memory = llama_log.speaks_of_memory(words)
    exit_words = exit_in_words(transcript.exit_code)
    if transcript.exit_code > 0 and not transcript.events:
        exit_words = f"the child could not start ({exit_words})"
    last = f"; last words: {words}{llama_log.next_step(words)}" if words else ""
    return "oom" if out_of_memory else "crashed", f"{exit_words}, {where}{last}"


def mib(count: int | None) -> str:
    """Return a number of bytes in MiB."""
    return f"{(count or 0) / 2**20:.0f} MiB"


def exit_in_words(exit_code: int) -> str:
    """Say in words what an exit code means."""
    if exit_code >= 0 and exit_code not in WINDOWS_EXIT_CODES:
        return f"the child ended with exit code {exit_code} and no answer"
    name = WINDOWS_EXIT_CODES.get(exit_code, f"signal {-exit_code}")
    with contextlib.suppress(ValueError):
        name = signal.Signals(-exit_code).name
    meaning = SIGNAL_MEANINGS.get(name)
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
