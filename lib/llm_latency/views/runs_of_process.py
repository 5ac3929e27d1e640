"""First and warm runs of each process, as answers and figures read them: by mode and prompt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import pandas as pd
from scipy.special import stdtrit  # scipy.stats takes half a second to import

from llm_latency.records import frame as fr
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimate

MODES = {"cold": "every prompt token evaluated every time", "kept": "prompt cache kept"}
"""Whether a warm run finds its prompt in the KV cache."""
FIGURES = ("ttft_s", "total_s", "decode_s", "generated_tokens", "evaluated_tokens")
COMPARED = ("ttft_s", "total_s", "per_decoded_s")
"""Times of which warm runs are compared with the first."""
When = Literal["first", "warm"]
WHEN: tuple[When, ...] = get_args(When)


@dataclass(frozen=True)
class Question:
    """One prompt, in tokens, and what becomes of the KV cache between runs."""

    prompt: float
    mode: str


@dataclass(frozen=True)
class OneProcess:
    """What the warm runs of one process alone would say, against the other processes.

    Attributes
    ----------
    totals
        Total latency of its warm runs, in seconds.
    half_s
        Half the width of the 95 % interval of their mean, were they independent.
    held
        How many of the other processes have their median in it.
    others
        How many other processes there are.
    """

    totals: pd.Series[float]
    half_s: float
    held: int
    others: int


class Runs:
    """The first generation of every process, and its warm ones.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``, twins included.
    """

    def __init__(self, df: pd.DataFrame) -> None:
        raw = df.copy()
        for name in ("repeat", "prompt_tokens", *FIGURES):
            values = raw[name] if name in raw else pd.Series(math.nan, index=raw.index)
            raw[name] = pd.to_numeric(values, errors="coerce").astype(float)
        # Times, so that comparisons know which is faster; speeds are their inverse.
        raw["per_token_s"] = raw["total_s"] / raw["generated_tokens"]
        decoded = raw["generated_tokens"] - 1
        raw["per_decoded_s"] = raw["decode_s"] / decoded.where(decoded > 0)
        self.rows: dict[When, pd.DataFrame] = {
            "first": raw[raw["repeat"] == 0],
            "warm": raw[raw["repeat"] >= 1],
        }
        self.rows["first"] = self._with_ratios()
        self.good = fr.ok(fr.prepare(raw))
        if "cache_mode" not in self.good:  # an empty frame has no columns
            self.good["cache_mode"] = ""
        known = self.good[self.good["repeat"].notna() & self.good["total_s"].notna()]
        both = known.groupby(["prompt_tokens", "cache_mode"])["repeat"].agg(["min", "max"])
        both = both[(both["min"] == 0) & (both["max"] >= 1)]
        found = [Question(float(prompt), str(mode)) for prompt, mode in both.index]
        self.measured = sorted(found, key=lambda q: (q.prompt, list(MODES).index(q.mode)))

    def _with_ratios(self) -> pd.DataFrame:
        """Return the first runs, with the warm runs' median of each time as a share of theirs."""
        first, warm = self.rows["first"].copy(), self.rows["warm"]
        if first.empty or warm.empty:
            return first
        for column in COMPARED:
            # A run that failed its proof counts in no estimate.
            good = warm[column].where(warm["status"] == "ok")
            median = good.groupby([warm["run_id"], warm["trial_id"]]).median()
            keys = pd.MultiIndex.from_frame(first[["run_id", "trial_id"]])
            first[f"{column}_ratio"] = median.reindex(keys).to_numpy() / first[column]
        return first

    @property
    def prompts(self) -> list[float]:
        """Lengths of the prompt, the shortest first."""
        return list(dict.fromkeys(question.prompt for question in self.measured))

    def samples(self, column: str, question: Question, when: When) -> pd.Series[float]:
        """Return one number per round: of the first run, or the median of the warm ones."""
        return samples(
            self.rows[when],
            column,
            within="median",
            prompt_tokens=question.prompt,
            cache_mode=question.mode,
        )

    def estimate(self, column: str, question: Question, when: When) -> Estimate:
        """Return the estimate over processes."""
        return estimate(self.samples(column, question, when))

    def compare(self, column: str, question: Question) -> Comparison:
        """Compare the warm runs with the first run of the same process.

        What two equal cells differ by is their ratio's noise, not that of either run: what was
        slow in a process was so for both.
        """
        first, warm = (self.samples(column, question, when) for when in ("first", "warm"))
        return compare(first, warm, noise_floor(self.rows["first"], f"{column}_ratio"))

    def gain(self, column: str, question: Question) -> pd.Series[float]:
        """Return, per round, by how much the warm runs are below the first."""
        first, warm = (self.samples(column, question, when) for when in ("first", "warm"))
        return (first - warm).dropna()

    def held(self, question: Question) -> OneProcess | None:
        """Return the warm runs of the first round's process against those of the others."""
        rows = self.good[
            (self.good["prompt_tokens"] == question.prompt)
            & (self.good["cache_mode"] == question.mode)
            & (self.good["repeat"] >= 1)
        ]
        medians = rows.groupby("process")["total_s"].median().dropna()
        chosen = rows.sort_values("round")["process"].iloc[0]
        totals: pd.Series[float] = rows.loc[rows["process"] == chosen, "total_s"].dropna()
        if len(totals) < 2 or len(medians) < 2:
            return None
        half_s = float(stdtrit(len(totals) - 1, 0.975)) * totals.std() / math.sqrt(len(totals))
        others = medians.drop(chosen)
        inside = int(((others - totals.mean()).abs() <= half_s).sum())
        return OneProcess(totals, float(half_s), inside, len(others))
