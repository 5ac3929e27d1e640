"""The cold start's figure in words, and its table."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from IPython.display import Markdown

from llm_latency.answers.cold_start import largest_part
from llm_latency.answers.page import markdown
from llm_latency.report.tables import short
from llm_latency.views.start_ledger import StartLedger
from llm_latency.words import (
    MIB,
    MS,
    enumerate_words,
    number,
    percent,
    several,
    span,
)


def cold_start_reading(df: pd.DataFrame) -> Markdown:
    """Return which part is largest in how many starts, and what loading and replying are of it.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    ledger = StartLedger(df)
    known = [start for start in ledger.measured if ledger.estimate("start_s", start).n]
    if not known:
        return markdown("No start was measured in all its parts, so there is nothing to read here.")
    largest: dict[str, int] = {}
    for start in known:
        name, _ = largest_part(ledger, start)
        largest[name] = largest.get(name, 0) + 1
    ranked = sorted(largest, key=lambda name: -largest[name])
    leaders = [
        f"**{name}** in {largest[name]} of {several(len(known), 'start')}" for name in ranked
    ]
    shares = {
        what: [
            ledger.estimate(column, start).median / ledger.estimate("start_s", start).median
            for start in known
        ]
        for what, column in (
            ("importing the engine", "import_s"),
            ("loading", "load_s"),
            ("the first generation", "total_s"),
        )
    }
    said = [f"{what} takes {_percents(values)}" for what, values in shares.items()]
    return markdown(
        f"The largest part is {enumerate_words(leaders, 9)}. Of the median of a start "
        f"{enumerate_words(said)} (over {several(len(known), 'start')})."
    )


def _percents(values: list[float]) -> str:
    low, high = percent(min(values)), percent(max(values))
    return high if low == high else f"{low.removesuffix(' %')}–{high}"


def cold_start_table(df: pd.DataFrame) -> pd.DataFrame:
    """Return every start as a column: its parts in ms, what was read, faulted and locked.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    ledger = StartLedger(df)
    columns: dict[str, list[str]] = {"": []}
    sums = {"load and TTFT": "first_token_s", "import to the last token": "start_s"}
    columns[""] = [
        "trials",
        "n",
        *(f"{name}, ms" for name in ledger.parts),
        *(f"{name}, ms" for name in sums),
        "read while loading, MiB",
        "major faults",
        "locked, MiB",
        "file in RAM before, %",
    ]
    for start in ledger.planned:
        counted = ledger.estimate("first_token_s", start).n
        cells = [ledger.how_ended(start), str(counted) if counted else "–"]
        cells += [number(ledger.estimate(c, start).median * MS) for c in ledger.parts.values()]
        cells += [
            re.sub(r" n \d+$", "", short(ledger.estimate(c, start), MS)) for c in sums.values()
        ]
        for column, factor in (
            ("read_bytes", MIB),
            ("major_faults", 1.0),
            ("locked_after_load_bytes", MIB),
            ("resident_before", 100.0),
        ):
            values = np.round(ledger.samples(column, start).to_numpy(dtype=float) * factor, 1)
            cells.append(span(float(np.min(values)), float(np.max(values))) if len(values) else "–")
        columns[start.words] = cells
    table = pd.DataFrame(columns) if ledger.planned else pd.DataFrame()
    table.attrs["caption"] = (
        "Parts: medians over processes, whose sum need not be the median of the whole. Sums: "
        "median [95 % interval] or, with fewer than six processes, (smallest–largest); n: "
        "processes. Bytes, faults and shares: smallest–largest. A dash: not measured."
    )
    return table
