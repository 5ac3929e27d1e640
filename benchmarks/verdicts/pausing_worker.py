"""The lab's worker with an injected fault: it pauses for 5 % of the time of every evaluation."""

from __future__ import annotations

import time

from llm_latency.engine import timed, worker

SHARE = 0.05


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
        until = time.perf_counter() * (1 + SHARE) - self._last_s * SHARE
        while time.perf_counter() < until:
            pass
        self._last_s = time.perf_counter()
        return token


if __name__ == "__main__":
    timed.TimedModel = Pausing  # type: ignore[misc]
    worker.main()
