"""What differs between runs beside their figures: what was asked, of what, on what, and when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from llm_latency.plan.builder import OPTIONS
from llm_latency.questions.compare.judgement import View
from llm_latency.questions.compare.sides import Side
from llm_latency.report import cards

NO_DIFFERENCE = ("run_id", "runs", "wait_s")
"""Parameters that change nothing that is measured."""
FEATURES = "CPU features"
"""What is a list: only what not all have is shown."""


def differing(view: View) -> pd.DataFrame:
    """Return a row for everything that differs between the sides, and nothing else."""
    told = [_told(side) for side in view.sides]
    labels = dict.fromkeys(label for one in told for label in one)
    rows = []
    for label in labels:
        values = [one.get(label, _unasked(label)) for one in told]
        if label == FEATURES:
            values = _not_in_all(values)
        if len(set(values)) > 1:
            names = (side.name for side in view.sides)
            rows.append({"what differs": label} | dict(zip(names, values, strict=True)))
    made = pd.DataFrame(rows, columns=["what differs", *(side.name for side in view.sides)])
    made.attrs["empty"] = "Nothing: all cards tell the same."
    made.attrs["caption"] = (
        "Out of each run's card. Of lists only what not all have; a dash: not told there."
    )
    return made


def _told(side: Side) -> dict[str, str]:
    """Return all that a run's card tells, by label, as the cards of its page word it."""
    info = side.info | {"engine": _settled(side.info.get("engine") or {})}
    plan = info.get("plan") or {}
    parameters = _rows(cards.parameters(info))
    found = {"question": str(plan.get("experiment") or ""), "day": side.day}
    found |= {name: text for name, text in parameters.items() if name not in NO_DIFFERENCE}
    found |= {f"model {label}": text for label, text in _rows(cards.model(info)).items()}
    found |= _rows(cards.machine(info))
    if info.get("engines"):
        found |= {f"engines' {label}": text for label, text in _rows(cards.engines(info)).items()}
    built = cards.features(found.pop("engine system info", ""))
    return found | {f"engine {name}": value for name, value in built.items()}


def _rows(card: pd.DataFrame) -> dict[str, str]:
    """Return a card by its labels; what stands in several columns is put side by side."""
    return {
        str(label): " / ".join(map(str, values))
        for label, *values in card.itertuples(index=False, name=None)
    }


def _settled(engine: Mapping[str, Any]) -> dict[str, Any]:
    """Return an engine's card without what changes from minute to minute."""
    devices = [dict(device) | {"free_bytes": None} for device in engine.get("devices") or ()]
    return dict(engine) | {"devices": devices}


def _unasked(label: str) -> str:
    """Return what holds where a lab did not know an option yet; a dash for all else."""
    return str(OPTIONS[label]) if label in OPTIONS else "–"


def _not_in_all(lists: list[str]) -> list[str]:
    """Return of each list what not all of them have."""
    items = [text.split(", ") for text in lists]
    common = set.intersection(*map(set, items))
    return [", ".join(i for i in one if i not in common) or "–" for one in items]
