"""A run that was measured on several machines, taken apart: each machine's rows are a run.

Estimates, answers and figures are of one machine. A machine goes by its ``machine_id``; where one
has several GPUs that measured, each of them is one, ``<machine_id> <gpu_uuid>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pandas as pd


class Run(Protocol):
    """What a page is made of: a stored run, or rows in its place."""

    @property
    def info(self) -> dict[str, Any]:
        """The content of ``run.json``."""

    def frame(self) -> pd.DataFrame:
        """Return one tidy row per generation."""


@dataclass(frozen=True)
class Rows:
    """Rows in the place of a run, such as :func:`~llm_latency.load_runs` returns them."""

    rows: pd.DataFrame
    info: dict[str, Any]

    def frame(self) -> pd.DataFrame:
        """Return the rows."""
        return self.rows


def machines(frame: pd.DataFrame) -> pd.Series[str]:
    """Return the name of the machine that each row was measured on; empty where it is not told."""
    name = frame["machine_id"].fillna("")
    if frame["gpu_uuid"].nunique() < 2:
        return name
    # A trial without layers on a card tells none: it was measured where its round was.
    rounds = [frame["run_id"], name, frame["round"]]
    gpu = frame["gpu_uuid"].fillna(frame["gpu_uuid"].groupby(rounds).transform("first"))
    several = gpu.groupby(name).transform("nunique") > 1
    return name.where(~several | gpu.isna(), name + " " + gpu.fillna(""))


def by_machine(run: Run) -> dict[str, Rows]:
    """Return each machine's part of a run by the machine's name, in the order of their names.

    Of a run on one machine that is the whole of it.
    """
    frame = run.frame()
    name = machines(frame)
    if len(every := sorted(name.unique())) < 2:
        return {one: Rows(frame, of_machine(run.info, one)) for one in every or [""]}
    return {one: Rows(frame[name == one], of_machine(run.info, one) | {"on": one}) for one in every}


def of_machine(info: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what is known of a run on one of its machines, as of a run on that machine alone."""
    cards: Mapping[str, Any] = info.get("machines") or {}
    card = cards.get(name) or cards.get(name.partition(" ")[0])
    if not card:
        return dict(info)
    told = {key: card[key] for key in ("engine", "versions") if card.get(key)}
    machine = (card.get("machine") or {}) | {"gpu": card.get("gpu") or {}}
    return dict(info) | told | {"machine": machine}


def on_one(run: Run) -> Run:
    """Return the part of the first machine of a stored run; of most runs that is the whole.

    Rows that somebody put together stay what they are: no estimate mixes them.
    """
    return run if isinstance(run, Rows) else next(iter(by_machine(run).values()))
