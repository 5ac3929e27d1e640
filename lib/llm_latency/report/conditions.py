"""What the machine was like while a run was measured: told once, beside the answer.

A condition is no disturbance: it is the same for all that is compared. It says for which machine
the figures hold, and how to have a faster one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from llm_latency.machine.power import LOW
from llm_latency.records import frame as fr
from llm_latency.records.record import POWER_CAP
from llm_latency.words import escape, number, several


def told(data: pd.DataFrame, info: Mapping[str, Any]) -> str:
    """Return what holds the machine back, and in how many trials; empty where nothing does.

    Parameters
    ----------
    data
        Rows that count, :func:`llm_latency.records.frame.by_cell`.
    info
        The content of ``run.json``.
    """
    each = fr.processes(data)
    low = each["power_profile"].isin(LOW)
    profiles = ", ".join(sorted(each.loc[low, "power_profile"].unique()))
    watts = ((info.get("machine") or {}).get("gpu") or {}).get("power_limit_w")
    limit = f" of {number(watts)} W" if watts else ""
    words: tuple[tuple[pd.Series, str, str], ...] = (
        (
            each["on_battery"].eq(True),
            "On battery",
            "plug the machine in and measure again for its full speed",
        ),
        (
            low,
            f"Power profile {escape(profiles)}",
            "choose a faster one and measure again for its full speed",
        ),
        (
            each["gpu_throttle"].fillna("").str.contains(POWER_CAP),
            f"Power limit{limit}",
            "it held the GPU's clock back, and the figures hold for this limit",
        ),
    )
    return " ".join(
        f"**{escape(head)}** in {_share(trials)}: {what}."
        for trials, head, what in words
        if trials.any()
    )


def _share(trials: pd.Series) -> str:
    """Return ``all trials``, or how many of them."""
    return "all trials" if trials.all() else f"{trials.sum():,} of {several(len(trials), 'trial')}"
