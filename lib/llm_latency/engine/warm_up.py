"""What is run between loading and the first generation, and what it costs.

The first reply waits for work that could have been done before: weights that are still on the
disk, buffers that were never touched, and above all the evaluation of a system prompt that is
the same every time. A warm-up does a part of that work while nobody waits. Its time is part of
the load.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from llm_latency.engine import prompts
from llm_latency.engine.timed import TimedModel
from llm_latency.plan.spec import Start
from llm_latency.plan.workload import Workload
from llm_latency.records.files import drafted
from llm_latency.records.record import StateFile

if TYPE_CHECKING:
    from llm_latency.engine.remote import RemoteModel
    from llm_latency.engine.served import ServedModel

    AnyModel = TimedModel | ServedModel | RemoteModel


def warm_up(model: AnyModel, start: Start, workload: Workload, state: Path) -> None:
    """Run what ``Start.warm_up`` names; its time goes to the model's load.

    Parameters
    ----------
    model
        Just loaded.
    start, workload
        How the process begins, and what it will be asked.
    state
        The file that :func:`make_state` wrote, for the warm-ups that need one.
    """
    kind = start.warm_up
    if kind == "none" or model.load is None:  # a server that is there was begun by others
        return
    # What the application knows beforehand takes it no time at the start.
    prefix = prompts.prefix(model, workload) if kind == "system_prompt" else []
    batch = min(model.effective.n_batch, model.effective.n_ctx - 1)
    full = prompts.passage(model, batch) if kind == "batch" else []
    start_s = time.perf_counter()
    if kind == "tokens":
        model.generate("Bonjour", max_tokens=2, length="fixed")
    elif kind == "batch":
        model.generate(full, max_tokens=1, length="fixed")
    elif kind == "system_prompt":
        model.kv_cache.prime(prefix)
    elif kind == "restored_state":
        model.kv_cache.restore(state)
    else:
        model.kv_cache.restore_python(state)
    spent_s = time.perf_counter() - start_s
    model.load = model.load.model_copy(
        update={"warm_up_s": spent_s, "load_s": model.load.load_s + spent_s}
    )


def make_state(model: TimedModel, start: Start, workload: Workload, state: Path) -> StateFile:
    """Evaluate the workload's prefix and write its state to a file, for other processes."""
    prefix = prompts.prefix(model, workload)
    start_s = time.perf_counter()
    model.kv_cache.prime(prefix)
    evaluated_s = time.perf_counter()
    save = model.kv_cache.save if start.warm_up == "restored_state" else model.kv_cache.save_python
    with drafted(state) as draft:
        save(draft)
        # On the disk, or its pages could not be put out of the page cache.
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        saved_s = time.perf_counter()
    return StateFile(
        tokens=len(prefix),
        bytes=state.stat().st_size,
        evaluate_s=evaluated_s - start_s,
        save_s=saved_s - evaluated_s,
    )
