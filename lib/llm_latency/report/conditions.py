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
from llm_latency.words import enumerate_words, escape, number, several


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
    sentences = [
        f"**{escape(head)}** in {_share(trials)}: {what}."
        for trials, head, what in words
        if trials.any()
    ]
    return " ".join(filter(None, [*sentences, _fewer_threads(data, info)]))


def _fewer_threads(data: pd.DataFrame, info: Mapping[str, Any]) -> str:
    """Say how many threads computed, where it is not one for each CPU that the machine has."""
    machine = info.get("machine") or {}
    fewer = (machine.get("usable_cpus") or 0) < (machine.get("logical_cpus") or 0)
    return threads_in_force(data, info) if fewer and data["n_threads"].isna().any() else ""


def threads_in_force(frame: pd.DataFrame, info: Mapping[str, Any]) -> str:
    """Say how many threads computed, and how that came about where nobody gave a number.

    Parameters
    ----------
    frame
        The run's rows.
    info
        The content of ``run.json``.
    """
    in_force = sorted({int(count) for count in frame["effective_n_threads"].dropna()})
    if not in_force:
        return ""
    came = (info.get("machine") or {}).get("threads_from")
    if not frame["n_threads"].isna().any():
        came = "as given"
    why = f" ({escape(came)})" if came else ""
    return f"Threads in force: {enumerate_words(list(map(str, in_force)), len(in_force))}{why}."


def _share(trials: pd.Series) -> str:
    """Return ``all trials``, or how many of them."""
    return "all trials" if trials.all() else f"{trials.sum():,} of {several(len(trials), 'trial')}"
