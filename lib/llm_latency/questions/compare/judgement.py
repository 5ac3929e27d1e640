"""Every cell that the sides have in common, compared: paired where they are one run, else not."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from llm_latency.questions.compare.sides import MEASURES, Side, apart, sides
from llm_latency.records import frame as fr
from llm_latency.records.store import RunStore
from llm_latency.stats.compare import Comparison, compare
from llm_latency.stats.unpaired import unpaired
from llm_latency.words import file_name, missing, setting

ALONE = ("prompt_tokens", "depth_tokens")
"""What tells cells apart beside their settings."""
LESS = {"faster": "less", "slower": "more"}
"""Verdicts on what is no time."""


class View:
    """Two sides or more; the first is what the others are compared with.

    Attributes
    ----------
    base : Side
        The first.
    others : list of Side
        The rest.
    cells : dict
        The cells that the base shares with any other, in words.
    measures : dict
        What is compared, and its column: what was measured on at least two sides.
    memory : str
        The word for the memory that is compared.
    """

    def __init__(self, runs: Sequence[RunStore]) -> None:
        self.base, *self.others = self.sides = sides(runs)
        shared = {cell for other in self.others for cell in other.cells}
        self.cells = _words([c for c in self.base.cells if c in shared], self.base)
        rows = pd.concat([side.rows for side in self.sides], ignore_index=True)
        column, self.memory, _ = fr.memory_choice(fr.counted(rows))
        told = MEASURES | {self.memory: column}
        # Of processes that answered once the first answer is the only one.
        once = not (fr.ok(rows)["repeat"] > 0).any()
        known = {name: c for name, c in told.items() if self._measured(c)}
        self._compared: dict[tuple[str, str, str], Comparison] = {}
        self.measures = {n: c for n, c in known.items() if not (once and n == "first TTFT")}

    def _measured(self, column: str) -> bool:
        return sum(bool(side.rows[column].notna().any()) for side in self.sides) > 1

    @property
    def same_run(self) -> bool:
        """Whether all sides are one run."""
        return not any(self.apart(other) for other in self.others)

    def apart(self, other: Side) -> str:
        """Return what lies between the base and another side; empty where nothing does."""
        return apart(self.base, other)

    def words(self, measure: str) -> dict[str, str] | None:
        """Return other words for verdicts on what is no time."""
        return LESS if measure == self.memory else None

    def compare(self, other: Side, cell: str, measure: str) -> Comparison:
        """Compare a cell of another side with the base's; the noise is that of the noisier side."""
        key = (other.name, cell, measure)  # the answer, the table and the figure ask for the same
        if key not in self._compared:
            self._compared[key] = self._compare(other, cell, measure)
        return self._compared[key]

    def _compare(self, other: Side, cell: str, measure: str) -> Comparison:
        column = self.measures[measure]
        a, b = (side.samples(cell, column) for side in (self.base, other))
        floors = [side.floor(column) for side in (self.base, other)]
        known = [floor for floor in floors if floor is not None]
        floor = max(known) if len(known) == len(floors) else None
        between = self.apart(other)
        return unpaired(a, b, floor, between) if between else compare(a, b, floor)

    def compared(self, other: Side, measure: str) -> dict[str, Comparison]:
        """Return the comparisons of one figure that could be made, by cell."""
        made = {cell: self.compare(other, cell, measure) for cell in self.cells}
        return {cell: found for cell, found in made.items() if found.ratio.n}

    def lonely(self) -> dict[str, list[str]]:
        """Return, by side, the cells that it shares with no side that it is compared with."""
        mine, theirs = set(self.base.cells), {c for other in self.others for c in other.cells}
        found = {self.base.name: [c for c in self.base.cells if c not in theirs]}
        found |= {o.name: [c for c in o.cells if c not in mine] for o in self.others}
        return {name: cells for name, cells in found.items() if cells}


def _words(cells: Sequence[str], side: Side) -> dict[str, str]:
    """Return cells in words: what tells them apart, and nothing that all of them share."""
    if not cells:
        return {}
    first = pd.DataFrame([side.first(cell) for cell in cells])
    names = [n for n in (*fr.keys(first), *ALONE) if len({setting(v) for v in first[n]}) > 1]
    found: dict[str, str] = {}
    for cell, row in zip(cells, first[names or list(fr.AXES)].to_dict("records"), strict=True):
        told = {n: file_name(v) if n == "model" else v for n, v in row.items() if not missing(v)}
        words = fr.cell_name({str(name): value for name, value in told.items()})
        # What tells them apart may be the text of a prompt alone.
        found[cell] = words if words not in found.values() else f"{words} ({cell[:4]})"
    return found
