"""Is the lab's figure llama.cpp's speed? The lab and llama-bench in turn, on the same engine.

Like is compared with like. Both get the same file and the same settings; each test is one fresh
process of each tool, one right after the other, and a *pair* is such two. Which goes first
alternates; the order of the tests is shuffled in each round of pairs.

- *Prefill*: llama-bench evaluates N random tokens in an empty context (``-p N -n 0``); the lab a
  prompt of N tokens, of which ``prefill_s`` is taken.
- *Decode*: llama-bench evaluates M single tokens from an empty context and samples none
  (``-p 0 -n M``). The lab answers a prompt of one token with M: that is M evaluations at the same
  depths, and M samplings, from ``t0`` to the last token. So there are two figures: what the user
  sees, and the evaluations alone by llama.cpp's own counters. What lies between is shown.

llama-bench drops a warm-up run in each process; so the lab's first generation is dropped here.
At a depth of D (``-d D``) either has D tokens in its context before its clock starts; the lab's is
the step of a walk. One thing differs: the lab's context has room for one token more, so after a
prompt of a multiple of 256 tokens it is 256 tokens larger (llama.cpp pads to that).
"""

from __future__ import annotations

from llm_latency.questions.calibration.folder import CalibrationRun, open_run
from llm_latency.questions.calibration.measuring import run
from llm_latency.questions.calibration.page import answer, data, figure, method, parts_table, table
from llm_latency.questions.calibration.planning import CalibrationPlan, plan
from llm_latency.questions.calibration.ratios import View

__all__ = [
    "CalibrationPlan",
    "CalibrationRun",
    "View",
    "answer",
    "data",
    "figure",
    "method",
    "open_run",
    "parts_table",
    "plan",
    "run",
    "table",
]
