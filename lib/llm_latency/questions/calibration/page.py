"""A calibration on the page: tables, one figure, and sentences computed from the data."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import Markdown
from matplotlib.axes import Axes

from llm_latency.answers.page import markdown
from llm_latency.questions.calibration.ratios import BAND, ENGINE, PARTS, USER
from llm_latency.report import style
from llm_latency.stats.estimate import FEWEST
from llm_latency.words import enumerate_words, escape, number, percent, several

US = 1e6
"""Seconds to µs."""


def _threads(count: int) -> str:
    return several(int(count), "thread")


def _name(row: Mapping[Hashable, Any]) -> str:
    test = f" {row['test'][2:]}" if row["test"].startswith("pp") else ""
    return f"{row['measure']}{test}, {_threads(row['n_threads'])}"


def _bounds(low: float, high: float, kind: str, places: int) -> str:
    left, right = "[]" if kind == "interval" else "()"
    return f"{left}{number(low, places)}–{number(high, places)}{right}"


def table(ratios: pd.DataFrame) -> pd.DataFrame:
    """Return the ratios as readers see them.

    Parameters
    ----------
    ratios
        ``run.ratios()``.
    """
    shown = [
        {
            "threads": row["n_threads"],
            "test": row["test"],
            "measure": row["measure"],
            "lab / llama-bench": number(row["ratio"], 3),
            "95 % interval": _bounds(row["low"], row["high"], row["kind"], 3) if row["n"] else "–",
            "pairs": row["n"],
            "lab, tok/s": number(row["lab_tps"]),
            "llama-bench, tok/s": number(row["llama_bench_tps"]),
            "disturbed": row["disturbed"],
            "failed": row["failed"],
        }
        for row in ratios.to_dict("records")
    ]
    made = pd.DataFrame(shown)
    made.attrs["caption"] = (
        "Ratio of speeds, above 1 the lab is the faster: median over pairs of fresh processes "
        f"[95 % interval], or, with fewer than {FEWEST} pairs, (smallest–largest)."
    )
    return made


def parts_table(parts: pd.DataFrame) -> pd.DataFrame:
    """Return where a decoded token's time goes, in µs, one row per thread count.

    Parameters
    ----------
    parts
        :func:`llm_latency.questions.calibration.ratios.parts`.
    """
    words = {
        "llama-bench": "llama-bench, µs",
        "evaluation": "evaluation beyond it, µs",
        "sampling": "sampling, µs",
        "binding": "binding and stamps, µs",
        "lab": "lab, µs",
    }
    shown = []
    for threads, part in parts.groupby("n_threads"):
        at = {row["part"]: row for row in part.to_dict("records")}
        row: dict[str, Any] = {"threads": threads}
        for name in PARTS:
            value: dict[Hashable, Any] = at[name]
            bounds = _bounds(value["low_s"] * US, value["high_s"] * US, value["kind"], 0)
            row[words[name]] = f"{number(value['median_s'] * US, 0)} {bounds if value['n'] else ''}"
        shown.append(row)
    made = pd.DataFrame(shown)
    made.attrs["caption"] = "Time of one decoded token: medians over pairs, so parts nearly add up."
    return made


@style.styled
def figure(ratios: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw every ratio with its interval, and the band within which it counts as llama.cpp's.

    Parameters
    ----------
    ratios
        ``run.ratios()``.
    ax
        Axes to draw into; a new figure if not given.
    """
    ax = ax or style.new_axes(8.0, 1.4 + 0.38 * max(3, len(ratios)))
    ax.set_title("The lab's speed over llama-bench's")
    known = ratios[ratios["n"] > 0].reset_index(drop=True)
    if known.empty:
        return style.say_empty(ax, "No pair could be compared.")
    threads = sorted(known["n_threads"].unique())
    colours = dict(zip(threads, style.ramp(len(threads)), strict=True))
    ax.axvspan(*BAND, color=style.FAINT, linewidth=0)
    ax.axvline(1.0, color=style.MUTED, linewidth=1.0)
    for place, row in enumerate(known.to_dict("records")):
        colour = colours[row["n_threads"]]
        ax.hlines(place, row["low"], row["high"], color=colour, linewidth=2.2)
        mark = style.MARKERS[threads.index(row["n_threads"]) % len(style.MARKERS)]
        ax.plot([row["ratio"]], [place], mark, color=colour, markersize=7, markeredgecolor="white")
    ax.set_yticks(range(len(known)), [_name(row) for row in known.to_dict("records")])
    ax.set_ylim(len(known) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", visible=True)
    reach = max(1.5 * (BAND[1] - 1), (known[["low", "high"]] - 1).abs().to_numpy().max() * 1.1)
    ax.set_xlim(1 - reach, 1 + reach)
    ax.set_xlabel("ratio of speeds; above 1 the lab is the faster")
    lines = "intervals" if (known["kind"] == "interval").all() else "intervals or ranges"
    style.subtitle(
        ax, f"Points: medians over pairs; lines: their {lines}; grey: {BAND[0]}–{BAND[1]}."
    )
    return ax


def answer(ratios: pd.DataFrame, parts: pd.DataFrame) -> Markdown:
    """Return what the ratios say: how many lie in the band, which do not, and what the rest is.

    Parameters
    ----------
    ratios
        ``run.ratios()``.
    parts
        :func:`llm_latency.questions.calibration.ratios.parts`.
    """
    known = ratios[ratios["n"] > 0]
    if known.empty:
        return markdown("**No pair could be compared:** see the logs of the processes.")
    inside = known["ratio"].between(*BAND)
    whole = inside & (known["low"] >= BAND[0]) & (known["high"] <= BAND[1])
    said = [
        f"**{inside.sum()} of {several(len(known), 'median')} "
        f"{'lies' if len(known) == 1 else 'lie'} within {BAND[0]}–{BAND[1]} of llama-bench's "
        f"speed**, {whole.sum()} with the whole of {'its' if len(known) == 1 else 'their'} bounds."
    ]
    outside = [
        f"{_name(row)}: {number(row['ratio'], 3)} "
        f"{_bounds(row['low'], row['high'], row['kind'], 3)}"
        for row in known[~inside].to_dict("records")
    ]
    if outside:
        said.append(f"Outside: {enumerate_words(outside, most=12)}.")
    said += [_rest(known, part) for _, part in parts.groupby("n_threads") if part["n"].all()]
    tests = ratios.drop_duplicates(["n_threads", "test"])
    disturbed, failed = int(tests["disturbed"].sum()), int(tests["failed"].sum())
    if disturbed:
        said.append(
            f"**Disturbed by what else ran on this machine: {several(disturbed, 'pair')}**; "
            "measure again when it is quiet."
        )
    if failed:
        said.append(f"**Failed, and in no ratio: {several(failed, 'pair')}.**")
    if (known["kind"] == "range").any():
        said.append(f"With fewer than {FEWEST} pairs there is no interval, only a range.")
    return markdown(" ".join(said))


def _rest(ratios: pd.DataFrame, part: pd.DataFrame) -> str:
    """Return where the difference of one thread count goes."""
    at = (part.set_index("part")["median_s"] * US).to_dict()
    threads = int(part["n_threads"].iloc[0])
    here = ratios[ratios["n_threads"] == threads].set_index("measure")["ratio"]
    seen = f"{number(here[USER], 3)} with sampling, {number(here[ENGINE], 3)} by evaluation alone"
    return (
        f"Decode with {_threads(threads)}: {seen}. Of the lab's {number(at['lab'], 0)} µs per "
        f"token sampling takes {number(at['sampling'], 0)} µs "
        f"({percent(at['sampling'] / at['lab'])}), which llama-bench does not do, and the "
        f"binding with the time stamps {number(at['binding'], 0)} µs "
        f"({percent(at['binding'] / at['lab'])})."
    )


def method(info: Mapping[str, Any]) -> Markdown:
    """Return how it was measured, out of the plan.

    Parameters
    ----------
    info
        The content of ``run.json``.
    """
    plan, built = info.get("plan") or {}, info.get("llama_bench") or {}
    engine = (info.get("engine") or {}).get("version") or "of unknown version"
    how = {
        "linked": "linked against the very libraries that the lab loads",
        "whole": "built from the same source with the same flags",
    }.get(str(built.get("way")), "one that this lab did not build")
    return markdown(
        f"Each test was measured in {several(int(plan.get('pairs') or 0), 'pair')} of fresh "
        "processes, the lab and llama-bench one right after the other, who goes first "
        f"alternating, in shuffled order (seed {escape(plan.get('seed'))}); each process gives "
        f"the quickest of {several(int(plan.get('repeats') or 0), 'run')} after one that is "
        "dropped. Same file, threads, batches, KV cache types, attention, mapping and layers on "
        f"the GPU. This llama-bench is {how} (llama-cpp-python {escape(engine)})."
    )


def data(path: Path) -> Markdown:
    """Return where the calibration's data lies, and how to read it again.

    Parameters
    ----------
    path
        The calibration's folder.
    """
    return markdown(
        f"Everything above is computed from what lies in **{escape(path)}**: the lab's records "
        "(`trials.jsonl`), llama-bench's own lines (`llama-bench.jsonl`), and which belong "
        f"together (`pairs.jsonl`). `calibration.open_run` reads them again, given the run&#95;id "
        f"{escape(path.name)}."
    )
