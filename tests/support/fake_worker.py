"""A worker that only pretends, in one of the ways that are named here.

``python fake_worker.py BEHAVIOUR OPTIONS``, the options as JSON. It speaks the real worker's
protocol without importing the lab: a request on standard input, one event a line on standard
output. What the engine is, it says as the real one does, unless it dies before.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any


def send(**event: Any) -> None:
    """Send one event."""
    print(json.dumps(event), flush=True)


def done() -> None:
    """Say that all is done."""
    send(phase="end", ended="done", cpu_s=0.0)


class Asked:
    """What was asked of this worker."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.trial = request.get("trial") or {}

    def answer(
        self,
        repeat: int = 0,
        ttft_s: float = 0.1,
        evaluated: int | None = None,
        times: list[float] | None = None,
    ) -> None:
        """Send one generation: all of its prompt evaluated, 10 ms per further token, or these."""
        workload = self.trial["workload"]
        prompt, count = workload["prompt_tokens"], workload["max_tokens"]
        depths = workload.get("depths")
        depth = depths[repeat % len(depths)] if depths else None
        itl = times or [ttft_s] + [0.01] * (count - 1)
        timings = {
            "ttft_s": ttft_s, "prefill_s": ttft_s, "decode_s": sum(itl[1:]), "total_s": sum(itl),
            "itl_s": itl, "engine_prefill_s": ttft_s, "engine_decode_s": sum(itl[1:]),
        }  # fmt: skip
        generation = {
            "repeat": repeat, "prompt_tokens": prompt + (depth or 0), "depth_tokens": depth,
            "evaluated_tokens": evaluated or prompt,
            "generated_tokens": count, "finish_reason": "length", "timings": timings,
        }  # fmt: skip
        send(phase=f"generation {repeat + 1}", generation=generation)

    def answer_all(self, ttft_s: Callable[[int], float] = lambda _: 0.1) -> None:
        """Send every generation, and that all is done."""
        for repeat in range(self.trial["workload"]["repeats"] + 1):
            self.answer(repeat, ttft_s(repeat))
        done()


def answers(asked: Asked, note: str = "") -> None:
    """Answer as asked; the model's path is noted in a file, where one is named."""
    if note:
        with open(note, "a", encoding="utf-8") as noted:
            print(asked.request["model_path"], file=noted)
    asked.answer_all()


def answers_sooner_again(asked: Asked) -> None:
    """Answer after 0.3 s, and after 0.1 s where a trial is measured again."""
    again = asked.trial.get("attempt")
    asked.answer_all(lambda _: 0.1 if again else 0.3)


def answers_like_llama_bench(asked: Asked, aborts_after_round: int | None = None) -> None:
    """Take 10 ms per token of decode and 0.1 s of prefill; the first of all is slow."""
    if aborts_after_round is not None and asked.trial["round"] > aborts_after_round:
        os.abort()
    seconds = 0.01 if asked.trial["workload"]["prompt_tokens"] == 1 else 0.1
    asked.answer_all(lambda repeat: seconds if repeat else 9.9)


def answers_up_to(asked: Asked, n_ctx: int) -> None:
    """Answer in a context up to a size, and run out of memory in a larger one."""
    if asked.trial["settings"]["n_ctx"] > n_ctx:
        send(phase="load", ended="oom", reason="out of memory")
    else:
        asked.answer_all()


def works(asked: Asked, knob: str = "", share: float = 0.0) -> None:
    """Take the time of real work, the same in every cell; a share more where a knob is off."""
    slow = bool(knob) and asked.trial["settings"][knob] is False
    rounds = int(2500 * (1 + share * slow))
    for repeat in range(asked.trial["workload"]["repeats"] + 1):
        times = [_hashing_s(rounds) for _ in range(asked.trial["workload"]["max_tokens"])]
        asked.answer(repeat, times[0], times=times)
    done()


def _hashing_s(rounds: int) -> float:
    start_s, text = time.perf_counter(), b""
    for _ in range(rounds):
        text = hashlib.sha256(text).digest()
    return time.perf_counter() - start_s


def measures_nothing(asked: Asked) -> None:
    """Say that all is done, and send no generation."""
    done()


def dies(asked: Asked, by: str = "SIGSEGV") -> None:
    """Die by a signal."""
    os.kill(os.getpid(), getattr(signal, by))


def dies_at_once(asked: Asked, by: str = "SIGILL") -> None:
    """Die by a signal before it can say what the engine is."""
    dies(asked, by)


def follows(asked: Asked, lines: str) -> None:
    """Do what lines of Python say, which find ``request``, ``send`` and ``answer``."""
    names: dict[str, Any] = {"json": json, "os": os, "signal": signal, "sys": sys, "time": time}
    names["__file__"] = __file__
    exec(lines, names | {"request": asked.request, "send": send, "answer": asked.answer})


BEHAVIOURS: dict[str, Callable[..., None]] = {
    one.__name__: one
    for one in (
        answers,
        answers_sooner_again,
        answers_like_llama_bench,
        answers_up_to,
        works,
        measures_nothing,
        dies,
        dies_at_once,
        follows,
    )
}


def main(behaviour: str, options: str) -> None:
    """Read one request, and behave."""
    asked, given = Asked(json.loads(sys.stdin.readline())), json.loads(options)
    gpu_offload = given.pop("gpu_offload", False)
    if asked.trial or behaviour in ("dies_at_once", "follows"):
        BEHAVIOURS[behaviour](asked, **given)
        return
    engine = {"version": "0", "system_info": "CPU", "gpu_offload": gpu_offload, "devices": []}
    send(phase="end", ended="done", engine=engine)


if __name__ == "__main__":
    main(*sys.argv[1:])
