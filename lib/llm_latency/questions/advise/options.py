"""One candidate, as far as it was measured: its times, what it takes, and the needs it breaks.

A candidate meets a bound in seconds if the median of its processes does; *surely* if the whole
interval does. It fits if what its process really took, or what llama.cpp allocated if that is
more, is within the memory that may be taken, and if a prompt that fills its whole window was
answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import pandas as pd

from llm_latency.plan.settings import Settings
from llm_latency.plan.workload import Via
from llm_latency.questions.advise.candidates import VARIED, Candidate
from llm_latency.questions.advise.needs import Needs
from llm_latency.questions.kv_types import NO_LOSS, Loss, Pair
from llm_latency.records import frame as fr
from llm_latency.stats.compare import SMALLEST_EFFECT, Comparison
from llm_latency.stats.estimate import Estimate, estimate, per_process

FILL_TOKENS = 4
"""Tokens that are generated behind a prompt that fills the window."""
FILLED_BY: dict[str, Via] = {"chat": "stream"}
"""Ways of asking whose prompts are no exact number of tokens: which one fills the window then."""

Need = Literal["memory", "ttft_s", "load_s", "quality", "runs", "full"]


class Breach(NamedTuple):
    """A need that is not met; not ``sure`` where the interval reaches into what is allowed."""

    need: Need
    sure: bool


@dataclass(frozen=True)
class Option:
    """One candidate, as far as it was measured.

    Attributes
    ----------
    name : str
        What it differs in, in words.
    via : str
        The way in which it was asked.
    measured : str
        ``ok``; else how its processes ended; empty where the prediction alone spoke against it.
    ttft, load, answer : Estimate
        In seconds; ``answer`` is what a user waits for: to the last token, with loading where
        each answer waits for it.
    need_bytes : float or None
        What it takes, where that was measured.
    loss : Estimate
        Share of tokens after which another one becomes most likely than with an f16 KV cache,
        where it has a smaller one.
    full : str
        How the process ended that filled its whole window; empty where none did.
    breaches : tuple of Breach
        Needs that are not met.
    doubts : tuple of str
        Bounds that the median meets and the interval does not.
    against : Comparison or None
        Its answer against that of the soonest candidate.
    """

    name: str
    via: str
    settings: Settings
    predicted_bytes: int
    measured: str
    reason: str
    ttft: Estimate
    load: Estimate
    answer: Estimate
    need_bytes: float | None
    full: str
    full_reason: str
    loss: Estimate = NO_LOSS.other_token
    disturbed: int = 0
    breaches: tuple[Breach, ...] = ()
    doubts: tuple[Need, ...] = ()
    against: Comparison | None = None

    @property
    def meets(self) -> bool:
        """Whether no need is broken."""
        return not self.breaches

    @property
    def told_apart(self) -> bool:
        """Whether its answer comes later than the soonest one's, as far as rounds tell."""
        found = self.against
        if found is None or found.verdict in ("same", "faster"):
            return False
        blur = max(found.noise_floor or 0.0, SMALLEST_EFFECT)
        return found.verdict == "slower" or not found.ratio.median <= 1 + blur


def rows_of(df: pd.DataFrame, settings: Settings, via: str) -> pd.DataFrame:
    """Return the rows of one candidate, asked in one way."""
    keep = df["via"] == via
    for name in VARIED:
        keep &= df[name] == getattr(settings, name)
    return df[keep]


def fills(df: pd.DataFrame, needs: Needs) -> pd.DataFrame:
    """Return the rows of processes that filled their whole window, in the memory that counts."""
    whole = ~df["superseded"] & (df["prompt_tokens"] + df["max_tokens"] >= df["n_ctx"])
    whole &= df["quality_against"].isna()
    if needs.capped and needs.on == "cpu":
        whole &= df["memory_limit_bytes"].notna()
    elif needs.capped:
        whole &= df["leave_vram_bytes"].notna() | (df["n_gpu_layers"] == 0)
    return df[whole]


def option(
    one: Candidate,
    every: list[Candidate],
    trials: pd.DataFrame,
    filled: pd.DataFrame,
    needs: Needs,
    ways: Sequence[str],
    losses: Mapping[Pair, Loss],
) -> list[Option]:
    """Return one candidate with all that was measured of it, in each way of asking.

    Parameters
    ----------
    one
        The candidate.
    every
        All of them: its name tells what it differs in.
    trials, filled
        Rows of the candidates' own trials, and of those that filled a window.
    needs
        What it is judged by.
    ways
        The ways of asking.
    losses
        By the formats of K and V: what they lose.
    """
    name = _name(one.settings, [other.settings for other in every])
    lost = losses.get((one.settings.type_k, one.settings.type_v), NO_LOSS).other_token
    made = []
    for via in ways:
        mine = rows_of(trials, one.settings, via)
        full = rows_of(filled, one.settings, FILLED_BY.get(via, via))
        told = f"{name}, {via}" if len(ways) > 1 else name
        found = replace(_measured(one, told, via, mine, full, needs), loss=lost)
        made.append(_judged(found, needs))
    return made


def _measured(
    one: Candidate, name: str, via: str, mine: pd.DataFrame, full: pd.DataFrame, needs: Needs
) -> Option:
    """Return what rows tell of a candidate: those of its own trials, and of its full window."""
    mine = mine.assign(answer_s=answer_s(mine, needs))
    good = fr.ok(fr.counted(mine))
    # A process whose proof failed says nothing against its settings; one that died does.
    harmless = ["ok"] if good.empty else ["ok", "invalid"]
    failed, ended = mine[~mine["status"].isin(harmless)], full[full["status"] != "ok"]
    reasons = failed.loc[failed["reason"] != "", "reason"]

    def over(name: str) -> Estimate:
        return estimate(per_process(mine, name)[name])

    return Option(
        name=name,
        via=via,
        settings=one.settings,
        predicted_bytes=one.predicted_bytes,
        measured=failed["status"].mode().iloc[0] if len(failed) else "ok" if len(good) else "",
        reason=reasons.iloc[0] if len(reasons) else "",
        ttft=over("ttft_s"),
        load=over("load_s"),
        answer=over("answer_s"),
        need_bytes=_taken(good, full, needs),
        full=ended["status"].iloc[0] if len(ended) else "ok" if len(full) else "",
        full_reason=ended["reason"].iloc[0] if len(ended) else "",
        disturbed=int(fr.counted(mine).groupby("trial_id")["disturbed"].any().sum()),
    )


def _taken(good: pd.DataFrame, full: pd.DataFrame, needs: Needs) -> float | None:
    """Return what the processes took at most, or were given by llama.cpp if that is more."""
    if good.empty:
        return None
    every = pd.concat([good, fr.ok(full)])
    seen = every[fr.memory_choice(every)[0]].max()
    allocated = good[list(fr.PARTS.values())].sum(axis=1).max() if not needs.of_gpu else 0.0
    most = pd.Series([seen, allocated]).max()
    return float(most) if most > 0 else None


def answer_s(rows: pd.DataFrame, needs: Needs) -> pd.Series[float]:
    """Return how long a user waits for the last token of each row."""
    return rows["total_s"] + rows["load_s"] if needs.waits_for_load else rows["total_s"]


def _judged(one: Option, needs: Needs) -> Option:
    breaches: list[Breach] = []
    doubts: list[Need] = []
    if not one.measured:
        breaches.append(Breach("memory", one.predicted_bytes > needs.limit_bytes))
    elif one.measured != "ok":
        breaches.append(Breach("runs", True))
    bounds: list[tuple[Need, Estimate, float | None]] = [
        ("ttft_s", one.ttft, needs.ttft_s),
        ("load_s", one.load, needs.load_s),
    ]
    for name, value, bound in bounds:
        if bound is None or not value.n:
            continue
        if value.median > bound:
            breaches.append(Breach(name, value.low > bound))
        elif value.high > bound:
            doubts.append(name)
    if needs.quality is not None and {one.settings.type_k, one.settings.type_v} != {"f16"}:
        most = 1 - needs.quality
        # What is lost must be known, and surely little enough: no saving is worth a guess.
        if one.loss.kind != "interval" or one.loss.high > most:
            breaches.append(Breach("quality", one.loss.low > most))
    if one.need_bytes is not None and one.need_bytes > needs.limit_bytes:
        breaches.append(Breach("memory", True))
    elif one.full not in ("", "ok", "invalid"):
        breaches.append(Breach("full", True))
    return replace(one, breaches=tuple(breaches), doubts=tuple(doubts))


def _name(settings: Settings, every: list[Settings]) -> str:
    """Return what singles a candidate out, in words."""
    names = [n for n in VARIED if len({getattr(s, n) for s in every}) > 1 and n != "n_batch"]
    return ", ".join(f"{n} {getattr(settings, n)}" for n in names or ["n_ubatch"])


def settings_in_use(df: pd.DataFrame, one: Option) -> dict[str, Any]:
    """Return the settings of a candidate as they were in force, llama-cpp-python's names."""
    rows = rows_of(df[df["status"] == "ok"], one.settings, one.via)
    threads = {
        name: int(rows[f"effective_{name}"].dropna().iloc[0])
        for name in ("n_threads", "n_threads_batch")
        if rows[f"effective_{name}"].notna().any()
    }
    asked = one.settings.model_dump() | threads
    # What llama.cpp chose for "auto" is told where it said so.
    chosen = rows["effective_flash_attn"].dropna()
    return asked | {"flash_attn": bool(chosen.iloc[0])} if len(chosen) else asked
