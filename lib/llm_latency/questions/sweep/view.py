"""A sweep, read once: its cells, which of them answers soonest, and what each takes."""

from __future__ import annotations

from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

from llm_latency.records import frame as fr
from llm_latency.records.machines import on_one
from llm_latency.report.page import Run
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimates


class LargerBatches(NamedTuple):
    """Sizes of ``n_batch`` above ``n_ubatch``, and how far TTFT is apart where nothing differs.

    llama.cpp computes at most ``n_ubatch`` tokens at once, so cells that differ only in a larger
    ``n_batch`` are equal. ``apart`` is a share of the smaller TTFT, ``None`` where there are no two
    such cells; ``told_apart`` means that their intervals do not overlap, which is a disturbance.
    """

    sizes: list[int]
    apart: float | None
    told_apart: bool


class View:
    """A run over a grid of settings, whose cells are told apart at the longest prompt.

    Attributes
    ----------
    data, good : pandas.DataFrame
        The rows that count, with their ``cell``, and those that may enter an estimate.
    longest : float or None
        The longest prompt at which anything was measured, in tokens.
    at_longest : pandas.DataFrame
        The rows that count of that prompt.
    ttft, total : dict
        By cell, at that prompt: the time to the first token and to the last.
    soonest : str or None
        The cell with the lowest median TTFT.
    memory_word, memory_why : str
        Which memory tells what a cell costs, and why that one.
    """

    def __init__(self, run: Run) -> None:
        run = on_one(run)
        self.info, self.rows = run.info, run.frame()
        self.data = fr.by_cell(self.rows)
        self.good = fr.ok(self.data)
        self.longest = fr.longest_prompt(self.data)
        self.at_longest = self.data[self.data["prompt_tokens"] == self.longest]
        self.ttft = self.estimates("ttft_s")
        self.total = self.estimates("total_s")
        self.soonest = min(self.ttft, key=lambda cell: self.ttft[cell].median, default=None)
        self.memory_column, self.memory_word, self.memory_why = fr.memory_choice(self.data)

    def estimates(self, column: str) -> dict[str, Estimate]:
        """Return the estimate of each cell in which a column was measured, at that prompt."""
        found = estimates(self.at_longest, column, ["cell"])
        return {cell: value for cell, value in found.items() if value.n}

    @cached_property
    def memory(self) -> dict[str, float]:
        """By cell, at that prompt: the bytes of the process that took most."""
        taken = fr.ok(self.at_longest).groupby("cell")[self.memory_column].max().dropna()
        return {str(cell): float(taken[cell]) for cell in taken.index}

    @cached_property
    def against_soonest(self) -> dict[str, Comparison]:
        """How TTFT of every other cell compares with the soonest, round by round."""
        measured = fr.ok(self.at_longest).drop_duplicates("cell").set_index("cell")["cell_id"]
        floor = noise_floor(self.rows, "ttft_s")
        times = {cell: samples(self.rows, "ttft_s", cell_id=measured[cell]) for cell in self.ttft}
        return {
            cell: compare(times[self.soonest], times[cell], floor)
            for cell in self.ttft
            if self.soonest is not None and cell != self.soonest
        }

    def larger_batches(self) -> LargerBatches | None:
        """Return what ``n_batch`` above ``n_ubatch`` did; ``None`` where there was none."""
        above = self.good[self.good["effective_n_batch"] > self.good["effective_n_ubatch"]]
        if above.empty:
            return None
        equal = self.good[self.good["effective_n_batch"] >= self.good["effective_n_ubatch"]]
        shared = [key for key in fr.keys(self.data) if key not in ("n_batch", "n_ubatch")]
        groups: dict[tuple[Any, ...], list[Estimate]] = {}
        by = [*shared, "effective_n_ubatch", "prompt_tokens", "cell"]
        for key, value in estimates(equal, "ttft_s", by).items():
            groups.setdefault(key[:-1], []).append(value)
        pairs = [pair for group in groups.values() for pair in combinations(group, 2)]
        return LargerBatches(
            sorted({int(size) for size in above["effective_n_batch"]}),
            max(
                (max(a.median / b.median, b.median / a.median) - 1 for a, b in pairs), default=None
            ),
            any(a.below(b) or b.below(a) for a, b in pairs),
        )
