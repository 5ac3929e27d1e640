"""Figures: a run's frame in, matplotlib Axes out, all in one visual language.

Points are samples (one per process, since the process is the sample), lines and bars are
medians with their interval, or with the range where there are fewer than six processes.
Latencies start at zero. Cells that failed are drawn as what they are: hatched, with their word.
Every function takes ``ax`` to draw into axes of yours.
"""

from __future__ import annotations

from llm_latency.plots.memory import latency_by_memory, memory_by_n_ctx
from llm_latency.plots.speed import speed_heatmap
from llm_latency.plots.tokens import latency_by_tokens, total_by_generated, ttft_by_prompt

__all__ = [
    "latency_by_memory",
    "latency_by_tokens",
    "memory_by_n_ctx",
    "speed_heatmap",
    "total_by_generated",
    "ttft_by_prompt",
]
