"""The page of answers: every question with the answer that its own run gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from IPython.display import Markdown

from llm_latency.answers.page import markdown
from llm_latency.questions import QUESTIONS, module
from llm_latency.words import escape

if TYPE_CHECKING:
    from llm_latency.questions.everything import Runs

Answer = Callable[[pd.DataFrame, Mapping[str, Any]], Markdown]


def everything(runs: Runs) -> Markdown:
    """Return every question that was asked, with its answer or why there is none.

    Parameters
    ----------
    runs
        What :func:`llm_latency.questions.everything.run` left.
    """
    from llm_latency import answers  # here, because that package holds this room

    parts = []
    for plan in runs.plan.plans:
        name = plan.experiment
        store = runs.stores.get(name)
        if store is None:
            said = f"**Not run:** {escape(runs.stopped.get(name, 'not reached'))}"
        else:
            left = store.planned - store.final
            home = module(name)
            if hasattr(home, "View"):
                said = home.answer(home.View(store)).text
            else:
                answer: Answer = getattr(answers, name)
                said = str(answer(store.frame(), store.info).data)
            if left:
                said = f"**INCOMPLETE: {left:,} of {store.planned:,} trials are missing.** {said}"
        parts.append(f"### {QUESTIONS[name].asks}\n\n{said}")
    return markdown("\n\n".join(parts))
