"""Was it faster before, or elsewhere? Stored runs side by side, and nothing is measured.

Two runs are no two cells of one run: other days, machines and builds lie between them, and no
round holds both. So the page says first what differs, then what the figures differ by, and how far
that can be relied on: a run against itself is paired, and is the same; one of another day is not
paired; one of another machine is a comparison of machines, too.

``opening`` finds the runs, ``sides`` says what is compared of each and what lies between two,
``differing`` lists what differs, ``judgement`` compares; ``telling`` and ``drawing`` make the page
of it. ``exports`` writes a run for other tools.
"""

from __future__ import annotations

from llm_latency.questions.compare.differing import differing
from llm_latency.questions.compare.drawing import figure
from llm_latency.questions.compare.judgement import View
from llm_latency.questions.compare.opening import ComparePlan, plan, run
from llm_latency.questions.compare.telling import answer, method, notices, table

__all__ = [
    "ComparePlan",
    "View",
    "answer",
    "differing",
    "figure",
    "method",
    "notices",
    "plan",
    "run",
    "table",
]
