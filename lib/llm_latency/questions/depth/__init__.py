"""How fast deep in a context: a message and its answer at every depth of the window.

Decode reads every weight once per token, and the keys and values of all tokens that are in the
context; so a token's time should grow along a line, by ``KV bytes per token / bandwidth`` for each
of them. A message's TTFT does, too, since each of its tokens looks at all before it. Where the
cache outgrows a faster memory, or another way of computing takes over, the line ends.

One process walks the whole window, as a conversation would: at each depth the context is filled
so far outside the clock, a message is evaluated, and some tokens are decoded. llama.cpp's own
count proves that nothing but the message was evaluated.

``planning`` says what is walked, ``view`` reads the curves that the processes drew; ``telling`` and
``drawing`` make the page of them.
"""

from __future__ import annotations

from llm_latency.questions.depth.drawing import figure
from llm_latency.questions.depth.planning import plan
from llm_latency.questions.depth.telling import answer, steps, table
from llm_latency.questions.depth.view import View

__all__ = ["View", "answer", "figure", "plan", "steps", "table"]
