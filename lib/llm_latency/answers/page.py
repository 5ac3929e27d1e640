"""What a page says about itself: whether it is complete, how it was measured, where the data is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from IPython.display import Markdown

from llm_latency.stats.estimate import FEWEST, Estimate
from llm_latency.words import MARKER, decimals, escape, missing, number, several


def markdown(text: str, metadata: dict[str, Any] | None = None) -> Markdown:
    """Return text as Markdown for the page, with numbers that keep their units beside them."""
    text = re.sub(r"(?<=\d) (?=%|ms\b|MiB\b|tok/s)", "\N{NO-BREAK SPACE}", text)
    return Markdown(text, metadata=metadata)  # type: ignore[no-untyped-call]


def in_words(value: Estimate, factor: float, unit: str) -> str:
    """Return an estimate as part of a sentence: ``402 ms (95 % interval 398–410 ms, n = 6)``."""
    shown = value.times(factor)
    places = decimals(shown.median)
    middle = f"{number(shown.median)} {unit}"
    if shown.n == 1:
        return f"{middle} (one process)"
    bounds = f"{number(shown.low, places)}–{number(shown.high, places)} {unit}"
    kind = "95 % interval" if shown.kind == "interval" else "range"
    return f"{middle} ({kind} {bounds}, n = {shown.n} processes)"


def completeness(planned: int, final: int) -> Markdown:
    """Return a banner where not every planned trial has a final record; nothing otherwise.

    It also marks the page for the report: a kernel that dies leaves no such mark, whatever
    papermill says of its cells.

    Parameters
    ----------
    planned, final
        How many trials the plan holds, and how many have a final record.
    """
    text = ""
    if final < planned:
        text = (
            f"**INCOMPLETE: {final:,} of {planned:,} trials** have been measured. What follows "
            "holds for these only; run again with the same run&#95;id to go on."
        )
    return markdown(text, metadata={MARKER: {"planned": planned, "final": final}})


def model_notice(info: Mapping[str, Any]) -> Markdown:
    """Return what a reader must know of the model first; nothing for a trained one.

    Parameters
    ----------
    info
        The content of ``run.json``.
    """
    card = info.get("model") or {}
    if str(card.get("name") or "").startswith("synthetic:"):
        return markdown("**Random weights:** true speed and memory, meaningless text.")
    return markdown(f"**{escape(card['notice'])}**" if card.get("notice") else "")


def method(info: Mapping[str, Any]) -> Markdown:
    """Return how the run was measured, out of its plan.

    Parameters
    ----------
    info
        The content of ``run.json``.
    """
    plan, versions = info.get("plan") or {}, info.get("versions") or {}
    given = plan.get("parameters") or {}
    planned, rounds = list(plan.get("cells") or []), int(plan.get("rounds") or 0)
    cells = sum(1 for cell in planned if not cell.get("twin"))
    if not cells or not rounds:
        return markdown("How this run was planned is not stored with it.")
    sentences = [
        f"{several(cells, 'cell')} (settings × workload × start), each measured in "
        f"{several(rounds, 'round')}"
        + _twice(len(planned) - cells)
        + f": {len(planned) * rounds:,} trials, each in a fresh process, in an "
        f"order shuffled within each round (seed {escape(plan.get('seed', 'unknown'))})."
    ]
    sentences += _workload(planned, given)
    sentences.append(
        "In estimates a process counts once, with the median of its generations. "
        + (
            "Estimates are medians over processes with their distribution-free 95 % interval."
            if rounds >= FEWEST
            else f"With {several(rounds, 'process', 'processes')} per cell there is no 95 % "
            "interval: the range from smallest to largest is shown."
        )
    )
    engine = versions.get("llama_cpp_python") or (info.get("engine") or {}).get("version")
    sentences.append(f"Engine: llama-cpp-python {escape(engine or 'of unknown version')}.")
    return markdown(" ".join(sentences))


def _twice(twins: int) -> str:
    """Say how many cells were measured twice."""
    if not twins:
        return ""
    which = "one of them" if twins == 1 else f"{twins} of them"
    return f", {which} twice to show the noise"


def _workload(planned: list[dict[str, Any]], given: Mapping[str, Any]) -> list[str]:
    """Say what each process does, as far as it is the same in all."""
    work = [cell.get("workload") or {} for cell in planned]
    repeats = {w.get("repeats") for w in work} if any(work) else {given.get("repeats")}
    sentences = []
    if len(repeats) == 1 and not missing(count := repeats.pop()):
        more = f" and then {escape(count)} more" if count else ""
        sentences.append(f"A process loads the model and generates once{more}.")
    modes = {w.get("cache_mode") for w in work}
    if modes == {"cold"}:
        sentences.append("Every generation begins with an empty prompt cache.")
    return sentences


def data(path: Path, run_id: str = "") -> Markdown:
    """Return where the run's data lies, and how to read it again.

    Parameters
    ----------
    path
        The run's folder.
    run_id
        Its name; by default that of the folder.
    """
    name = escape(run_id or Path(path).name)
    return markdown(
        f"Every figure and sentence above is computed from the records in **{escape(path)}**. "
        f"`lab.load_runs` reads them again, given that folder or the run&#95;id {name}."
    )
