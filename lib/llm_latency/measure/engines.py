"""The engines of a plan beside the one at home: looked up, asked what they are, held to it.

Each is the worker of another interpreter, in an environment that ``bootstrap.py --name`` made or
that somebody else did. All else of the lab runs at home.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_latency.errors import LabError
from llm_latency.machine import host, interpreters
from llm_latency.measure.job import worker_command
from llm_latency.measure.trial import ENGINE_TIMEOUT_S, engine_card
from llm_latency.records.folders import LOGS

ABOUT = (
    "import json; from llm_latency.machine import host; "
    "print(json.dumps({'build': host.engine_build(), 'versions': host.versions()}))"
)
"""What an interpreter is asked about itself."""
MAKE = "make it with 'python bootstrap.py --engine … --name …', or give another"


def named(plan: Any) -> list[str]:
    """Return the engines of a plan beside the one at home."""
    every = (cell.start.engine for cell in getattr(plan, "cells", ()))
    return [name for name in dict.fromkeys(every) if name is not None]


def check(plan: Any) -> None:
    """Refuse engines that this machine has not, before anything is loaded.

    Raises
    ------
    ParameterError
        One sentence that names those that there are.
    """
    for name in named(plan):
        interpreters.interpreter(name)


def cards(plan: Any, folder: Path) -> dict[str, dict[str, Any]]:
    """Return what each of a plan's engines beside the one at home is: card, build, versions.

    Parameters
    ----------
    plan
        What is measured.
    folder
        Of its run, where llama.cpp's words are kept.

    Raises
    ------
    LabError
        If one does not start, or its lab is another version than the one that measures.
    """
    return {name: _card(name, folder / LOGS / "engine.log") for name in named(plan)}


def _card(name: str, log: Path) -> dict[str, Any]:
    told = _about(name)
    theirs, ours = (one["llm-latency-lab"] for one in (told["versions"], host.versions()))
    if theirs != ours:
        raise LabError(
            f"engine {name!r} belongs to version {theirs} of the lab, and this is {ours}; {MAKE}"
        )
    log.parent.mkdir(parents=True, exist_ok=True)
    engine = engine_card(log, worker_command(name))
    if isinstance(engine, str):
        raise LabError(f"llama.cpp of engine {name!r} does not start here: {engine}; {MAKE}")
    return {"engine": engine.model_dump(), **told}


def _about(name: str) -> dict[str, Any]:
    """Return the build and the versions that an engine's interpreter tells of itself."""
    command = [str(interpreters.interpreter(name)), "-c", ABOUT]
    why = "it tells nothing of itself"
    try:
        asked = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=ENGINE_TIMEOUT_S
        )
        if asked.returncode == 0:
            told: dict[str, Any] = json.loads(asked.stdout)
            return told
        why = (asked.stderr.strip().splitlines() or [why])[-1]
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        why = str(error) or why
    raise LabError(f"engine {name!r} does not hold the lab ({why}); {MAKE}")


def of(info: Mapping[str, Any], name: str | None) -> Mapping[str, Any]:
    """Return the card of an engine of a run; of the one at home where none is named."""
    if name is None:
        return dict(info.get("engine") or {})
    return dict(((info.get("engines") or {}).get(name) or {}).get("engine") or {})


def changed(
    info: Mapping[str, Any], now: Mapping[str, Mapping[str, Any]]
) -> tuple[str, str] | None:
    """Return the first engine that is not the one that a run began with, and what it is now.

    Parameters
    ----------
    info
        The content of the run's ``run.json``.
    now
        What :func:`cards` tells now.
    """
    begun = info.get("engines") or {}
    for name in begun.keys() & now.keys():
        was, here = _told(begun[name]), _told(now[name])
        if was != here:
            return name, f"{', '.join(was)}, here {', '.join(here)}"
    return None


def _told(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what tells one engine from another: release, build, and the features in force."""
    version = (card.get("versions") or {}).get("llama_cpp_python")
    build, engine = card.get("build") or {}, card.get("engine") or {}
    return tuple(map(str, (version, build.get("key"), engine.get("system_info"))))
