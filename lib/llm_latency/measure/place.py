"""What a place does when it is asked: functions of plain data, which any executor can carry out.

A place is one machine, or one GPU of it. Whatever it is asked, it holds its own machine's lock
meanwhile and keeps what it writes in its own outputs: no path of the machine that asks means
anything here.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from llm_latency.machine import lock
from llm_latency.measure import ready
from llm_latency.measure.job import Job, ModelFile
from llm_latency.measure.resume import check_cores, check_vram
from llm_latency.measure.trial import carry_out
from llm_latency.model.names import Described
from llm_latency.plan.spec import Plan
from llm_latency.records.folders import STATES, place_folder
from llm_latency.records.record import EngineCard, Record


def introduce(wait_s: float) -> dict[str, Any]:
    """Say what this place is, before a model is touched.

    Plain data: another version of the lab is to be refused by its number, not by what it cannot
    read. ``lock`` is the file that keeps others from measuring beside this place.
    """
    with lock.machine(wait_s), tempfile.TemporaryDirectory() as folder:
        told = ready.here(Path(folder) / "engine.log")
    return told.model_dump(mode="json") | {"lock": str(lock.machine_path())}


def describe(
    plan: Plan, name: str, engine: EngineCard | None
) -> tuple[Described, list[dict[str, Any]]]:
    """Say what the plan's model is and, for a new run, what llama.cpp says that it will take."""
    with lock.machine(plan.wait_s):
        path, described = ready.model(plan, name)
        return described, [] if engine is None else ready.foretold(plan, path, engine)


def prepare(plan: Plan, model: ModelFile) -> None:
    """Have the run's model here, and whatever else its trials need, or refuse."""
    check_vram(plan)
    check_cores(plan)
    with lock.machine(plan.wait_s):
        model.find()
        ready.programs_for(plan)


def measure(job: Job, wait_s: float) -> Record:
    """Measure one trial; nobody else measures on this machine meanwhile."""
    with lock.machine(wait_s) as hold:
        hold.tell(job.run_id, job.home)
        return carry_out(job)


def leave(run_id: str) -> None:
    """Delete a run's stored KV caches, which can be large."""
    shutil.rmtree(place_folder(run_id) / STATES, ignore_errors=True)
