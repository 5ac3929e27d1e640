"""The walks of a run, read once: their curves, their ends, and what stands beside them."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd

from llm_latency.errors import ParameterError
from llm_latency.plan.settings import KvType
from llm_latency.questions.depth.planning import rows_beside
from llm_latency.records import frame as fr
from llm_latency.records.machines import on_one
from llm_latency.report.page import Run, parameters_of
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.curves import Curves
from llm_latency.stats.estimate import Estimate, estimate, per_process


class Kind(NamedTuple):
    """How attention was computed, and in which format its keys and values were kept."""

    flash_attn: Any
    type_k: str
    type_v: str

    @property
    def cell(self) -> dict[str, Any]:
        """Columns and values that name its rows."""
        return self._asdict()

    @property
    def words(self) -> str:
        """Both in words: ``q8_0, flash``."""
        kept = self.type_k if self.type_k == self.type_v else f"{self.type_k}/{self.type_v}"
        attention = {"True": ", flash", "False": ""}.get(str(self.flash_attn), ", auto")
        return kept + attention


class View:
    """The walks of a run, by how attention was computed and kept.

    Attributes
    ----------
    kinds : list of Kind
        What was walked through, without flash attention first.
    depths : list of float
        Tokens in the context at the steps of the walks.
    bound_s : float
        Longest wait for a first token that the user bears; 0: nobody said.
    beside : pandas.DataFrame
        Another tool's rows, if any were named and are still there.
    """

    def __init__(self, run: Run) -> None:
        run = on_one(run)
        rows = run.frame()
        self.rows = rows.assign(token_s=1 / rows["decode_tps"])
        self.info = run.info
        self.data = fr.by_cell(self.rows)
        self.good = fr.ok(self.data).dropna(subset=["depth_tokens"])
        found = self.good[list(Kind._fields)].drop_duplicates().itertuples(index=False)
        formats = get_args(KvType)
        self.kinds = sorted(
            (Kind(*row) for row in found),
            key=lambda kind: (str(kind.flash_attn), formats.index(kind.type_k), kind.type_v),
        )
        self.depths = [float(depth) for depth in sorted(self.good["depth_tokens"].unique())]
        given = parameters_of(self.info)
        self.bound_s = float(given.get("ttft_s") or 0.0)
        try:
            self.beside = rows_beside(given.get("beside") or "")
        except ParameterError:  # the file has gone since
            self.beside = pd.DataFrame()
        self._curves: dict[tuple[Kind, str], Curves] = {}

    def of(self, kind: Kind, rows: pd.DataFrame | None = None) -> pd.DataFrame:
        """Return the rows of one kind: those that may enter an estimate, or some others."""
        rows = self.good if rows is None else rows
        return rows[np.logical_and.reduce([rows[name] == v for name, v in kind.cell.items()])]

    def curves(self, kind: Kind, column: str) -> Curves:
        """Return a column over the depths of one kind's walks: ``token_s`` or ``ttft_s``."""
        if (kind, column) not in self._curves:
            known = self.of(kind).dropna(subset=[column])
            self._curves[kind, column] = Curves.of(known, "depth_tokens", column)
        return self._curves[kind, column]

    def at(self, kind: Kind, column: str, depth: float) -> Estimate:
        """Return the estimate of a column at one depth."""
        here = self.of(kind)
        each = per_process(here[here["depth_tokens"] == depth], column, ["depth_tokens"])
        return estimate(each[column])

    def compare(self, base: tuple[Kind, float], other: tuple[Kind, float]) -> Comparison:
        """Compare the time of the same number of tokens of two kinds, each at a depth."""
        pair = [
            samples(self.rows, "decode_s", depth_tokens=depth, **kind.cell)
            for kind, depth in (base, other)
        ]
        return compare(pair[0], pair[1], noise_floor(self.rows, "decode_s"))

    def worst(self, kind: Kind, column: str) -> float:
        """Return the largest error at depths that the lines had not seen; NaN without any."""
        errors = [abs(e.median) for e in self.curves(kind, column).foretold().values() if e.n]
        return max(errors, default=float("nan"))

    @cached_property
    def crossed(self) -> dict[Kind, Estimate]:
        """From which depth on each kind's TTFT is above the bound; ``n`` 0: it never is."""
        return {kind: self.curves(kind, "ttft_s").reaches(self.bound_s) for kind in self.kinds}

    def beside_of(self, kind: Kind) -> pd.Series[float]:
        """Return the other tool's time per token by depth, of rows that may be of a kind."""
        rows = self.beside
        if rows.empty:
            return pd.Series(dtype=float)
        fits = rows["token_s"].notna()
        for name, value in kind.cell.items():
            fits &= rows[name].isna() | (rows[name] == value)
        found: pd.Series[float] = rows[fits].groupby("n_depth")["token_s"].median()
        return found
