"""A side of a comparison: one run on one machine, and what lies between two of them.

Cells are matched by their identifier, which says all that was asked for; only where the model's
file lies is left out of it, since the same file lies elsewhere on another machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import pandas as pd

from llm_latency.plan.spec import Trial
from llm_latency.records import frame as fr
from llm_latency.records.machines import of_machine
from llm_latency.records.store import RunStore
from llm_latency.stats.compare import noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimate
from llm_latency.words import file_name

MEASURES = {
    "load": "load_s",
    "first TTFT": "first_ttft_s",
    "TTFT": "ttft_s",
    "prefill": "prefill_s",
    "token": "token_s",
    "total": "total_s",
}
"""Times that are compared, and their columns; memory besides, whichever column tells it."""
Within = Literal["quickest", "median"]


class Side:
    """One run on one machine.

    Attributes
    ----------
    name : str
        What it is called on the page: its ``run_id``, where it needs that its machine too.
    info : dict
        What ``run.json`` tells of it, on this machine.
    run : RunStore
        The run.
    rows : pandas.DataFrame
        Its rows, with ``match`` (the cell as both sides know it), ``token_s`` (seconds per token
        after the first) and ``first_ttft_s`` (of a process's first generation alone).
    """

    def __init__(self, run: RunStore, rows: pd.DataFrame, name: str, info: dict[str, Any]) -> None:
        self.run, self.rows, self.name, self.info = run, rows, name, info
        self._cells = {str(cell): part for cell, part in rows.groupby("match", sort=False)}
        self._samples = lru_cache(maxsize=None)(self._read)
        self.floor = lru_cache(maxsize=None)(self._floor)

    @property
    def origin(self) -> tuple[Any, ...]:
        """What is the same in all copies of one run."""
        return (self.info.get("run_id"), self.info.get("created_at"), self.machine)

    @property
    def machine(self) -> tuple[Any, ...]:
        """What tells machines apart."""
        card = self.info.get("machine") or {}
        return (card.get("machine_id"), card.get("cpu"), (card.get("gpu") or {}).get("name"))

    @property
    def day(self) -> str:
        """The day on which it was begun."""
        return str(self.info.get("created_at") or "")[:10]

    @property
    def cells(self) -> list[str]:
        """Its cells, in the order of their settings."""
        return list(self._cells)

    def first(self, cell: str) -> Mapping[str, Any]:
        """Return the first row of a cell: what was asked for."""
        return {str(name): value for name, value in self._cells[cell].iloc[0].items()}

    def samples(self, cell: str, column: str, within: Within = "quickest") -> pd.Series[float]:
        """Return one number per process of a cell; none where the side has no such cell."""
        found: pd.Series[float] = self._samples(cell, column, within)
        return found

    def _read(self, cell: str, column: str, within: Within) -> pd.Series[float]:
        rows = self._cells.get(cell, self.rows.iloc[:0])
        found = samples(rows, column, within=within)
        attrs, found = found.attrs, found[found > 0]
        found.attrs = attrs
        return found

    def estimate(self, cell: str, column: str) -> Estimate:
        """Return the estimate over the processes of a cell, each with the median of its answers."""
        return estimate(self.samples(cell, column, "median"))

    def _floor(self, column: str) -> float | None:
        return noise_floor(self.rows, column)


def sides(runs: Sequence[RunStore]) -> list[Side]:
    """Return the runs as sides, each machine of a run as one of its own."""
    made: list[Side] = []
    for place, run in enumerate(runs):
        again = sum(other.run_id == run.run_id for other in runs[:place])
        rows = _prepared(run)
        parts = [part for _, part in rows.groupby("machine_id", dropna=False, sort=False)]
        for part in parts or [rows]:
            machine = part["machine_id"].iloc[0] if len(part) else None
            name = run.run_id + f" on {machine}" * (len(parts) > 1)
            name += f" ({again + 1})" * bool(again)
            made.append(Side(run, part, name, of_machine(run.info, str(machine or ""))))
    return made


def _prepared(run: RunStore) -> pd.DataFrame:
    """Return a run's rows with what is compared of them, in the order of their settings."""
    rows = run.frame()
    matches = {record.trial.cell_id: _match(record.trial) for record in run.records()}
    depth = rows["depth_tokens"].map(lambda tokens: f"@{tokens:.0f}" if tokens >= 0 else "")
    later = (rows["generated_tokens"] - 1).where(lambda count: count > 0)
    rows = rows.assign(
        match=rows["cell_id"].map(matches) + depth,
        token_s=rows["decode_s"] / later,
        first_ttft_s=rows["ttft_s"].where(rows["repeat"] == 0),
    )
    order = [*fr.keys(rows), "prompt_tokens", "depth_tokens"]
    sortable = rows[order].apply(lambda c: c if c.dtype.kind in "if" else c.astype(str))
    sorted_rows: pd.DataFrame = rows.loc[sortable.sort_values(order, kind="stable").index]
    sorted_rows.attrs = rows.attrs
    return sorted_rows


def _match(trial: Trial) -> str:
    """Return a cell's identifier without the folder in which the model lies."""
    return trial.model_copy(update={"model": file_name(trial.model)}).cell_id


SAME_STATE = "another machine state"
OTHER_MACHINE = "the machines differ, and the ratio is of them, too"


def apart(a: Side, b: Side) -> str:
    """Return what lies between two sides; empty where they are the same run on one machine."""
    if a.origin == b.origin:
        return ""
    if None in (a.machine[0], b.machine[0]) or a.machine != b.machine:
        return OTHER_MACHINE
    return f"another {'time' if a.day == b.day else 'day'}, {SAME_STATE}"
