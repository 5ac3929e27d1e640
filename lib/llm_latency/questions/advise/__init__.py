"""Which settings should I set? From what an application needs, and what was measured, to them.

A model's memory follows from its settings, and can be predicted: weights, a KV cache that grows
with ``n_ctx``, compute buffers that grow with ``n_ubatch``. Its times cannot: a larger batch
makes prefill sooner up to a point that the machine decides. So what may fit is measured.

``needs`` says what is needed, ``candidates`` which settings may do, ``planning`` plans them,
``trying`` measures, ``options`` holds what was measured of each, ``judgement`` chooses, ``threads``
varies threads and cores on the choice; and
``telling``, ``drawing`` and ``pasting`` make the page of it.
"""

from __future__ import annotations

from llm_latency.measure.runner import run
from llm_latency.questions.advise.drawing import figure
from llm_latency.questions.advise.judgement import Advice, View, deciding, judge
from llm_latency.questions.advise.needs import Needs, needs_of
from llm_latency.questions.advise.options import Option
from llm_latency.questions.advise.pasting import lines
from llm_latency.questions.advise.planning import plan
from llm_latency.questions.advise.telling import answer, table

__all__ = [
    "Advice",
    "Needs",
    "Option",
    "View",
    "answer",
    "deciding",
    "figure",
    "judge",
    "lines",
    "needs_of",
    "plan",
    "run",
    "table",
]
