"""A calibration on the page: the answer, its two tables, the figure, and how it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import Markdown
from matplotlib.axes import Axes

from llm_latency.questions.calibration.ratios import View
from llm_latency.report import layout, phrases, style
from llm_latency.report.page import Answer, code, markdown
from llm_latency.stats.compare import SMALLEST_EFFECT
from llm_latency.stats.estimate import FEWEST
from llm_latency.words import escape, number, percent, several

PARTS = {
    "llama-bench": "llama-bench, µs",
    "evaluation": "evaluation beyond it, µs",
    "sampling": "sampling, µs",
    "binding": "binding and stamps, µs",
    "lab": "lab, µs",
}
"""Columns of the parts of a decoded token's time."""
NEAR = f"{100 * SMALLEST_EFFECT:.0f} %"
"""So near, the lab's figure is called llama.cpp's speed."""


def answer(view: View) -> Answer:
    """Answer how near the lab's figure is to llama.cpp's speed, and what lies between."""
    if not (known := view.compared):
        sentence = "**No pair could be compared:** see the logs of the processes."
        return Answer("no pair could be compared", "none", "", (sentence,))
    near = sum(abs(one.beyond.median) <= SMALLEST_EFFECT for one in known)
    whole = sum(max(-one.beyond.low, one.beyond.high) <= SMALLEST_EFFECT for one in known)
    line = f"{near} of {several(len(known), 'speed')} within {NEAR} of llama-bench's"
    far = max(known, key=lambda one: abs(one.beyond.median))
    sentences = [
        f"**{line}** by the median, {whole} with the whole of the bounds.",
        f"The furthest from it is {far.words}, where the lab's speed differs by "
        f"{phrases.estimate(far.beyond, '%')}.",
        *_between(view),
        *_troubles(view),
    ]
    fewest = min(one.beyond.n for one in known)
    sure = several(fewest, "pair")
    if fewest < FEWEST:
        sure += f"; {FEWEST} are the fewest for an interval"
        sentences.append(f"This rests on {sure}.")
    return Answer(line, "measured", sure, tuple(sentences))


def _between(view: View) -> list[str]:
    """Say what of a decoded token's time is no evaluation, at the fewest threads."""
    for threads, parts in view.parts.items():
        if all(part.n for part in parts.values()):
            token_s, binding_s = parts["lab"].median, parts["binding"].median
            return [
                f"Of a decoded token's {phrases.amount(token_s, 'µs')} with "
                f"{several(threads, 'thread')} sampling takes "
                f"{phrases.estimate(parts['sampling'], 'µs')}, "
                f"or {percent(parts['sampling'].median / token_s)}, which llama-bench does not do, "
                f"and the binding with the time stamps {phrases.amount(binding_s, 'µs')}."
            ]
    return []


def _troubles(view: View) -> list[str]:
    """Say how many pairs failed or were disturbed."""
    failed, disturbed = (int(view.pairs[name].sum()) for name in ("failed", "disturbed"))
    lost = f"Failed, and in no ratio: {several(failed, 'pair')}. " if failed else ""
    noisy = f"Disturbed by what else ran here: {several(disturbed, 'pair')}." if disturbed else ""
    return [f"**{(lost + noisy).strip()}**"] if lost or noisy else []


def table(view: View) -> pd.DataFrame:
    """Return one row per test, threads and measure: the lab's speed beside llama-bench's."""
    made = pd.DataFrame(
        {
            "threads": one.n_threads,
            "test": one.test,
            "measure": one.measure,
            "lab beyond llama-bench, %": phrases.short(one.beyond, "%"),
            "lab, tok/s": number(one.lab_tps),
            "llama-bench, tok/s": number(one.llama_bench_tps),
            "disturbed": one.disturbed,
            "failed": one.failed,
        }
        for one in view.ratios
    )
    made.attrs["caption"] = (
        f"Above 0 the lab's speed is the higher, pair by pair of processes. {phrases.BRACKETS}"
    )
    return made


def parts_table(view: View) -> pd.DataFrame:
    """Return where a decoded token's time goes, one row per number of threads."""
    made = pd.DataFrame(
        {"threads": threads} | {PARTS[name]: phrases.short(parts[name], "µs") for name in PARTS}
        for threads, parts in view.parts.items()
    )
    made.attrs["caption"] = (
        f"Time of one decoded token, in parts that add up only nearly. {phrases.BRACKETS}"
    )
    return made


@style.styled
def figure(view: View, ax: Axes | None = None) -> Axes:
    """Draw by how much the lab's speed differs in each test, with its interval."""
    known = view.compared
    ax = ax or style.new_axes(8.0, 1.4 + 0.38 * max(3, len(known)))
    ax.set_title("The lab's speed beyond llama-bench's")
    if not known:
        return style.say_empty(ax, "No pair could be compared.")
    threads = sorted({one.n_threads for one in known})
    colours = dict(zip(threads, style.ramp(len(threads)), strict=True))
    near = 100 * SMALLEST_EFFECT
    ax.axvspan(-near, near, color=style.FAINT, linewidth=0)
    ax.axvline(0.0, color=style.MUTED, linewidth=1.0)
    for place, one in enumerate(known):
        colour, value = colours[one.n_threads], one.beyond.times(100)
        ax.hlines(place, value.low, value.high, color=colour, linewidth=2.2)
        mark = style.MARKERS[threads.index(one.n_threads) % len(style.MARKERS)]
        ax.plot([value.median], [place], mark, color=colour, markersize=7, markeredgecolor="white")
    names = [(float(place), one.words) for place, one in enumerate(known)]
    layout.rows(ax, names, -0.5, len(known) - 0.5)
    furthest = 100 * max(abs(bound) for one in known for bound in (one.beyond.low, one.beyond.high))
    reach = max(1.5 * near, 1.1 * furthest)
    ax.set_xlim(-reach, reach)
    ax.set_xlabel("%; above 0 the lab's speed is the higher")
    lines = "intervals" if all(o.beyond.kind == "interval" for o in known) else "ranges"
    style.subtitle(ax, f"Points: medians over pairs; lines: their {lines}; grey: within {NEAR}.")
    return ax


def method(info: Mapping[str, Any]) -> Markdown:
    """Return how a calibration was measured, out of its plan.

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
    """Return where a calibration's data lies, and how to read it again.

    Parameters
    ----------
    path
        The calibration's folder.
    """
    return markdown(
        "Every figure and sentence above is computed from what lies in the folder "
        f"**{escape(path.name)}** under outputs/calibration: the lab's records (`trials.jsonl`), "
        "llama-bench's own lines (`llama-bench.jsonl`), and which belong together "
        f"(`pairs.jsonl`). `lab.calibration.open_run` reads them again, given the {code('run_id')}."
    )
