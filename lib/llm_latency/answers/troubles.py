"""What every answer says first, or last: nothing measured, trials failed, the machine disturbed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from llm_latency.machine.host import OTHER_LIMIT, STEAL_LIMIT
from llm_latency.records import frame as fr
from llm_latency.words import counts, escape, percent, several

NOTHING = "**Nothing has been measured yet.** Run the plan to get an answer."


def model_name(info: Mapping[str, Any]) -> str:
    """Return the model's name as a page may show it; ``the model`` where it is not known."""
    return escape((info.get("model") or {}).get("name") or "the model")


def all_failed(data: pd.DataFrame) -> str:
    """Say that nothing could be measured, how it ended, and the most frequent reason."""
    each = fr.processes(data)
    reasons = each.loc[each["reason"] != "", "reason"]
    first = f" The most frequent reason: {escape(reasons.mode().iloc[0])}" if len(reasons) else ""
    return (
        f"**No cell could be measured:** of {several(len(each), 'trial')} none ended ok "
        f"({escape(counts(each['status']))}).{first.rstrip('.')}. The table of failures names "
        "the logs."
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
    worst = data.groupby("process")[["cpu_other_fraction", "cpu_steal_fraction"]].max()
    flags = (worst["cpu_other_fraction"] > OTHER_LIMIT) | (
        worst["cpu_steal_fraction"] > STEAL_LIMIT
    )
    if "disturbed" in data:
        # The record's own judgement, which knows how coarse the clocks of short trials are.
        busy = set(data.loc[data["disturbed"].isin([True]), "process"])
        flags = pd.Series(worst.index.isin(busy), index=worst.index)
    if not flags.any():
        return ""
    other, steal = worst[flags].max()
    causes = []
    if other > OTHER_LIMIT:
        causes.append(f"other processes took up to {percent(other)} of the CPU time")
    if steal > STEAL_LIMIT:
        causes.append(f"the hypervisor took up to {percent(steal)} of it")
    cause = f": {' and '.join(causes)}" if causes else ", as the notes beside the cells say"
    return (
        f"**Disturbed:** {flags.sum():,} of {several(len(flags), 'trial')}{cause}. "
        "Close other programs and measure again before relying on small differences."
    )
