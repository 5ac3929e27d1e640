"""What matters here? A baseline, and every knob of this machine and model turned once.

Whether a setting is worth a thought depends on the machine: on one a thread more decides, on
another the batch, on most machines most settings do nothing. So each is turned by itself, in
rounds with the baseline and its twin, and the page sorts them by what they do.

``planning`` says which knobs there are, ``judgement`` what each does, beyond the noise of them
all; ``telling`` and ``drawing`` make the page of it.
"""

from __future__ import annotations

from llm_latency.questions.knobs.drawing import figure
from llm_latency.questions.knobs.judgement import Effect, View, deciding
from llm_latency.questions.knobs.planning import plan
from llm_latency.questions.knobs.telling import absent, answer, table

__all__ = ["Effect", "View", "absent", "answer", "deciding", "figure", "plan", "table"]
