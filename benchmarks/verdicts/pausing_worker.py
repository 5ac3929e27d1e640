"""The lab's worker with an injected fault: it pauses for 5 % of the time of every evaluation.

``python -m benchmarks.verdicts.pausing_worker SHARE DEPTH``: for another share of it, and only
where so many tokens are in the context.
"""

from __future__ import annotations

import sys
import time

from llm_latency.engine import timed, worker

SHARE = float(sys.argv[1]) if len(sys.argv) > 1 else 0.05
DEPTH = int(sys.argv[2]) if len(sys.argv) > 2 else 0


class Pausing(timed.TimedModel):
    """Pauses after each sampling; by spinning, since a sleep is coarser than the pause."""

    _last_s = 0.0

    def reset_counters(self) -> None:
        """Begin to take the time."""
        super().reset_counters()
        self._last_s = time.perf_counter()

    def sample(self) -> int:
        """Sample, then pause for a share of the time since the sample before."""
        token = super().sample()
        share = SHARE if self.kv_cache.length() >= DEPTH else 0.0
        until = time.perf_counter() * (1 + share) - self._last_s * share
        while time.perf_counter() < until:
            pass
        self._last_s = time.perf_counter()
        return token


if __name__ == "__main__":
    timed.TimedModel = Pausing  # type: ignore[misc]
    worker.main()
