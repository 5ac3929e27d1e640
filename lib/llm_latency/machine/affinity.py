"""The logical CPUs that this process runs on: chosen, pinned to, and told thread by thread.

A thread that the system moves to another CPU leaves its caches behind, and llama.cpp's other
threads wait for it at the next barrier. Whether it helps to forbid that is measured, not assumed.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from pathlib import Path

import psutil

from llm_latency.errors import ParameterError
from llm_latency.machine import limits
from llm_latency.plan.spec import Cores
from llm_latency.words import cpu_list


def chosen(cores: Cores | None) -> tuple[int, ...] | None:
    """Return the logical CPUs that a process here is to be pinned to; ``None``: to none.

    Raises
    ------
    ParameterError
        If this system pins no process, does not tell its kinds of cores, or keeps a CPU from us.
    """
    if cores is None:
        return None
    asked = repr(cores if isinstance(cores, str) else list(cores))
    if not hasattr(psutil.Process, "cpu_affinity"):
        raise ParameterError(
            f"cores={asked} is refused: this system pins no process to CPUs; give 'any'."
        )
    if isinstance(cores, str):
        return limits.cores(cores)
    allowed = limits.allowed_cpus()
    if beyond := set(cores) - set(allowed):
        raise ParameterError(
            f"cores={asked} is refused: of these this process may not use {cpu_list(beyond)}; give "
            f"some of {cpu_list(allowed)}, or 'any'."
        )
    return cores


def pin(cores: Cores | None) -> str | None:
    """Keep this process on what is chosen, and return that as Linux lists CPUs.

    Raises
    ------
    ParameterError
        See :func:`chosen`.
    """
    cpus = chosen(cores)
    if cpus is None:
        return None
    tasks = _tasks()
    if tasks.is_dir():  # Linux pins threads; those that are begun later follow the one that did
        for task in tasks.iterdir():
            os.sched_setaffinity(int(task.name), cpus)
    else:
        psutil.Process().cpu_affinity(list(cpus))
    return cpu_list(cpus)


def of_threads(pid: int | None = None) -> dict[str, int]:
    """Return how many threads of a process may run on which CPUs; none where nobody tells.

    It is this process if none is named.
    """
    found: Counter[str] = Counter()
    for task in _tasks(pid).glob("*/status"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            lines = task.read_text().splitlines()
            found.update(x.split()[1] for x in lines if x.startswith("Cpus_allowed_list:"))
    if not found and (told := getattr(psutil.Process(pid), "cpu_affinity", None)):
        found[cpu_list(told())] = psutil.Process(pid).num_threads()
    return dict(found)


def _tasks(pid: int | None = None) -> Path:
    """Return where Linux shows the threads of a process, of this one if none is named."""
    return Path("/proc") / str(pid or "self") / "task"
