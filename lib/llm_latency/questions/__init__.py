"""One question, one module: plan, view, answer, table, figure, read from top to bottom.

:data:`QUESTIONS` is all that has to be told of a new question. Its module has a ``plan`` (the
question's parameters become pure data), a ``View`` (a run, read once), and an ``answer``, a
``table`` and a ``figure`` that take the view.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

from llm_latency.errors import did_you_mean


class Question(NamedTuple):
    """What is asked, and whether it is one of those that ``everything`` asks."""

    asks: str
    asked_with_all: bool = True


QUESTIONS: dict[str, Question] = {
    "cold_start": Question("Why is the first reply after a start late?"),
    "warm_runs": Question("Is a warm run faster, and how much of that is the prompt cache?"),
    "prompt_size": Question("What does a longer prompt cost?"),
    "max_tokens": Question("What does `max_tokens` cost, and can latency be predicted?"),
    "warm_up": Question("Which warm-up makes the first reply sooner, and when does it pay?"),
    "context_size": Question("Which `n_ctx` is enough, and what does more of it cost?"),
    "batch_size": Question("Which `n_batch` and `n_ubatch`?"),
    "kv_types": Question("In which number format should the KV cache be?"),
    "memory_locking": Question("Does `use_mlock` help?"),
    "conversation": Question("Is a rich context faster?"),
    "depth": Question("How fast is it deep in a context?"),
    "applications": Question("What does the way in cost?", False),
    "engines": Question("Which build of the engine is faster, and at what?", False),
    "memory_ledger": Question("Where is the memory, and does it fit?", False),
    "threads": Question("How many threads, and on which cores?", False),
    "knobs": Question("What matters here?", False),
    "advise": Question("Which settings should I set?", False),
    "sweep": Question("Which `n_ctx` and `n_batch` answer soonest?", False),
    "calibration": Question("Is the lab's figure llama.cpp's speed?", False),
    "compare": Question("Was it faster before, or elsewhere?", False),
    "everything": Question("Why is the first reply late, and what makes it sooner?", False),
}
"""Every question by the name of its module and notebook, in their order."""
SWEEP_FIGURES = (
    *("ttft_by_prompt", "total_by_generated", "speed_heatmap"),
    *("latency_by_memory", "memory_by_n_ctx"),
)


def module(name: str) -> ModuleType:
    """Return the module of a question."""
    return import_module(f"llm_latency.questions.{name}")


class Face:
    """One function of every question, by the question's name: ``lab.plots.cold_start(run)``.

    Parameters
    ----------
    what
        The function's name in each question's module.
    viewed
        Whether it takes the view of a run; then the face takes the run, or its frame.
    more
        Further names: ``"question:function"``.
    """

    def __init__(
        self, what: str, viewed: bool = True, more: Mapping[str, str] | None = None
    ) -> None:
        self._what, self._viewed, self._more = what, viewed, dict(more or {})

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in QUESTIONS and name not in self._more:
            names = dir(self)
            raise AttributeError(f"there is no {name!r} here{did_you_mean(name, names)} {names}")
        question, _, function = self._more.get(name, f"{name}:{self._what}").partition(":")
        home = module(question)
        draw: Callable[..., Any] = getattr(home, function)
        if not self._viewed:
            return draw

        def of_run(run: Any, *arguments: Any, **named: Any) -> Any:
            from llm_latency.questions import machines
            from llm_latency.records.machines import by_machine
            from llm_latency.records.store import RunStore
            from llm_latency.report.page import as_run

            parts = by_machine(run) if isinstance(run, RunStore) else {}
            if len(parts) < 2:
                return draw(home.View(as_run(run)), *arguments, **named)
            if function == "answer":
                return machines.answer(question, parts)
            return machines.figures(parts, lambda one: draw(home.View(one), *arguments, **named))

        of_run.__doc__ = draw.__doc__
        return of_run

    def __dir__(self) -> list[str]:
        return sorted([*QUESTIONS, *self._more])


experiments = Face("plan", viewed=False, more={"from_notebook": "notebook:from_notebook"})
"""``lab.experiments.sweep(...)``: the plan of every question."""
plots = Face(
    "figure",
    more={name: f"sweep:{name}" for name in SWEEP_FIGURES} | {"latency_by_tokens": "sweep:figure"},
)
"""``lab.plots.sweep(run)``: the figure of every question, and the named figures of the sweep."""
answers = Face("answer")
"""``lab.answers.sweep(run)``: the answer of every question."""
