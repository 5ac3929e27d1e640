"""Advice: from what an application needs, and what was measured, to the settings to set.

``needs`` says what is needed, ``candidates`` which settings may do, ``trying`` measures them,
``options`` holds what was measured of each, and ``judgement`` chooses.
"""

from __future__ import annotations

from llm_latency.measure.runner import run
from llm_latency.questions.advise.judgement import Advice, judge
from llm_latency.questions.advise.needs import Needs, needs_of
from llm_latency.questions.advise.options import Option
from llm_latency.questions.advise.planning import plan

__all__ = ["Advice", "Needs", "Option", "judge", "needs_of", "plan", "run"]
