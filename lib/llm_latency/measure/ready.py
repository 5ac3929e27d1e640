"""What is there before the first trial: a machine that can measure, and the model on it.

The model is made or fetched and seen to be one that can be measured, a prompt of the user's own
to have room; llama.cpp says what each of the plan's settings will take.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_latency.base import Part
from llm_latency.engine import programs, token_count
from llm_latency.engine.dry_run import DryRun, NotForetoldError, Side
from llm_latency.errors import LabError, ParameterError
from llm_latency.machine import devices, host, offload
from llm_latency.measure.trial import engine_card
from llm_latency.model import kinds, names
from llm_latency.records.record import EngineCard


class Here(Part):
    """A machine, and what measures on it: the facts that a run keeps of where it was measured."""

    machine: host.MachineCard
    gpu: devices.GpuCard
    engine: EngineCard
    versions: dict[str, str]


def here(log: Path) -> Here:
    """Return the facts of this machine; the engine's words while it tells them go to a log.

    Raises
    ------
    LabError
        If the engine does not start.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    engine = engine_card(log)
    if isinstance(engine, str):
        raise LabError(
            f"llama.cpp does not start here: {engine}; run 'python -m llm_latency doctor' to "
            "learn which build line to use"
        )
    return Here(
        machine=host.machine_card(),
        gpu=devices.gpu_card(),
        engine=engine,
        versions=host.versions(),
    )


def model(plan: Any, name: str, *, progress: bool = False) -> tuple[Path, names.Described]:
    """Have a plan's model on this machine; return where it lies, and what it is.

    Parameters
    ----------
    plan
        What is carried out.
    name
        The model's, pinned to the file that the run began with.
    progress
        Show how far the model's making or fetching is.

    Raises
    ------
    LabError
        If it cannot be had, is none that can be measured, or a prompt does not fit.
    """
    path = names.resolve(name, progress=progress)
    kinds.check(path)
    described = names.describe(plan.model, path)
    if described.header is not None:
        for settings in dict.fromkeys(cell.settings for cell in plan.cells):
            described.header.check_cache(settings)
    token_count.check_room(path, plan.cells)
    return path, described


def programs_for(plan: Any) -> None:
    """Have the programs that a plan's trials need; they are built where they are not there."""
    if any(cell.workload.via == "server" for cell in plan.cells):
        programs.llama_server(build=True)


def foretold(plan: Any, path: Path, engine: EngineCard) -> list[dict[str, Any]]:
    """Return what llama.cpp says that each setting of the engine at home will allocate."""
    told, seen = [], offload.taken(engine.devices)
    cells = [cell for cell in getattr(plan, "cells", ()) if cell.start.engine is None]
    every = dict.fromkeys(cell.settings for cell in cells)
    with DryRun(path) as dry_run:
        for settings in every:
            on: Side = "gpu" if seen and settings.n_gpu_layers else "cpu"
            try:
                allocation = dry_run.ask(settings, on).model_dump()
            except NotForetoldError as error:
                if "unknown model architecture" in str(error):  # no trial would say more
                    raise ParameterError(f"model={plan.model!r} is refused: {error}") from None
                continue
            told.append({"settings": settings.model_dump(), "on": on, "allocation": allocation})
    return told
