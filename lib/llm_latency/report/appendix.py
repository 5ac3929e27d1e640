"""What stands at the end of every page: settings not in force, failures, method, machine, data."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from IPython.display import Markdown, display

from llm_latency.records.machines import by_machine
from llm_latency.report import cards, tables
from llm_latency.report.conditions import threads_in_force
from llm_latency.report.page import code, markdown
from llm_latency.report.phrases import INTERVAL
from llm_latency.report.show import show
from llm_latency.stats.estimate import FEWEST
from llm_latency.words import duration, escape, missing, several


def appendix(run: Any, method: Markdown | None = None, data: Markdown | None = None) -> None:
    """Show how a run was measured, on what, and where its data lies.

    Settings that are not in force as asked, and trials that did not end well, only where there
    are such.

    Parameters
    ----------
    run
        A stored run.
    method, data
        How it was measured and where it lies, of a run that is more than its trials.
    """
    frame, info, parts = run.frame(), run.info, by_machine(run)
    for head, made in (
        ("Settings that are not in force as asked", tables.settings_in_force),
        ("Trials that did not end well", tables.failures),
    ):
        if len(table := tables.of_each(parts, made)):
            _show(f"## {head}", show(table))
    _show(
        "## Method",
        method or how_measured(info, threads_in_force(frame, info)),
        show(cards.parameters(info)),
    )
    machines = [show(cards.machine(part.info)) for part in parts.values()]
    _show("## Machine and model", *machines, show(cards.model(info)))
    if info.get("engines"):
        _show("## Engines", show(cards.engines(info)))
    _show("## Data", data or where_it_lies(run.path))


def _show(*pieces: Any) -> None:
    head, *others = pieces
    display(markdown(head), *others)  # type: ignore[no-untyped-call]


def how_measured(info: Mapping[str, Any], threads: str = "") -> Markdown:
    """Return how the run was measured, out of its plan.

    Parameters
    ----------
    info
        The content of ``run.json``.
    threads
        A sentence on the threads in force, :func:`~llm_latency.report.conditions.threads_in_force`.
    """
    plan, versions = info.get("plan") or {}, info.get("versions") or {}
    planned, rounds = list(plan.get("cells") or []), int(plan.get("rounds") or 0)
    cells = sum(1 for cell in planned if not cell.get("twin"))
    if not cells or not rounds:
        return markdown("How this run was planned is not stored with it.")
    minutes, stops = plan.get("minutes") or 0, bool(plan.get("stop_when_decided"))
    counted = f"{'up to ' * stops}{several(rounds, 'round')}"
    # What a cache loses is told by one process: blocks of its tokens are the sample.
    once = sum(bool((cell.get("workload") or {}).get("quality_against")) for cell in planned)
    of_all = len(planned) * rounds - once * (rounds - 1)
    trials = f": {'at most ' * stops}{of_all:,} trials"
    if minutes:
        counted, trials = f"as many rounds as {duration(60 * minutes)} hold", ": trials"
    sentences = [
        f"{several(cells, 'cell')} (settings × workload × start), each measured in {counted}"
        + _twice(len(planned) - cells)
        + f", {once} that show a loss once" * bool(once)
        + f"{trials}, each in a fresh process, in an "
        f"order shuffled within each round (seed {escape(plan.get('seed', 'unknown'))})."
    ]
    if minutes or stops:
        sentences.append(
            "After every round one looked whether to end, and intervals of comparisons are wider "
            "for it, so that all looks together are wrong in one run of twenty at most."
        )
    sentences += _workload(planned, plan.get("parameters") or {})
    sentences.append(
        "In estimates a process counts once, with the median of its generations. "
        + (
            f"Estimates are medians over processes with their distribution-free {INTERVAL}."
            if rounds >= FEWEST or minutes
            else f"With {several(rounds, 'process', 'processes')} per cell there is no {INTERVAL}: "
            "the range from smallest to largest is shown."
        )
    )
    engine = versions.get("llama_cpp_python") or (info.get("engine") or {}).get("version")
    sentences.append(f"Engine: llama-cpp-python {escape(engine or 'of unknown version')}.")
    return markdown(" ".join(filter(None, [*sentences, threads])))


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
    if {w.get("cache_mode") for w in work} == {"cold"}:
        sentences.append("Every generation begins with an empty prompt cache.")
    return sentences


def where_it_lies(path: Path, run_id: str = "") -> Markdown:
    """Return where the run's data lies, and how to read it again.

    Parameters
    ----------
    path
        The run's folder, or the one file that holds it.
    run_id
        Its name; by default that of the folder.
    """
    name = escape(run_id or Path(path).name)
    computed = f"Every figure and sentence above is computed from the records of the run **{name}**"
    if path.is_file():
        return markdown(f"{computed}, in one file. `lab.load_runs` reads them again, given it.")
    return markdown(
        f"{computed}, in the folder of that name under outputs/runs. `lab.load_runs` reads them "
        f"again, given that folder or the {code('run_id')}."
    )


def named_runs(page: str) -> list[str]:
    """Return the runs that a page tells of, given its text: an executed notebook or its report."""
    names = re.findall(r"the records of the run (?:\*\*|<strong>)(.+?)(?:\*\*|</strong>)", page)
    return list(dict.fromkeys(html.unescape(name) for name in names))
