"""Locking's figure in words, and its tables."""

from __future__ import annotations

import pandas as pd
from IPython.display import Markdown

from llm_latency.answers.memory_locking import median
from llm_latency.answers.page import markdown
from llm_latency.report.tables import short
from llm_latency.views.held_memory import (
    NO_LIMIT,
    HeldMemory,
    Kind,
)
from llm_latency.words import (
    MIB,
    MS,
    counts,
    enumerate_words,
    escape,
    span,
)


def memory_locking_reading(df: pd.DataFrame) -> Markdown:
    """Return, limit by limit, how far the ways are apart and which of them are not drawn.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    held = HeldMemory(df)
    sentences = []
    for memory in held.memories:
        kinds = held.of_memory(memory)
        drawn = [kind for kind in kinds if kind in held.measured]
        lost = [kind for kind in kinds if kind not in held.measured]
        where = "Without a limit" if memory == NO_LIMIT else f"With {memory}"
        if drawn:
            text = f"{where} a generation takes {_medians(held, drawn, 'total_s')}, and the ITL "
            text += f"scatters by {_medians(held, drawn, 'itl_mad_s')}"
        else:
            text = f"{where} nothing was measured"
        if lost:
            hatched = [f"{kind.way} ({counts(held.of(kind)['status'])})" for kind in lost]
            text += f"; hatched: {escape(enumerate_words(hatched, 9))}"
        sentences.append(f"{text}.")
    return markdown(
        " ".join(sentences) or "Nothing was measured, so there is nothing to read here."
    )


def _medians(held: HeldMemory, kinds: list[Kind], column: str) -> str:
    """Return the medians of some kinds, each with its way."""
    return enumerate_words([f"{median(held, column, kind)} ({kind.way})" for kind in kinds], 9)


def memory_locking_table(df: pd.DataFrame) -> pd.DataFrame:
    """Return one row per memory limit and way of reading: how long, and how steady.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    held = HeldMemory(df)
    rows = []
    for kind in held.planned:
        row = _head(held, kind)
        for label, column in (
            ("load, ms", "load_s"),
            ("TTFT, ms", "ttft_s"),
            ("total, ms", "total_s"),
            ("TTFT range, ms", "ttft_range_s"),
            ("ITL MAD, ms", "itl_mad_s"),
        ):
            row[label] = short(held.estimate(column, kind), MS)
        rows.append(row)
    table = pd.DataFrame(rows)
    table.attrs["caption"] = (
        "Median [95 % interval] or, with fewer than six processes, median (smallest–largest); n: "
        "processes. TTFT range: longest less shortest in a process; ITL MAD: median absolute "
        "deviation of its tokens' times. A dash: not measured."
    )
    return table


def memory_locking_bytes(df: pd.DataFrame) -> pd.DataFrame:
    """Return one row per memory limit and way of reading: what was read, faulted and locked.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    held = HeldMemory(df)
    rows = []
    for kind in held.planned:
        row = _head(held, kind)
        for label, column, factor in (
            ("major faults", "major_faults", 1.0),
            ("read while loading, MiB", "read_bytes", MIB),
            ("locked, MiB", "locked_after_load_bytes", MIB),
            ("weights, MiB", "weights_bytes", MIB),
            ("RSS peak, MiB", "rss_peak_bytes", MIB),
            ("counted against the limit, MiB", "memory_limit_peak_bytes", MIB),
        ):
            values = (held.of(kind)[column].dropna() * factor).round(1)
            row[label] = span(values.min(), values.max()) if len(values) else "–"
        rows.append(row)
    table = pd.DataFrame(rows)
    table.attrs["caption"] = (
        "Smallest–largest of all processes that told, failed ones too. Major faults: pages that "
        "had to come from the disk while the process ran. A dash: not measured."
    )
    return table


def _head(held: HeldMemory, kind: Kind) -> dict[str, str]:
    return {
        "memory": kind.memory,
        "reading": kind.way,
        "trials": counts(held.of(kind)["status"]),
    }
