"""The answer on memory: how well it was predicted, and where the first generation's bytes are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from IPython.display import Markdown

from llm_latency.answers import troubles
from llm_latency.answers.page import markdown
from llm_latency.memory.fits import largest, predict_at
from llm_latency.model.header import Header
from llm_latency.plan.sizes import size_bytes
from llm_latency.records import frame as fr
from llm_latency.records.record import PLACES
from llm_latency.views.ledger import Ledger, ledgers
from llm_latency.words import MIB, enumerate_words, escape, number, percent, several, span

PHASES = {"after_load": "loaded", "after_first": "first", "after_last": "last"}
NAMED = 0.95
"""Share of a growth that must lie in named places for it to be called explained."""


def memory_ledger(df: pd.DataFrame, info: Mapping[str, Any]) -> Markdown:
    """Return how well memory was predicted, where it is, and what fits a stated budget.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    info
        The content of ``run.json``.
    """
    data = fr.prepare(df)
    if data.empty:
        return markdown(troubles.NOTHING)
    if fr.ok(data).empty:
        return markdown(troubles.all_failed(data))
    found = ledgers(df, info)
    parts = [
        _prediction(found, info),
        _first_generation(found),
        _beyond(found),
        _budget(found, info),
        troubles.failed(data),
    ]
    return markdown("\n\n".join(filter(None, parts)))


def _prediction(found: list[Ledger], info: Mapping[str, Any]) -> str:
    known = [one for one in found if one.ratio == one.ratio]
    if not known:
        return "What the model would take could **not be predicted**: its header is not stored."
    worst = max(known, key=lambda one: abs(one.ratio - 1))
    kv = [abs(one.predicted["KV cache"] / one.allocated["KV cache"] - 1) for one in known]
    # llama.cpp prints MiB with two decimals.
    grain = max(0.006 / (one.allocated["KV cache"] * MIB) for one in known)
    exact = max(kv) <= grain
    sizes = [sum(one.allocated.values()) * MIB for one in known]
    return (
        f"With {troubles.model_name(info)}, llama.cpp allocated {span(min(sizes), max(sizes))} MiB "
        f"in {several(len(known), 'cell')}; predicted from the file's header, the furthest was "
        f"**{percent(abs(worst.ratio - 1))} {'more' if worst.ratio > 1 else 'less'}** "
        f"({escape(worst.cell)}). The KV cache was predicted "
        + ("**exactly**." if exact else f"within {percent(max(kv))}.")
    )


def _first_generation(found: list[Ledger]) -> str:
    known = [one for one in found if one.growth()]
    if not known:
        return "Where the bytes of the first generation are is **not known** on this system."
    most = max(known, key=lambda one: sum(one.growth("after_load", "after_first").values()))
    first, later = most.growth("after_load", "after_first"), most.growth("after_first")
    total = sum(first.values())
    if total * MIB < 0.5:
        return "The first generation added **nothing** to what the process holds in RAM."
    ranked = sorted(first, key=lambda place: -first[place])
    shown = [place for place in ranked if first[place] >= 0.02 * total]
    where = [f"{number(first[place] * MIB)} MiB in {PLACES[place]}" for place in shown]
    named = sum(first[place] for place in shown) / total
    verdict = "explained" if named >= NAMED else "not all explained"
    text = (
        f"The first generation added **{number(total * MIB)} MiB** to what the process holds "
        f"({escape(most.cell)}, where it added most): {enumerate_words(where, 9)}. That is "
        f"{percent(named)} of it, **{verdict}**. "
    )
    compute = most.allocated.get("compute", 0.0)
    if first["engine"] > 0.5 * total and compute:
        text += (
            "Most of it is buffers that were allocated before and are touched now: "
            f"{percent(first['engine'] / compute)} of the compute buffer's {number(compute * MIB)} "
            "MiB. "
        )
    file = first["model_file"]
    text += (
        "No weights were paged in by it. "
        if file * MIB < 0.5
        else f"{number(file * MIB)} MiB of the weights came into RAM only then. "
    )
    return text + f"The generations after it added {number(sum(later.values()) * MIB)} MiB."


def _beyond(found: list[Ledger]) -> str:
    known = [one for one in found if "after_last" in one.resident]
    if not known:
        return ""
    own = [
        sum(one.resident["after_last"][place] for place in ("python", "heap", "code")) * MIB
        for one in known
    ]
    return (
        "Python, the libraries and small pieces take "
        f"{span(min(own), max(own))} MiB of the process beside the model."
    )


def _budget(found: list[Ledger], info: Mapping[str, Any]) -> str:
    given = ((info.get("plan") or {}).get("parameters") or {}).get("budget")
    if not str(given or "").strip() or not info.get("header"):
        return ""
    limit = size_bytes("budget", given)
    header = Header.model_validate(info["header"])
    fit = [one for one in found if sum(one.predicted.values()) <= limit]
    lines = []
    for ubatch in sorted({one.settings.n_ubatch or 0 for one in found}):
        one = next(o for o in found if (o.settings.n_ubatch or 0) == ubatch)

        def within(n_ctx: int, one: Ledger = one) -> bool:
            return predict_at(header, one.settings, n_ctx, on="cpu").total_bytes <= limit

        edge = largest(within)
        room = f"n&#95;ctx up to {edge:,}" if edge else "no n&#95;ctx"
        lines.append(f"{room} with n&#95;ubatch {ubatch or 'of the engine'}")
    return (
        f"Of {escape(given)}, {len(fit)} of {several(len(found), 'cell')} fit by the prediction; "
        f"{enumerate_words(lines, 9)} would (what Python takes is not counted)."
    )


def memory_ledger_table(df: pd.DataFrame, info: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row per cell: its parts predicted and allocated, and what the system saw."""
    rows = []
    for one in ledgers(df, info):
        row: dict[str, Any] = {"cell": one.cell}
        for part in fr.PARTS:
            pair = (one.predicted.get(part), one.allocated.get(part))
            row[f"{part}, MiB"] = " / ".join("–" if v is None else number(v * MIB) for v in pair)
        row["predicted / allocated"] = f"{one.ratio:.3f}" if one.ratio == one.ratio else "–"
        for phase, name in PHASES.items():
            seen = one.resident.get(phase)
            row[f"resident, {name}, MiB"] = number(sum(seen.values()) * MIB) if seen else "–"
        rows.append(row)
    table = pd.DataFrame(rows)
    table.attrs["caption"] = (
        "Parts: predicted / allocated. Resident: the whole process after loading, after the first "
        "generation and after the last; medians over processes."
    )
    return table
