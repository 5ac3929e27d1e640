"""What a decoded token costs beside its evaluation.

``python -m llm_latency.engine.probe``

The lab's generation waits for the engine inside the sampling call, as an application does, and
so cannot tell the two apart. This child can: it waits first, and clocks the sampling alone. One
request as a JSON line on its standard input, one answer on its standard output; as every child
that holds the engine, it is a process of its own.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from llm_latency.base import Part
from llm_latency.machine.devices import without_gpus
from llm_latency.plan.settings import Settings

if TYPE_CHECKING:
    from llm_latency.engine.llama import Model

COMMAND = (sys.executable, "-m", "llm_latency.engine.probe")


class Request(Part):
    """How the model is loaded, and how many tokens are decoded how often."""

    model_path: str
    log_path: str
    settings: Settings
    tokens: int
    repeats: int


class Costs(Part):
    """Seconds per token, each the median over runs of the mean in a run."""

    sampling_s: float
    call_s: float
    stamp_s: float


def measure(request: Request, timeout_s: float) -> Costs | None:
    """Have a child measure; ``None`` where it failed: its words are in the log."""
    hide_gpu = request.settings.n_gpu_layers == 0
    environment = without_gpus() if hide_gpu else dict(os.environ)
    environment["GGML_NO_BACKTRACE"] = "1"
    with open(request.log_path, "a", encoding="utf-8") as log:
        try:
            done = subprocess.run(
                COMMAND,
                input=request.model_dump_json() + "\n",
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                encoding="utf-8",
                timeout=timeout_s,
            )
            return Costs.model_validate_json(done.stdout) if done.returncode == 0 else None
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return None


def main() -> None:
    """Measure as the request on standard input says."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what llama.cpp prints is no answer
    request = Request.model_validate_json(sys.stdin.readline())
    # Here only: the parent imports this module, and must not load the engine.
    from llm_latency.engine.llama import Model

    with open(request.log_path, "a", encoding="utf-8", errors="replace") as log:
        model = Model(Path(request.model_path), request.settings, log)
        runs = [_run(model, request.tokens) for _ in range(request.repeats + 1)]
    # The first run is dropped, as everywhere in a calibration.
    sampling, call, stamp = (statistics.median(values) for values in zip(*runs[1:], strict=True))
    answer.write(json.dumps({"sampling_s": sampling, "call_s": call, "stamp_s": stamp}) + "\n")
    answer.flush()
    os._exit(0)


def _run(model: Model, tokens: int) -> tuple[float, float, float]:
    """Return a run's mean costs of sampling, of the call to evaluate, and of a time stamp."""
    clock = time.perf_counter
    stamps: list[float] = []
    sample, evaluate_one, wait = model.sample, model.evaluate_one, model.wait
    evaluated_s = sampled_s = 0.0
    model.kv_cache.forget()
    gc.collect()
    gc.disable()
    try:
        model.reset_counters()
        token = model.beginning
        for _ in range(tokens):
            start_s = clock()
            evaluate_one(token)
            wait()
            middle_s = clock()
            token = sample()
            end_s = clock()
            evaluated_s += middle_s - start_s
            sampled_s += end_s - middle_s
        engine_s = model.counters().engine_s
        start_s = clock()
        for _ in range(1000):
            stamps.append(clock())
        stamp_s = (clock() - start_s) / 1000
    finally:
        gc.enable()
    return sampled_s / tokens, (evaluated_s - engine_s) / tokens, stamp_s


if __name__ == "__main__":
    main()
