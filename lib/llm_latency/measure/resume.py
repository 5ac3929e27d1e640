"""What a run stands on: one machine, one engine, one model file. Going on must not change them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_latency.errors import LabError
from llm_latency.machine import host
from llm_latency.model.names import ModelCard


def check(info: Mapping[str, Any], model: ModelCard) -> None:
    """Refuse to go on with a run whose further records would not belong to those it has.

    Parameters
    ----------
    info
        The content of the run's ``run.json``; what it does not know is not compared.
    model
        The card of the file that would be measured now.

    Raises
    ------
    LabError
        One sentence that names what has changed.
    """
    machine, now = info.get("machine") or {}, host.machine_card()
    # A container has a new name each time that it starts, and a machine keeps its CPU.
    if _differ(machine.get("machine_id"), now.machine_id) and _differ(machine.get("cpu"), now.cpu):
        _refuse(info, "on another machine", f"{machine['cpu']}, here {now.cpu}")
    engine = (info.get("versions") or {}).get("llama_cpp_python")
    if _differ(engine, here := host.versions()["llama_cpp_python"]):
        _refuse(info, "with another engine", f"llama-cpp-python {engine}, here {here}")
    sha256 = (info.get("model") or {}).get("sha256")
    if _differ(sha256, model.sha256):
        _refuse(info, "with another model file", f"SHA-256 {sha256}, now {model.sha256}")


def _differ(before: object, now: object) -> bool:
    return before is not None and before != now


def _refuse(info: Mapping[str, Any], how: str, what: str) -> None:
    raise LabError(
        f"run {info.get('run_id')!r} was begun {how} ({what}), and one run is of one; give a new "
        "run_id to begin anew, or go on where it was begun"
    )
