"""A page's frame: the answer, what a reader must know first, and how it was measured.

An *answer* is a verdict, a number with its interval, its cost and its caveat, in five sentences at
most; whatever else is worth computing is a column of its table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from IPython.display import Markdown

from llm_latency.machine.disturbance import OTHER_LIMIT, STEAL_LIMIT, within_quota
from llm_latency.measure.resume import next_trials
from llm_latency.measure.rounds import time_is_up, used_s
from llm_latency.records import frame as fr
from llm_latency.records.machines import Rows as Rows  # a run's stand-in, for all who make pages
from llm_latency.records.machines import Run as Run
from llm_latency.records.machines import by_machine
from llm_latency.records.store import RunStore
from llm_latency.report import conditions
from llm_latency.words import (
    MARKER,
    counts,
    duration,
    enumerate_words,
    escape,
    file_name,
    percent,
    several,
)

MOST_SENTENCES = 5


def as_run(run: Run | pd.DataFrame) -> Run:
    """Return a run, or rows in the place of one."""
    return Rows(run, {}) if isinstance(run, pd.DataFrame) else run


@dataclass(frozen=True)
class Answer:
    """The answer to a question, in five sentences at most.

    Attributes
    ----------
    line : str
        The answer in one line with its figure, for a page of many answers.
    verdict : str
        One word: a verdict of :mod:`llm_latency.stats.compare`, ``measured`` where nothing was
        compared, or ``none`` where there is no answer.
    sure : str
        What it rests on: how many rounds or processes, and the noise.
    sentences : tuple of str
        The answer with its interval first, then its cost, then its caveat.
    """

    line: str
    verdict: str
    sure: str
    sentences: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.sentences) > MOST_SENTENCES:
            raise ValueError(f"{len(self.sentences)} sentences; make the others columns")

    @property
    def text(self) -> str:
        """The sentences as Markdown."""
        return " ".join(self.sentences)

    def _repr_markdown_(self) -> str:
        return with_units(self.text)


def no_answer(data: pd.DataFrame) -> Answer | None:
    """Return the answer where nothing was measured; ``None`` where something was.

    Parameters
    ----------
    data
        Rows that count, :func:`llm_latency.records.frame.by_cell`.
    """
    if data.empty:
        sentence = "**Nothing has been measured yet.** Run the plan to get an answer."
        return Answer("nothing has been measured yet", "none", "", (sentence,))
    if not fr.ok(data).empty:
        return None
    each = fr.processes(data)
    reasons = each.loc[each["reason"] != "", "reason"]
    first = f" The most frequent reason: {escape(reasons.mode().iloc[0])}." if len(reasons) else ""
    sentence = (
        f"**No cell could be measured:** of {several(len(each), 'trial')} none ended ok "
        f"({escape(counts(each['status']))}).{first.replace('..', '.')}"
    )
    return Answer("no cell could be measured", "none", "", (sentence,))


def with_units(text: str) -> str:
    """Return text in which numbers keep their units beside them."""
    text = re.sub(r"\bn = ", "n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}", text)
    return re.sub(r"(?<=\d) (?=%|ms\b|MiB\b|tok/s)", "\N{NO-BREAK SPACE}", text)


def markdown(text: str, metadata: dict[str, Any] | None = None) -> Markdown:
    """Return text as Markdown for the page."""
    return Markdown(with_units(text), metadata=metadata)  # type: ignore[no-untyped-call]


def code(name: str) -> str:
    """Return a parameter's name as a page shows it within a sentence."""
    return name.replace("_", "&#95;")


def parameters_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that a run was asked with; none where nobody knows."""
    return dict((info.get("plan") or {}).get("parameters") or {})


def random_weights(info: Mapping[str, Any]) -> bool:
    """Return whether the model was made by the lab, and knows nothing."""
    return str((info.get("model") or {}).get("name") or "").startswith("synthetic:")


def model_name(info: Mapping[str, Any]) -> str:
    """Return the name of the model's file as a page shows it; ``the model`` if it is not known.

    Of one machine of several it says which.
    """
    name = escape(file_name(str((info.get("model") or {}).get("name") or "the model")))
    return f"{name} on {escape(info['on'])}" if info.get("on") else name


def machine_name(name: str, info: Mapping[str, Any]) -> str:
    """Return a machine's name with its processor, ``1f2e3d4c5b6a (A CPU @ 2 GHz)``."""
    cpu = (info.get("machine") or {}).get("cpu")
    return f"**{escape(name or 'not named')}**" + (f" ({escape(cpu)})" if cpu else "")


def notices(run: Any, *more: str) -> Markdown:
    """Return what a reader must know before the answer; nothing where all is well.

    Whether the run is complete, whether the model has random weights, which cells failed, what
    held the machine back, and whether it was disturbed; of several machines, of each.

    Parameters
    ----------
    run
        A stored run.
    *more
        What else is to be known of it.
    """
    why = ended_early(run)
    final = run.planned if why else run.final
    parts = by_machine(run)
    several_of_them = len(parts) > 1
    each = [
        f"On **{escape(name)}**: {warning}" if several_of_them else warning
        for name, part in parts.items()
        for warning in _warnings(part)
    ]
    told = _machines(parts) if several_of_them else ""
    return head(run.planned, final, run.info, why, told, *more, *each)


def _warnings(run: Run) -> list[str]:
    """Return what is to be known of one machine's trials."""
    data = fr.by_cell(run.frame())
    found = (failed(data), conditions.told(data, run.info), disturbed(data))
    return [warning for warning in found if warning]


def _machines(parts: Mapping[str, Rows]) -> str:
    """Say on which machines a run was measured, and of which the page tells."""
    each = [
        f"{machine_name(name, part.info)}, {several(part.rows['process'].nunique(), 'trial')}"
        for name, part in parts.items()
    ]
    first, other, *_ = parts
    return (
        f"**Measured on {len(parts)} machines**, which no estimate mixes: {'; '.join(each)}. "
        f"Answer, figures and tables below are of {escape(first)}; "
        f"`run.on({other!r})` in the place of the run gives those of another."
    )


def ended_early(run: Any) -> str:
    """Say why a run that looked after every round ended, and what that saved; empty if not."""
    if not isinstance(run, RunStore) or not run.plan.looked_at or next_trials(run.plan, run):
        return ""
    plan, records = run.plan, run.records()
    rounds = several(max(record.trial.round for record in records) + 1, "round")
    saved = run.planned - run.final
    if time_is_up(plan, run):
        took = f"{several(len(records), 'trial')} in {rounds} took {duration(used_s(records))}"
        cells = {cell.cell_id for cell in plan.cells}
        without = len(cells - {record.trial.cell_id for record in records})
        few = (
            f"; **{without:,} of {several(len(cells), 'cell')} were never measured**: give more "
            "minutes, or fewer cells"
        ) * (without > 0)
        return f"**The time is up:** {took} of {duration(60 * plan.minutes)}{few}."
    return (
        f"**Saved: {saved:,} of {run.planned:,} trials** as planned; after {rounds} no comparison "
        "was left that further ones could decide."
    ) * (saved > 0)


def head(planned: int, final: int, info: Mapping[str, Any], *more: str) -> Markdown:
    """Return the head of a page: INCOMPLETE, the model's notice, and further warnings.

    It also marks the page for the report: a kernel that dies leaves no such mark, whatever
    papermill says of its cells.
    """
    texts = []
    if final < planned:
        texts.append(
            f"**INCOMPLETE: {final:,} of {planned:,} trials** have been measured. What follows "
            f"holds for these only; run again with the same {code('run_id')} to go on."
        )
    card = info.get("model") or {}
    if random_weights(info):
        texts.append("**Random weights:** true speed and memory, meaningless text.")
    elif card.get("notice"):
        texts.append(f"**{escape(card['notice'])}**")
    plan = info.get("plan") or {}
    if left_out := plan.get("left_out"):
        texts.append(
            f"**Left out**, since llama.cpp would cut them down or refuse them: "
            f"{code(escape('; '.join(left_out)))}."
        )
    texts.append(_beyond_training(plan, card.get("n_ctx_train")))
    mark = {MARKER: {"planned": planned, "final": final}}
    return markdown("\n\n".join(filter(None, [*texts, *more])), metadata=mark)


def _beyond_training(plan: Mapping[str, Any], trained: int | None) -> str:
    """Say that a context is longer than any text that the model was trained on."""
    settings = [cell.get("settings", {}) for cell in plan.get("cells", ())]
    longest = max((one.get("n_ctx", 0) for one in settings), default=0)
    if not trained or longest <= trained:
        return ""
    return (
        f"**Longer than trained:** {code('n_ctx')} goes up to {longest:,}, and the model was "
        f"trained for {trained:,} tokens; speed and memory are true, its text beyond is not."
    )


def failed(data: pd.DataFrame) -> str:
    """Say which cells failed, how and how many; empty if none did."""
    each = fr.processes(data)
    bad = each[each["status"] != "ok"]
    if bad.empty:
        return ""
    good = set(each.loc[each["status"] == "ok", "cell"])
    lost = [cell for cell in fr.cells(data)["cell"] if cell not in good]
    total = data["cell"].nunique()
    sentences = []
    if lost:
        where = escape(fr.describe_by_status(data, bad[bad["cell"].isin(lost)]))
        sentences.append(f"**{len(lost)} of {several(total, 'cell')} failed:** {where}.")
    partly = bad[~bad["cell"].isin(lost)]
    if len(partly):
        where = escape(fr.describe_by_status(data, partly))
        sentences.append(f"**Some trials failed** in cells that otherwise ran: {where}.")
    return " ".join(sentences)


def disturbed(data: pd.DataFrame) -> str:
    """Say how many trials the machine disturbed, by what, and what to do."""
    each = data.groupby("process")
    flags = each["disturbed"].any()
    if not flags.any():
        return ""
    columns = ["cpu_other_fraction", "cpu_steal_fraction", "throttled_periods", "quota_cpus"]
    other, steal, periods, quota = each[columns].max()[flags].max()
    causes = []
    if other > OTHER_LIMIT:
        causes.append(f"other processes took up to {percent(other)} of the CPU time")
    if steal > STEAL_LIMIT:
        causes.append(f"the hypervisor took up to {percent(steal)} of it")
    if periods > 0:
        causes.append(
            f"the quota of {quota:.3g} CPUs held an answer back in up to "
            f"{several(int(periods), 'period')}"
        )
    cause = f": {enumerate_words(causes)}" if causes else ", as the notes beside the cells say"
    remedy = "Close other programs and measure again"
    if periods > 0:
        remedy = f"Give {code(within_quota(quota))}; close other programs and measure again"
    return (
        f"**Disturbed:** {flags.sum():,} of {several(len(flags), 'trial')}{cause}. "
        f"{remedy} before relying on small differences."
    )
