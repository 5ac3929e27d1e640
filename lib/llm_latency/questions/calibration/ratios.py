"""The lab's speed over llama-bench's: a ratio per pair of processes, and where the rest goes.

The process is the sample: each is reduced to its quickest run, since what else happens on a
machine only adds time (see :mod:`llm_latency.stats.compare`), and each pair to one ratio. What
disturbs the machine for longer than a pair falls on both sides of a ratio.
"""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from llm_latency.questions.calibration.folder import CalibrationRun
from llm_latency.stats.estimate import Estimate, estimate
from llm_latency.words import several

PREFILL, USER, ENGINE = "prefill", "decode, with sampling", "decode, evaluation alone"
MEASURES = {"pp": {PREFILL: "lab"}, "tg": {USER: "lab", ENGINE: "engine"}}
"""What is compared in each kind of test, and the column of a pair for it."""


class Ratio(NamedTuple):
    """The lab beside llama-bench in one measure of one test.

    Attributes
    ----------
    beyond : Estimate
        How much greater the lab's speed is, as a share of llama-bench's, over the pairs.
    lab_tps, llama_bench_tps : float
        Medians of the speeds.
    failed, disturbed : int
        Pairs in which a process failed, or that something else on the machine disturbed.
    """

    n_threads: int
    test: str
    n_depth: int
    measure: str
    beyond: Estimate
    lab_tps: float
    llama_bench_tps: float
    failed: int
    disturbed: int

    @property
    def words(self) -> str:
        """What is compared: ``prefill 128, 1 thread``."""
        length = f" {self.test[2:]}" if self.measure == PREFILL else ""
        deep = f" at {self.n_depth:,}" * bool(self.n_depth)
        return f"{self.measure}{length}{deep}, {several(self.n_threads, 'thread')}"


class View:
    """The pairs of a calibration, reduced.

    Attributes
    ----------
    pairs : pandas.DataFrame
        A row per pair: ``n_threads, test, pair``; seconds per token: ``lab``, ``engine``,
        ``sampling`` and ``llama_bench`` (NaN where a process failed); ``failed``, ``disturbed``.
    ratios : list of Ratio
        By threads, then prefill by its length, then decode.
    parts : dict
        By number of threads: where a decoded token's time goes, in seconds. From
        ``llama-bench``'s to the ``lab``'s: ``evaluation`` is llama.cpp's own count in the lab
        less llama-bench's time, ``sampling`` one choice over the whole vocabulary as the probe
        clocked it, ``binding`` what is left (Python, ctypes, the time stamps). Each is the
        median over pairs of what was measured in that pair, so the parts add up only nearly.
    """

    def __init__(self, run: CalibrationRun) -> None:
        self.info = run.info
        self.pairs = _pairs(run.samples())
        self.ratios = [
            _ratio(part, measure, column)
            for _, part in self.pairs.groupby(["n_threads", "kind", "tokens", "n_depth"])
            for measure, column in MEASURES[part["kind"].iloc[0]].items()
        ]
        # Where the context is empty: there alone sampling is clocked by itself.
        decode = self.pairs[(self.pairs["kind"] == "tg") & (self.pairs["n_depth"] == 0)]
        self.parts = {
            int(part["n_threads"].iloc[0]): _parts(part) for _, part in decode.groupby("n_threads")
        }

    @property
    def compared(self) -> list[Ratio]:
        """The ratios that any pair has."""
        return [ratio for ratio in self.ratios if ratio.beyond.n]


def _pairs(samples: pd.DataFrame) -> pd.DataFrame:
    """Return one row per pair: the quickest sample of its two processes, per token."""
    good = samples[samples["status"] == "ok"]
    lab, other = (
        good[good["tool"] == tool].groupby("pair_id")[["seconds", "engine_s"]].min()
        for tool in ("lab", "llama-bench")
    )
    rows = samples.assign(
        failed=samples["status"] != "ok",
        disturbed=samples["disturbed"] != "",
        kind=samples["test"].str[:2],
    ).groupby("pair_id", sort=False)
    made = rows[["n_threads", "test", "kind", "tokens", "n_depth", "pair"]].first()
    made["lab"], made["engine"] = (lab[c] / made["tokens"] for c in ("seconds", "engine_s"))
    made["llama_bench"] = other["seconds"] / made["tokens"]
    made["sampling"] = rows["sampling_s"].median()  # of one token already
    made[["failed", "disturbed"]] = rows[["failed", "disturbed"]].any()
    return made.reset_index()


def _ratio(pairs: pd.DataFrame, measure: str, column: str) -> Ratio:
    return Ratio(
        n_threads=int(pairs["n_threads"].iloc[0]),
        test=pairs["test"].iloc[0],
        n_depth=int(pairs["n_depth"].iloc[0]),
        measure=measure,
        beyond=estimate(pairs["llama_bench"] / pairs[column] - 1),
        lab_tps=1 / pairs[column].median(),
        llama_bench_tps=1 / pairs["llama_bench"].median(),
        failed=int(pairs["failed"].sum()),
        disturbed=int(pairs["disturbed"].sum()),
    )


def _parts(pairs: pd.DataFrame) -> dict[str, Estimate]:
    seconds = {
        "llama-bench": pairs["llama_bench"],
        "evaluation": pairs["engine"] - pairs["llama_bench"],
        "sampling": pairs["sampling"],
        "binding": pairs["lab"] - pairs["engine"] - pairs["sampling"],
        "lab": pairs["lab"],
    }
    return {name: estimate(values) for name, values in seconds.items()}
