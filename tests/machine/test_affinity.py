"""A process stays on the CPUs that were asked for, with every thread of it."""

from __future__ import annotations

import json
import subprocess
import sys

import psutil
import pytest

from llm_latency.errors import ParameterError
from llm_latency.machine import affinity, limits

PINNED = """
import json, threading
from llm_latency.machine import affinity
wait = threading.Event()
threading.Thread(target=wait.wait, daemon=True).start()  # begun before
pinned = affinity.pin((0,))
threading.Thread(target=wait.wait, daemon=True).start()  # and after
print(json.dumps([pinned, affinity.of_threads()]))
"""
cpu_0 = pytest.mark.skipif(
    0 not in limits.allowed_cpus() or not hasattr(psutil.Process, "cpu_affinity"),
    reason="CPU 0 is not ours, or this system pins no process",
)


@cpu_0
def test_threads_begun_before_and_after_are_pinned() -> None:
    done = subprocess.run([sys.executable, "-c", PINNED], capture_output=True, check=True)
    pinned, threads = json.loads(done.stdout)
    assert pinned == "0"
    assert set(threads) == {"0"} and threads["0"] >= 3


def test_a_cpu_that_is_not_ours_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil.Process, "cpu_affinity", None, raising=False)
    monkeypatch.setattr(limits, "allowed_cpus", lambda: (0, 1, 4))
    assert affinity.chosen((0, 4)) == (0, 4)
    with pytest.raises(ParameterError, match=r"cores=\[0, 3, 9\].*may not use 3,9; .*0-1,4"):
        affinity.chosen((0, 3, 9))


def test_a_system_that_pins_no_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(psutil.Process, "cpu_affinity", raising=False)
    assert affinity.chosen(None) is None
    with pytest.raises(ParameterError, match=r"cores='physical' is refused.*give 'any'"):
        affinity.chosen("physical")
