"""What each knob does, beyond what equal cells differ by: times in ratios, memory in bytes.

A knob is a cell of the run, by the settings in which it differs from the baseline. It is compared
with the baseline, or with the cell that differs from it in a part of these settings: a quantised V
cache needs flash attention, and what flash attention does is not the cache's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from llm_latency.plan.settings import Settings
from llm_latency.records import frame as fr
from llm_latency.records.machines import on_one
from llm_latency.report.page import Run, parameters_of
from llm_latency.stats.compare import (
    SMALLEST_EFFECT,
    Comparison,
    compare,
    noise_floor,
    ratios,
    samples,
)
from llm_latency.stats.estimate import Estimate, estimate, per_process
from llm_latency.stats.family import family_floor
from llm_latency.words import setting

TIMES = {"TTFT": "ttft_s", "decode": "decode_s"}
"""The times that are judged, in words, and their columns."""
BASELINE = "the baseline"
Changed = dict[str, tuple[str, str]]
"""By setting: what it is in the baseline, and in a cell."""


@dataclass(frozen=True)
class Effect:
    """What turning one knob does.

    Attributes
    ----------
    name : str
        What is turned, in words.
    cell_id, reference_id : str
        Its cell, and the one that it is compared with.
    reference : str
        The latter in words.
    trials : str
        How its processes ended.
    times : dict
        By :data:`TIMES`: its comparison.
    memory_bytes : float
        What it takes more; NaN where that is not known.
    memory_matters : bool
        Whether that is more than equal cells differ by, and than nobody would mind.
    size : float
        The largest of its effects: of times the absolute logarithm of the ratio, of memory the
        relative change.
    """

    name: str
    cell_id: str
    reference_id: str
    reference: str
    trials: str
    times: dict[str, Comparison]
    memory_bytes: float
    memory_matters: bool
    size: float

    @property
    def measured(self) -> bool:
        """Whether any round has both its cells."""
        return any(one.ratio.n for one in self.times.values())

    @property
    def decided(self) -> dict[str, Comparison]:
        """The times that it makes longer or shorter."""
        return {n: one for n, one in self.times.items() if one.verdict in ("faster", "slower")}

    @property
    def matters(self) -> bool:
        """Whether it changes a time or the memory."""
        return bool(self.decided) or self.memory_matters

    @property
    def same(self) -> bool:
        """Whether it is shown to change nothing."""
        return not self.matters and all(one.verdict == "same" for one in self.times.values())

    @property
    def nearest(self) -> tuple[str, Comparison]:
        """The undecided time that is furthest from nothing."""
        undecided = {n: one for n, one in self.times.items() if one.verdict == "undecided"}
        return max(undecided.items(), key=lambda item: _distance(item[1].ratio.median))


class View:
    """The baseline of a run, and what each knob does.

    Attributes
    ----------
    base_id : str or None
        The baseline's cell, which has the twin; ``None`` where it was not measured.
    memory : tuple of str
        The column that tells the memory, the word for it, and why that one.
    not_here : dict
        By name: why a knob is not on this machine or in this model.
    """

    def __init__(self, run: Run) -> None:
        run = on_one(run)
        self.info, self.rows = run.info, run.frame()
        self.data = fr.by_cell(self.rows)
        self.memory = fr.memory_choice(self.data)
        twins = self.rows.loc[self.rows["twin"], "cell_id"]
        self.base_id = str(twins.iloc[0]) if len(twins) else None
        parameters = parameters_of(self.info)
        self.not_here: dict[str, str] = dict(parameters.get("not_here") or {})

    @cached_property
    def changed(self) -> dict[str, Changed]:
        """By cell: the settings in which it differs from the baseline."""
        if self.base_id is None:
            return {}
        every = self.data.drop_duplicates("cell_id").set_index("cell_id")
        if self.base_id not in every.index:
            return {}
        base: pd.Series[Any] = every.loc[self.base_id]  # type: ignore[assignment]
        own = {name: _word(name, base) for name in (*Settings.model_fields, "cores")}
        # What was left to the engine is told by what it came to.
        came = fr.ok(self.data[self.data["cell_id"] == self.base_id])
        known = {
            name: _word(f"effective_{name}", came.iloc[0])
            for name, word in own.items()
            if word == "default" and len(came)
        }
        return {
            str(cell): {
                name: (known.get(name, word), _word(name, row))
                for name, word in own.items()
                if _word(name, row) != word
            }
            for cell, row in every.iterrows()
            if cell != self.base_id
        }

    @cached_property
    def effects(self) -> list[Effect]:
        """What each knob does, the largest effect first."""
        references = {cell: self._reference(cell) for cell in self.changed}
        times: dict[str, dict[str, Comparison]] = {cell: {} for cell in references}
        for word, column in TIMES.items():
            for cell, found in self._compared(column, references).items():
                times[cell][word] = found
        made = [self._effect(cell, of, times[cell]) for cell, of in references.items()]
        return sorted(made, key=lambda one: -one.size)

    def of(self, cell: str) -> pd.DataFrame:
        """Return the rows of a cell that count."""
        return self.data[self.data["cell_id"] == cell]

    def estimate(self, column: str, cell: str) -> Estimate:
        """Return the estimate of a cell."""
        return estimate(per_process(self.of(cell), column)[column])

    @cached_property
    def equal_bytes(self) -> float:
        """How far the memory of processes of the baseline and its twin is apart."""
        taken = _memory(fr.ok(self.rows[self.rows["cell_id"] == self.base_id]), self.memory[0])
        each = taken.groupby(self.rows["process"]).max()
        return float(each.max() - each.min())

    def _reference(self, cell: str) -> str:
        """Return the cell whose settings are the most of those that a cell changes."""
        mine = self.changed[cell].items()
        part = [other for other, their in self.changed.items() if their.items() < mine]
        return max(part, key=lambda other: len(self.changed[other]), default=str(self.base_id))

    def _compared(self, column: str, references: dict[str, str]) -> dict[str, Comparison]:
        pairs = {
            cell: (samples(self.rows, column, cell_id=of), samples(self.rows, column, cell_id=cell))
            for cell, of in references.items()
        }
        floor = family_floor(
            noise_floor(self.rows, column),
            [ratios(*pair) for pair in pairs.values()],
            len(pairs) * len(TIMES),
        )
        return {cell: compare(*pair, floor) for cell, pair in pairs.items()}

    def _effect(self, cell: str, of: str, times: dict[str, Comparison]) -> Effect:
        mine, theirs = (
            float(_memory(fr.ok(self.of(one)), self.memory[0]).median()) for one in (cell, of)
        )
        more = mine - theirs
        changed = self.changed.get(of, {})
        own = {n: words for n, words in self.changed[cell].items() if n not in changed}
        return Effect(
            name=in_words(own),
            cell_id=cell,
            reference_id=of,
            reference=in_words(changed) if changed else BASELINE,
            trials=fr.status_words(self.of(cell)),
            times=times,
            memory_bytes=more,
            memory_matters=abs(more) > max(self.equal_bytes, SMALLEST_EFFECT * theirs),
            size=max(
                *(_distance(found.ratio.median) for found in times.values()),
                abs(more) / theirs if theirs > 0 and not math.isnan(more) else 0.0,
            ),
        )


def deciding(view: View) -> list[Comparison]:
    """Return the comparisons on which the answer rests."""
    return [found for one in view.effects for found in one.times.values()]


def _word(name: str, row: pd.Series[Any]) -> str:
    """Return a setting of a row as readers see it."""
    everything = name == "n_gpu_layers" and row[name] == -1
    return "all" if everything else setting(row[name])


def _memory(rows: pd.DataFrame, column: str) -> pd.Series[float]:
    """Return the memory of rows; of VRAM none where no layer is on a device."""
    taken: pd.Series[float] = rows[column]
    if column.startswith("vram"):
        return taken.mask(rows["effective_n_gpu_layers"] == 0, 0.0)
    return taken


def _distance(ratio: float) -> float:
    """Return how far a ratio is from 1, longer and shorter alike; 0 where it is not known."""
    return abs(math.log(ratio)) if ratio > 0 else 0.0


def in_words(changed: Changed) -> str:
    """Return what is turned: ``n_ubatch 512 → 1024``, ``KV cache f16 → q8_0``."""
    left = dict(changed)
    if "n_ubatch" in left:  # n_batch goes along where it must hold it
        left.pop("n_batch", None)
    if left.get("type_k") == left.get("type_v", ()):
        left = {"KV cache": left["type_k"]} | left
        del left["type_k"], left["type_v"]
    return ", ".join(f"{name} {before} → {after}" for name, (before, after) in left.items())
