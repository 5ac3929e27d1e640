"""The second stage: threads and cores, varied on the candidate that is advised without.

Which candidate is best hardly depends on the threads, so they are not one more axis of the grid:
the few choices that may do better here are measured in rounds of their own with that candidate as
it was, and once more as its twin. Fewer threads may be as quick, since decode waits for memory;
hardware threads beyond the cores seldom help; and some machines are steadier when pinned.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import pandas as pd

from llm_latency.errors import ParameterError
from llm_latency.machine import affinity, limits
from llm_latency.plan import cores
from llm_latency.plan.builder import OPTIONS
from llm_latency.plan.parameters import plain
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import CoreKind, Plan, Trial
from llm_latency.questions.advise.needs import Needs
from llm_latency.questions.advise.options import FILL_TOKENS, answer_s, rows_of
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimate, per_process

FROM_ROUND = 10_000
"""Number of the stage's first round: candidates have fewer rounds."""
USUAL: dict[str, Any] = {"n_threads": None, "cores": None}
"""The threads and cores that the candidates were measured with."""


@dataclass(frozen=True)
class Threads:
    """One choice of threads and cores, as far as it was measured with the candidate.

    Attributes
    ----------
    n_threads : int or None
        Threads in force; ``None`` where nothing was measured.
    cores : str
        The choice of cores: ``any``, ``physical`` or ``performance``.
    cpus : str
        The CPUs that it was pinned to, as Linux lists them; empty: to none.
    ttft, load, answer : Estimate
        In seconds, as of a candidate.
    against : Comparison or None
        Its answer against that of the usual choice; ``None`` of the usual one.
    asked : dict
        ``n_threads`` and ``cores`` as they were asked for.
    """

    n_threads: int | None
    cores: str
    cpus: str
    ttft: Estimate
    load: Estimate
    answer: Estimate
    against: Comparison | None
    asked: Mapping[str, Any]

    @property
    def to_set(self) -> dict[str, Any]:
        """What to set: the threads, and the cores where it was pinned."""
        return {"n_threads": self.n_threads} | (
            {"cores": self.cores} if self.asked["cores"] else {}
        )

    def may(self, needs: Needs) -> bool:
        """Whether the bounds are met."""
        bounds = (self.ttft, needs.ttft_s), (self.load, needs.load_s)
        return all(most is None or value.median <= most for value, most in bounds)


def worth_trying(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the choices that may do better than the usual one here, the likeliest first.

    None where the user chose threads or cores, or where there is one CPU to keep busy.
    """
    usable = limits.usable_cpus()
    chosen = any(plain(given[name]) != OPTIONS[name] for name in USUAL)
    if chosen or usable == 1:
        return []
    allowed = limits.allowed_cpus()
    counts = [usable // 2, usable - 1]
    if limits.quota_cpus() is None:  # beyond a quota all threads are held back
        counts.append(len(allowed))
    different: dict[tuple[int, ...], str] = {}
    for kind in get_args(CoreKind):
        with contextlib.suppress(ParameterError):  # this system does not tell them
            different.setdefault(affinity.chosen(kind) or allowed, kind)
    different.pop(allowed, None)
    return [
        *(USUAL | {"n_threads": n} for n in dict.fromkeys(counts) if n != usable),
        *(USUAL | {"cores": kind} for kind in different.values()),
    ]


def with_threads(cell: Trial, asked: Mapping[str, Any]) -> Trial:
    """Return a candidate with a choice of threads and cores."""
    return cell.model_copy(
        update={
            "twin": False,
            "settings": cell.settings.model_copy(update={"n_threads": asked["n_threads"]}),
            "start": cell.start.model_copy(update={"cores": asked["cores"]}),
        }
    )


def trials(plan: Plan, cell: Trial, tried: list[dict[str, Any]]) -> list[Trial]:
    """Return the stage's trials with one candidate, each round shuffled."""
    settings = cell.settings
    if (
        settings.n_gpu_layers == -1
        and settings.n_cpu_moe is None
        and plan.parameters["on"] == "gpu"
    ):
        tried = tried[:1]  # threads only prepare the device's work
    if not tried:
        return []
    cells = [with_threads(cell, asked) for asked in (USUAL, *tried)]
    cells.append(cells[0].model_copy(update={"twin": True}))
    planned: list[Trial] = []
    for number in range(FROM_ROUND, FROM_ROUND + plan.rounds):
        random.Random(f"{plan.seed}/{number}").shuffle(cells)
        planned += [
            one.model_copy(update={"round": number, "order": at}) for at, one in enumerate(cells)
        ]
    return planned


def timed(df: pd.DataFrame, needs: Needs, *, varied: bool = False) -> pd.DataFrame:
    """Return the rows of the candidates' own trials, or of the stage that varies their threads.

    Those that filled a window are among neither.
    """
    # What is asked is told by what is not: an own prompt's length is unknown where it was not
    # answered, and a chat's is that of its template too.
    filling = df["n_ctx"] - FILL_TOKENS
    full = (df["prompt_tokens"] == filling) & (df["max_tokens"] == FILL_TOKENS)
    asked = (df["max_tokens"] == needs.max_tokens) & (~full | (needs.prompt_tokens == filling))
    asked &= (df["round"] >= FROM_ROUND) == varied
    asked &= df["quality_against"].isna()
    return df[asked & df["memory_limit_bytes"].isna() & df["leave_vram_bytes"].isna()]


def measured(
    rows: pd.DataFrame, settings: Settings, via: str, tried: list[dict[str, Any]], needs: Needs
) -> list[Threads]:
    """Return what the stage's rows tell of each choice, the usual first; none: it was not begun."""
    mine = rows_of(rows, settings, via)
    mine = mine.assign(answer_s=answer_s(mine, needs))
    found = [_threads(mine, asked) for asked in (USUAL, *tried)]
    return [one for one in found if one.answer.n] if found[0].answer.n else []


def _threads(rows: pd.DataFrame, asked: Mapping[str, Any]) -> Threads:
    where = in_rows(asked)
    own = rows[_chosen(rows, where) & (rows["status"] == "ok")]

    def over(name: str) -> Estimate:
        return estimate(per_process(own, name)[name])

    against = None
    if asked != USUAL:
        a, b = (samples(rows, "answer_s", **cell) for cell in (in_rows(USUAL), where))
        against = compare(a, b, noise_floor(rows, "answer_s"))
    told = own["effective_n_threads"].dropna()
    return Threads(
        n_threads=int(told.iloc[0]) if len(told) else None,
        cores=where["cores"],
        cpus=next(iter(own["effective_cores"].dropna()), "") if asked["cores"] else "",
        ttft=over("ttft_s"),
        load=over("load_s"),
        answer=over("answer_s"),
        against=against,
        asked=dict(asked),
    )


def in_rows(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return a choice as the columns of a frame hold it."""
    return {"n_threads": asked["n_threads"], "cores": cores.in_words(asked["cores"])}


def _chosen(rows: pd.DataFrame, where: Mapping[str, Any]) -> pd.Series[bool]:
    count = rows["n_threads"]
    same = count.isna() if where["n_threads"] is None else count.eq(where["n_threads"])
    return same & rows["cores"].eq(where["cores"])


def best(found: list[Threads], needs: Needs) -> Threads | None:
    """Return the choice to advise; ``None``: nothing was measured.

    The soonest of those that are faster than the usual one; else the fewest threads that are the
    same, which leaves CPUs to others; else the usual one.
    """
    if not found:
        return None
    usual, *others = found
    good = [one for one in others if one.against and one.may(needs)]
    if faster := [one for one in good if one.against and one.against.verdict == "faster"]:
        return min(faster, key=lambda one: one.answer.median)
    same = [one for one in good if one.against and one.against.verdict == "same"]
    fewer = [one for one in same if (one.n_threads or 0) < (usual.n_threads or 0)]
    return min(fewer, key=lambda one: one.n_threads or 0, default=usual)
