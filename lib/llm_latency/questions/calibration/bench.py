"""llama-bench as a child: where its executable is, and one test in one fresh process.

The executable is made by ``python -m benchmarks.calibration`` out of the source package of the
installed llama-cpp-python, and kept in the cache under a name that says for which engine; that
of another engine is never used. ``LLM_LATENCY_LLAMA_BENCH`` names one of yours instead.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from llm_latency.engine import programs
from llm_latency.errors import ParameterError
from llm_latency.machine import devices
from llm_latency.machine.cpu_watch import CpuWatch
from llm_latency.measure.outcome import exit_in_words
from llm_latency.plan.loading import load_mode
from llm_latency.plan.settings import Settings
from llm_latency.records import bench_text
from llm_latency.records.record import HostState

COMMAND = "python -m benchmarks.calibration"
"""What makes the executable."""


def place() -> Path:
    """Return where the executable for the installed engine is kept, made or not."""
    return programs.place("llama-bench")


def executable() -> Path:
    """Return the executable that measures the same engine as the lab.

    Raises
    ------
    LabError
        If it has not been made; names the command.
    """
    return programs.found(
        "llama-bench",
        f"'make calibration' in the lab's folder (without make: '{COMMAND}' with the lab's Python)",
    )


def card(path: Path) -> dict[str, Any]:
    """Return what is known of an executable: its path, checksum, and how it was built."""
    try:
        known = json.loads((path.parent / "build.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {"why": "not built by this lab"}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"path": str(path), "sha256": digest, **known}


@dataclass(frozen=True)
class Test:
    """One test: a prompt, or single tokens, after ``n_depth`` tokens that are not clocked."""

    settings: Settings
    repeats: int
    n_prompt: int = 0
    n_gen: int = 0
    n_depth: int = 0

    def arguments(self, model: Path) -> list[str]:
        """Return llama-bench's arguments for the same settings as the lab's.

        Every setting is named: llama-bench's defaults are not llama-cpp-python's.

        Raises
        ------
        ParameterError
            If llama-bench cannot be given the same.
        """
        asked = self.settings
        if asked.n_threads != asked.n_threads_batch:
            raise ParameterError(
                f"n_threads={asked.n_threads} and n_threads_batch={asked.n_threads_batch}: "
                "llama-bench has one number of threads for both; give the same."
            )
        named: dict[str, Any] = {
            "-m": model,
            "-p": self.n_prompt,
            "-n": self.n_gen,
            "-d": self.n_depth,
            "-r": self.repeats,
            "-t": asked.n_threads,
            "-b": asked.n_batch,
            "-ub": asked.n_ubatch,
            "-ngl": asked.n_gpu_layers,
            "-ctk": asked.type_k,
            "-ctv": asked.type_v,
            "-fa": "on" if asked.flash_attn else "off",
            "-lm": load_mode(asked.use_mmap, asked.use_mlock),
            "-nkvo": 0 if asked.offload_kqv else 1,
            "-nopo": 1 if asked.op_offload is False else 0,
            # As the lab's own model, it is given no device where no layer is to be on one.
            "-dev": "auto" if asked.n_gpu_layers else "none",
            "-o": "jsonl",
        }
        return [str(word) for pair in named.items() for word in pair]


@dataclass(frozen=True)
class Outcome:
    """What one process of llama-bench left: its line, or why there is none."""

    line: str | None
    reason: str | None
    child_s: float
    host: HostState


def carry_out(path: Path, test: Test, model: Path, log: Path, timeout_s: float) -> Outcome:
    """Run one test in a fresh process; its words go to ``log``.

    A ``KeyboardInterrupt`` meanwhile ends the process and is passed on.
    """
    hide_gpu = test.settings.n_gpu_layers == 0
    environment = devices.without_gpus() if hide_gpu else dict(os.environ)
    environment["GGML_NO_BACKTRACE"] = "1"
    command = [str(path), *test.arguments(model)]
    watch, own_s, start_s = CpuWatch.start(), _children_cpu_s(), time.perf_counter()
    line, reason = None, None
    with log.open("w", encoding="utf-8") as words:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=words,
                env=environment,
                encoding="utf-8",
                errors="replace",
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired:
            reason = f"llama-bench did not finish within {timeout_s:g} s"
        except OSError as error:
            reason = f"llama-bench does not start: {error.strerror}"
        else:
            line, reason = _answer(done.returncode, done.stdout, log)
    child_s = time.perf_counter() - start_s
    # Windows does not say what an ended child used: then nobody knows what others took.
    cpu_s = None if sys.platform == "win32" else _children_cpu_s() - own_s
    return Outcome(line, reason, child_s, watch.state(cpu_s))


def _answer(code: int, output: str, log: Path) -> tuple[str | None, str | None]:
    if code:
        return None, f"llama-bench: {exit_in_words(code)}; its words: {log.name}"
    said = [text for text in output.splitlines() if text.strip()]
    if len(said) != 1:
        return None, f"llama-bench printed {len(said)} results in place of one"
    try:
        bench_text.parse(said[0], "llama-bench's answer")
    except ParameterError as error:
        return None, str(error)
    return said[0], None


def _children_cpu_s() -> float:
    """Return the CPU time of this process's children that have ended."""
    times = psutil.Process().cpu_times()
    return float(times.children_user + times.children_system)
