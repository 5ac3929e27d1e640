"""From what was measured to the settings to set: which candidate meets the needs, and how surely.

Of the candidates that meet all needs the answers are compared with the soonest one's, round by
round; of those that cannot be told from the soonest, the one that takes least memory is advised.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd

from llm_latency.engine.dry_run import NotForetoldError
from llm_latency.errors import ParameterError
from llm_latency.memory.dry_run import Foretell, stored
from llm_latency.memory.fits import largest, side
from llm_latency.model.header import Header
from llm_latency.plan.parameters import as_list
from llm_latency.plan.settings import Settings, padded
from llm_latency.questions.advise.candidates import VARIED, Candidate, candidates
from llm_latency.questions.advise.needs import Needs, needs_of
from llm_latency.questions.advise.options import Option, answer_s, fills, option
from llm_latency.questions.advise.threads import Threads, best, measured, timed
from llm_latency.questions.kv_types import losses
from llm_latency.records import frame as fr
from llm_latency.records.machines import on_one
from llm_latency.report.page import Run
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import FEWEST

Confidence = Literal["high", "fair", "low"]


@dataclass(frozen=True)
class Advice:
    """What to set, and everything that it rests on.

    Attributes
    ----------
    options : list of Option
        Every candidate, in each way of asking: those that meet all needs first, the soonest first.
    chosen : Option or None
        Asked in the first way; ``None`` where none meets the needs in all ways.
    tried : list of Threads
        Choices of threads and cores that were measured with it, the usual one first.
    """

    needs: Needs
    header: Header | None
    options: list[Option]
    chosen: Option | None
    foretell: Foretell | None = None
    tried: list[Threads] = field(default_factory=list)

    @property
    def threads(self) -> Threads | None:
        """The choice of threads and cores to set; ``None`` where they were not varied."""
        return best(self.tried, self.needs)

    @property
    def ways(self) -> list[Option]:
        """Return what is advised, in each way of asking, the first way first."""
        return [one for one in self.options if self.advises(one)]

    def advises(self, one: Option) -> bool:
        """Whether a candidate, in whatever way it was asked, is the one to set."""
        return self.chosen is not None and one.settings == self.chosen.settings

    @property
    def need_bytes(self) -> float | None:
        """What the advised takes, in the way that takes most."""
        return max((one.need_bytes for one in self.ways if one.need_bytes), default=None)

    @property
    def margin_bytes(self) -> float | None:
        """What is left of the memory that may be taken."""
        return None if self.need_bytes is None else self.needs.limit_bytes - self.need_bytes

    @property
    def edge_n_ctx(self) -> int | None:
        """Largest context that the margin still has room for, by the predicted growth.

        No larger than the model was trained for, and ``None`` where no growth is foretold.
        """
        margin, foretell = self.margin_bytes, self.foretell
        if self.chosen is None or margin is None or self.header is None or foretell is None:
            return None
        settings, on = self.chosen.settings, self.needs.on
        most = max(padded(self.header.n_ctx_train or 0), padded(settings.n_ctx))

        def taken(n_ctx: int) -> int:
            return side(foretell(settings.model_copy(update={"n_ctx": n_ctx})), on).total_bytes

        try:
            now = taken(settings.n_ctx)
            return largest(lambda n_ctx: taken(n_ctx) - now <= margin, most)
        except NotForetoldError:
            return None

    @property
    def rejected(self) -> list[Option]:
        """Return the other candidates, the nearest to being chosen first."""
        return [one for one in self.options if one is not self.chosen]

    @property
    def confidence(self) -> Confidence:
        """How far the choice can be relied on; :meth:`weak_points` says what it lacks."""
        weak = self.weak_points()
        serious = {"few", "doubt", "not filled"} & set(weak)
        return "low" if serious else "fair" if weak else "high"

    def weak_points(self) -> list[str]:
        """Return what speaks against relying on the choice.

        ``few`` processes, ``doubt`` whether a bound is met, the window ``not filled``, an
        ``open`` order among those that meet the needs, trials that were ``disturbed``.
        """
        if self.chosen is None:
            return []
        one = self.chosen
        rivals = [o for o in self.options if o.meets and o is not one and o.against is not None]
        undecided = [o for o in rivals if o.against and o.against.verdict == "undecided"]
        found = {
            "few": any(way.answer.n < FEWEST for way in self.ways),
            "doubt": any(way.doubts for way in self.ways),
            "not filled": any(way.full != "ok" for way in self.ways),
            "open": bool(undecided),
            "disturbed": any(way.disturbed for way in self.ways),
        }
        return [name for name, true in found.items() if true]


class View:
    """A run of advice, judged once.

    Attributes
    ----------
    info : dict
        The content of ``run.json``.
    rows, data : pandas.DataFrame
        All rows, and those of the candidates' own trials that count.
    advice : Advice
        What they support.
    """

    def __init__(self, run: Run) -> None:
        run = on_one(run)
        self.info, self.rows = run.info, run.frame()
        self.advice = judge(self.rows, self.info)
        self.data = fr.by_cell(timed(self.rows, self.advice.needs))


def deciding(view: View) -> list[Comparison]:
    """Return the comparisons on which the answer rests."""
    return [one.against for one in view.advice.options if one.against is not None]


def judge(df: pd.DataFrame, info: Mapping[str, Any]) -> Advice:
    """Return the advice that a run supports.

    Parameters
    ----------
    df
        Rows of a run of ``advise``, ``run.frame()``.
    info
        The content of ``run.json``.

    Raises
    ------
    ParameterError
        If there is no such content.
    """
    if "plan" not in info:
        raise ParameterError("rows alone do not tell the needs; give the run, not its rows.")
    given = info["plan"]["parameters"]
    needs = needs_of(given)
    header = Header.model_validate(info["header"]) if info.get("header") else None
    planned = [Settings.model_validate(c["settings"]) for c in info["plan"]["cells"]]
    foretell = stored({}, header, needs.on) if header else None
    known = _candidates(header, planned, given, needs, foretell)
    filled = fills(df, needs)
    rows, later = timed(df, needs), timed(df, needs, varied=True)
    lost = losses(fr.ok(fr.counted(df)))
    ways = as_list("via", given.get("via", "engine"))
    each = [option(one, known, rows, filled, needs, ways, lost) for one in known]
    every = [one for options in each for one in options]
    good = [options[0] for options in each if all(one.meets for one in options)]
    if not good:
        return Advice(needs, header, sorted(every, key=lambda one: _distance(one, needs)), None)
    good = _compared(good, rows, needs)
    level = [one for one in good if not one.told_apart]
    chosen = min(level, key=lambda o: (round((o.need_bytes or 0) / 2**20), o.answer.median))
    good.sort(key=lambda one: (one is not chosen, one.told_apart, one.answer.median))
    named = {one.name for one in good}
    rest = [one for one in every if one.name not in named]
    rest.sort(key=lambda one: (one.settings != chosen.settings, *_distance(one, needs)))
    tried = measured(later, chosen.settings, chosen.via, given.get("threads_tried", []), needs)
    return Advice(needs, header, [*good, *rest], chosen, foretell, tried)


def _candidates(
    header: Header | None,
    planned: list[Settings],
    given: Mapping[str, Any],
    needs: Needs,
    foretell: Foretell | None,
) -> list[Candidate]:
    """Return what was planned, and what the prediction kept from being planned."""
    if kept := given.get("candidates"):
        every = [
            Candidate(Settings.model_validate(one["settings"]), one["predicted_bytes"])
            for one in kept
        ]
    elif header is not None and foretell is not None:  # of a run that did not keep them
        every = candidates(header, planned[0], needs, given, foretell)
    else:
        every = [Candidate(one, 0) for one in planned]
    return list({one.settings: one for one in every}.values())


def _compared(good: list[Option], trials: pd.DataFrame, needs: Needs) -> list[Option]:
    """Compare each with the soonest, round by round."""
    frame = trials.assign(answer_s=answer_s(trials, needs))
    soonest = min(good, key=lambda one: one.answer.median)
    floor = noise_floor(frame, "answer_s")

    def times(one: Option) -> pd.Series[float]:
        varied = {name: getattr(one.settings, name) for name in VARIED}
        return samples(frame, "answer_s", **varied, via=one.via)

    base = times(soonest)
    return [
        one if one is soonest else replace(one, against=compare(base, times(one), floor))
        for one in good
    ]


def _distance(one: Option, needs: Needs) -> tuple[bool, int, float]:
    """Order candidates that fail: measured ones first, fewer needs broken, by less."""
    taken = one.need_bytes or one.predicted_bytes
    over = {
        "memory": taken / needs.limit_bytes,
        "ttft_s": one.ttft.median / (needs.ttft_s or 1.0),
        "load_s": one.load.median / (needs.load_s or 1.0),
        "quality": one.loss.median / max(1 - (needs.quality or 0.0), 1e-9),
    }
    worst = max((over.get(breach.need, math.inf) for breach in one.breaches), default=0.0)
    return one.measured != "ok", len(one.breaches), worst
