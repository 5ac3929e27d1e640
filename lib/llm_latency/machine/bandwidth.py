"""How many bytes a second this machine's RAM gives its CPUs: the ceiling of decode.

Decode reads every weight once per token, so no token comes sooner than ``weight bytes /
bandwidth``. Measured once per machine: all usable CPUs add up one array that is larger than any
cache, and the quickest of a few passes counts, since what else happens only adds time.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from llm_latency.machine.host import machine_card
from llm_latency.machine.limits import usable_cpus

SIZE_BYTES = 1 << 28
"""Size of the array: beyond the caches of any CPU that a laptop or server has."""
PASSES = 5


def read_bytes_per_s(folder: Path) -> float:
    """Return the bandwidth of RAM, from what was measured before where it is known.

    Parameters
    ----------
    folder
        Where the figure is kept, by machine and number of CPUs.
    """
    cpus = usable_cpus()
    kept = folder / f"bandwidth-{machine_card().machine_id}-{cpus}.json"
    try:
        return float(json.loads(kept.read_text(encoding="utf-8"))["bytes_per_s"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    measured = measure(cpus)
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"bytes_per_s": measured}), encoding="utf-8")
    return measured


def measure(cpus: int, size_bytes: int = SIZE_BYTES, passes: int = PASSES) -> float:
    """Return how many bytes a second ``cpus`` threads read, at their quickest."""
    parts = np.array_split(np.ones(size_bytes // 8), cpus)
    best_s = float("inf")
    with ThreadPoolExecutor(cpus) as pool:
        for _ in range(passes):
            start_s = time.perf_counter()
            list(pool.map(np.sum, parts))
            best_s = min(best_s, time.perf_counter() - start_s)
    return size_bytes / best_s
