"""Sentences computed from a run, never written beforehand: each would change with the data.

All return Markdown for the page; foreign text in them is escaped. A figure of
:mod:`llm_latency.plots` and the sentence that reads it have the same name.
"""

from __future__ import annotations

from llm_latency.answers.page import completeness, data, method, model_notice
from llm_latency.answers.readings import (
    latency_by_memory,
    latency_by_tokens,
    memory_by_n_ctx,
    speed_heatmap,
)
from llm_latency.answers.verdict import sweep

__all__ = [
    "completeness",
    "data",
    "latency_by_memory",
    "latency_by_tokens",
    "memory_by_n_ctx",
    "method",
    "model_notice",
    "speed_heatmap",
    "sweep",
]
