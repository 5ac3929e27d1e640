"""What stands at the end of every page: settings not in force, failures, method, machine, data."""

from __future__ import annotations

from typing import Any

from IPython.display import Markdown, display

from llm_latency.report import cards, page, tables
from llm_latency.report.show import show


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
    frame, info = run.frame(), run.info
    for head, table in (
        ("Settings that are not in force as asked", tables.settings_in_force(frame)),
        ("Trials that did not end well", tables.failures(frame)),
    ):
        if len(table):
            _show(f"## {head}", show(table))
    _show("## Method", method or page.method(info), show(cards.parameters(info)))
    model, machine = cards.model(info), cards.machine(info)
    _show("## Machine and model", show(machine), show(model))
    _show("## Data", data or page.data(run.path))


def _show(*pieces: Any) -> None:
    head, *others = pieces
    display(page.markdown(head), *others)  # type: ignore[no-untyped-call]
