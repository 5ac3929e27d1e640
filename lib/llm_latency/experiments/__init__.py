"""The questions: one function per notebook, which returns the plan that answers it.

A function takes its own parameters and those of :class:`~llm_latency.plan.builder.Options`,
checks every one before anything is made or loaded, and returns pure data. Every grid parameter
takes one value or a list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llm_latency.experiments.advise import advise
from llm_latency.experiments.batch_size import batch_size
from llm_latency.experiments.cold_start import cold_start
from llm_latency.experiments.context_size import context_size
from llm_latency.experiments.conversation import conversation
from llm_latency.experiments.everything import PLANS, everything
from llm_latency.experiments.max_tokens import max_tokens
from llm_latency.experiments.memory_ledger import memory_ledger
from llm_latency.experiments.memory_locking import memory_locking
from llm_latency.experiments.notebook import plan_of
from llm_latency.experiments.prompt_size import prompt_size
from llm_latency.experiments.sweep import sweep
from llm_latency.experiments.warm_runs import warm_runs
from llm_latency.experiments.warm_up import warm_up
from llm_latency.plan.builder import Options
from llm_latency.questions.calibration import plan as calibration

QUESTIONS = {
    "cold_start": "Why is the first reply after a start late?",
    "warm_runs": "Is a warm run faster, and how much of that is the prompt cache?",
    "prompt_size": "What does a longer prompt cost?",
    "max_tokens": "What does `max_tokens` cost, and can latency be predicted?",
    "warm_up": "Which warm-up makes the first reply sooner, and when does it pay?",
    "context_size": "Which `n_ctx` is enough, and what does more of it cost?",
    "batch_size": "Which `n_batch` and `n_ubatch`?",
    "memory_locking": "Does `use_mlock` help?",
    "conversation": "Is a rich context faster?",
}
"""What the notebooks ask that ``everything`` carries out, in the order of its page of answers."""

EXPERIMENTS: dict[str, Callable[..., Any]] = {
    **PLANS,
    "advise": advise,
    "calibration": calibration,
    "everything": everything,
    "memory_ledger": memory_ledger,
    "sweep": sweep,
}
"""The function of each notebook."""

__all__ = [
    "EXPERIMENTS",
    "QUESTIONS",
    "Options",
    "advise",
    "batch_size",
    "calibration",
    "cold_start",
    "context_size",
    "conversation",
    "everything",
    "from_notebook",
    "max_tokens",
    "memory_ledger",
    "memory_locking",
    "prompt_size",
    "sweep",
    "warm_runs",
    "warm_up",
]


def from_notebook(name: str, namespace: Mapping[str, Any]) -> Any:
    """Return the plan of an experiment out of a notebook's variables.

    Parameters
    ----------
    name
        Name of the experiment: the function of this module.
    namespace
        The notebook's ``globals()``.

    Raises
    ------
    ParameterError
        If papermill injected a parameter that the experiment does not take, or a value cannot
        be right.
    """
    return plan_of(name, EXPERIMENTS[name], namespace)
