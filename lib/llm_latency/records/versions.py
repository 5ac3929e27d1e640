"""What was measured once is read by every later lab: older data is brought forward, step by step.

A step turns what one version wrote into what the next one writes, as a pure function of JSON's
own types. A step that has been released is never changed: a change of the schema is a new
version, with one more step and an example of the version before it in ``tests/data/``. Files
are never rewritten; they are brought forward each time that they are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from llm_latency.errors import LabError
from llm_latency.records.record import SCHEMA_VERSION, Record


class SchemaError(LabError):
    """Stored data that this lab cannot read; the text says why, and what to do."""


Step = Callable[[dict[str, Any]], dict[str, Any]]

FIRST_VERSION = 1
"""What data that names no version is of."""


def only_added(found: dict[str, Any]) -> dict[str, Any]:
    """Return data as it is: the next version has fields more, which are missing here."""
    return found


def devices_in_parts(found: dict[str, Any]) -> dict[str, Any]:
    """Return a run's card whose engine named its devices ``name: description``, in parts."""
    engine = found.get("engine")
    if not isinstance(engine, dict):
        return found
    told = [str(text).partition(": ") for text in engine.get("devices") or ()]
    devices = [{"name": name, "description": text} for name, _, text in told]
    return found | {"engine": engine | {"devices": devices}}


def vram_by_nvml(found: dict[str, Any]) -> dict[str, Any]:
    """Return a record whose VRAM, where it was seen, only NVML can have told."""
    vram = found.get("vram")
    if not isinstance(vram, dict) or vram.get("total_bytes") is None:
        return found
    return found | {"vram": vram | {"source": "nvml"}}


NEWEST = f'{{"schema_version":{SCHEMA_VERSION},'
"""How a line of today's version begins."""
RECORDS: dict[int, Step] = {1: only_added, 2: vram_by_nvml}
"""From version to the next: steps of a line of ``trials.jsonl``."""
RUNS: dict[int, Step] = {1: only_added, 2: devices_in_parts}
"""From version to the next: steps of ``run.json``."""


def forward(
    found: Mapping[str, Any], steps: Mapping[int, Step], current: int = SCHEMA_VERSION
) -> dict[str, Any]:
    """Return data of any earlier version as the current one writes it.

    Parameters
    ----------
    found
        A record or the content of ``run.json``, as JSON has it.
    steps
        :data:`RECORDS` or :data:`RUNS`.
    current
        The version to come to.

    Raises
    ------
    SchemaError
        If it is of a later version, or of none that ever was.
    """
    made = dict(found)
    version = made.get("schema_version", FIRST_VERSION)
    if type(version) is int and version > current:
        raise SchemaError(
            f"this was written by a newer lab (schema version {version}; this lab reads up to "
            f"{current}); update the lab to read it"
        )
    while version != current:
        step = steps.get(version) if type(version) is int else None
        if step is None:
            raise SchemaError(
                f"schema version {version!r} is none that this lab ever wrote; restore the file "
                "from a copy"
            )
        version += 1
        made = step(made) | {"schema_version": version}
    return made


def record(line: bytes | str) -> Record:
    """Return the record that a line of ``trials.jsonl`` holds, whichever version wrote it.

    Raises
    ------
    SchemaError
        If a newer lab wrote it, or it is no record.
    """
    try:
        text = line if isinstance(line, str) else line.decode()
        if text.startswith(NEWEST):  # as every line of this version begins: read once
            return Record.model_validate_json(text)
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("it is not a JSON object")
        return Record.model_validate_json(json.dumps(forward(found, RECORDS)))
    except ValidationError as error:
        raise SchemaError(why(error)) from None
    except ValueError as error:
        raise SchemaError(
            f"a line is no record ({error}); restore the file from a copy, or measure again under "
            "a new run_id"
        ) from None


def why(error: ValidationError) -> str:
    """Say why something stored is not what it should be, and what to do."""
    finding = error.errors()[0]
    name = ".".join(str(part) for part in finding["loc"])
    if finding["type"] == "extra_forbidden":
        return (
            f"it has a field {name!r} that this lab does not know, so a newer lab wrote it; update "
            "the lab to read it"
        )
    return (
        f"{name or 'it'} is not what a lab writes there ({finding['msg']}); restore the file from "
        "a copy, or measure again under a new run_id"
    )
