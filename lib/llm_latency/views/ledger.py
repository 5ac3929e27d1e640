"""Memory three times over: predicted from the header, allocated by llama.cpp, seen by the system.

For each cell of a run one ledger. Predicted and allocated have the same parts and can be laid
side by side. What the system sees is sorted by what the bytes are for: it is more, since Python
and the libraries count, and less, since a buffer is resident only once it was touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from llm_latency.memory.predict import predict
from llm_latency.model.header import Header
from llm_latency.plan.spec import Settings
from llm_latency.records import frame as fr
from llm_latency.records.record import PLACES

PHASES = ("after_load", "after_first", "after_last")


@dataclass(frozen=True)
class Ledger:
    """One cell's memory, in bytes; medians over its processes.

    Attributes
    ----------
    cell : str
        The cell in words.
    predicted, allocated : dict
        By part, ``weights``, ``KV cache``, ``compute`` and ``output``; empty where not known.
    resident : dict
        By phase and then by place, see ``PLACES``; empty where the system does not tell.
    """

    cell: str
    settings: Settings
    predicted: dict[str, float] = field(default_factory=dict)
    allocated: dict[str, float] = field(default_factory=dict)
    resident: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Predicted total divided by allocated total; NaN where one is not known."""
        whole = sum(self.allocated.values())
        return sum(self.predicted.values()) / whole if whole and self.predicted else float("nan")

    def growth(self, first: str = "after_load", last: str = "after_last") -> dict[str, float]:
        """Return by how much each place grew from one phase to another."""
        start, end = self.resident.get(first), self.resident.get(last)
        if not start or not end:
            return {}
        return {place: end[place] - start[place] for place in PLACES}


def ledgers(df: pd.DataFrame, info: Mapping[str, Any]) -> list[Ledger]:
    """Return the ledger of every cell in which something was measured.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    info
        The content of ``run.json``, which holds the model's header.
    """
    data = fr.prepare(df)
    good = fr.ok(data)
    header = Header.model_validate(info["header"]) if info.get("header") else None
    found = []
    for name in fr.cells(good)["cell"] if len(good) else []:
        rows = good[good["cell"] == name]
        settings = _settings(rows.iloc[0])
        on_gpu = bool((rows["effective_n_gpu_layers"] > 0).any())
        found.append(
            Ledger(
                cell=str(name),
                settings=settings,
                predicted=_predicted(header, settings, on_gpu),
                allocated=_medians(rows, fr.PARTS),
                resident=_resident(rows),
            )
        )
    return found


def _settings(row: pd.Series) -> Settings:
    values: dict[str, Any] = {}
    for name in Settings.model_fields:
        value = None if pd.isna(row[name]) else row[name]
        plain = value.item() if isinstance(value, np.generic) else value
        # A column with a missing value in it holds its whole numbers as floats.
        values[name] = int(plain) if isinstance(plain, float) else plain
    return Settings.model_validate(values)


def _predicted(header: Header | None, settings: Settings, on_gpu: bool) -> dict[str, float]:
    if header is None:
        return {}
    both = predict(header, settings, gpu=on_gpu)
    host, gpu = (both.host.model_dump(), both.gpu.model_dump())
    return {word: float(host[column] + gpu[column]) for word, column in fr.PARTS.items()}


def _medians(rows: pd.DataFrame, columns: Mapping[str, str]) -> dict[str, float]:
    each = rows.drop_duplicates("process")
    found = {word: float(each[column].median()) for word, column in columns.items()}
    return {} if any(pd.isna(value) for value in found.values()) else found


def _resident(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    each = rows.drop_duplicates("process")
    found = {}
    for phase in PHASES:
        columns = {place: f"{place}_{phase}_bytes" for place in PLACES}
        if all(column in each for column in columns.values()):
            part = each[list(columns.values())].apply(pd.to_numeric, errors="coerce")
            if part.notna().any(axis=None):
                # A place that a process has nothing in is not missing.
                medians = part.fillna(0.0).median()
                found[phase] = {place: float(medians[c]) for place, c in columns.items()}
    return found
