"""The answer on locking: is it honoured, is it steadier, and what if memory is short."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from IPython.display import Markdown

from llm_latency.answers import troubles
from llm_latency.answers.brief import brief, footing
from llm_latency.answers.page import in_words, markdown
from llm_latency.records import frame as fr
from llm_latency.stats.compare import Comparison
from llm_latency.stats.estimate import Estimate
from llm_latency.views.held_memory import (
    BASE,
    NO_LIMIT,
    SMALLEST_SPREAD,
    SPREADS,
    HeldMemory,
    Kind,
    unlimited,
    where_ended,
)
from llm_latency.words import (
    MIB,
    MS,
    enumerate_words,
    escape,
    number,
    percent,
    setting,
    several,
    span,
)

STEADY = {"faster": "steadier", "slower": "less steady", "same": "as steady"}
"""What the verdicts on times mean of a spread."""
WHOLE = 0.95
"""Share of the weights from which they count as locked."""


def memory_locking(df: pd.DataFrame, info: Mapping[str, Any]) -> Markdown:
    """Return whether locking is honoured, whether answers get steadier, and what a limit does.

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
    held = HeldMemory(df)
    if not held.measured:
        return markdown("\n\n".join([troubles.all_failed(data), *_short(held, info)]))
    paragraphs = [
        f"{_sizes(data, info)} {_honoured(held)}",
        *_steady(held),
        *_short(held, info),
        troubles.disturbed(unlimited(df)),
    ]
    return markdown("\n\n".join(filter(None, paragraphs)))


def _sizes(data: pd.DataFrame, info: Mapping[str, Any]) -> str:
    """Name the model and what it was asked."""
    good = fr.ok(data)
    prompt, tokens, n_ctx = (
        "–".join(dict.fromkeys(setting(v) for v in (good[c].min(), good[c].max())))
        for c in ("prompt_tokens", "generated_tokens", "n_ctx")
    )
    return (
        f"**{troubles.model_name(info)}**, n&#95;ctx {n_ctx}, a prompt of {prompt} tokens, "
        f"{tokens} generated."
    )


def _honoured(held: HeldMemory) -> str:
    """Say whether the system locked what it was asked to lock."""
    mine = held.counting[held.counting["way"] == "mlock"]
    if mine.empty:
        return "Locking was not measured."
    known = mine[mine["locked_after_load_bytes"].notna() & (mine["weights_bytes"] > 0)]
    early = len(mine) - len(known)
    rest = f" Of {several(early, 'more process', 'more processes')} it is not known." * bool(early)
    if known.empty:
        return f"**Whether mlock is honoured is not known.**{rest}"
    share = known["locked_after_load_bytes"] / known["weights_bytes"]
    locked, weights = (known[c] * MIB for c in ("locked_after_load_bytes", "weights_bytes"))
    whole = int((share >= WHOLE).sum())
    word = "honoured"
    if whole < len(known):
        word = "honoured in part" if (share > 0).any() else "not honoured"
    text = (
        f"**mlock is {word}:** {span(locked.min(), locked.max(), 'MiB')} locked of "
        f"{span(weights.min(), weights.max(), 'MiB')} of weights, all of them in {whole} of "
        f"{several(len(known), 'process', 'processes')}."
    )
    if not share.max() > 0:
        text += " Raise the system's limit (ulimit -l)."
    return text + rest


def _steady(held: HeldMemory) -> list[str]:
    """Compare the other ways with mmap where memory is not short."""
    memory = held.memories[0]
    kinds = [kind for kind in held.of_memory(memory) if kind in held.measured]
    base = Kind(memory, BASE)
    others = [kind for kind in kinds if kind != base]
    where = "Without a memory limit" if memory == NO_LIMIT else f"With {memory} of memory"
    if base not in kinds or not others:
        return [
            f"**Whether locking is steadier is undecided:** {where[0].lower()}{where[1:]} mmap and "
            "another way of reading were not both measured."
        ]
    lines, spreads = [], []
    every: list[Comparison] = []
    floors: list[Comparison] = []
    for kind in others:
        found = [held.compare(column, base, kind) for column in ("load_s", "ttft_s", "total_s")]
        every += found
        load, ttft, total = map(brief, found)
        lines.append(
            f"- **{kind.way}**: loading takes {load}; TTFT {ttft}; a whole generation {total}."
        )
    for column, what in SPREADS.items():
        found_by = {kind: held.compare(column, base, kind) for kind in others}
        floors += found_by.values()
        said = "; ".join(
            f"{kind.way} {median(held, column, kind)}, {_spread(found)}"
            for kind, found in found_by.items()
        )
        spreads.append(f"- {what}: mmap {median(held, column, base)}; {said}.")
    return [
        f"**{where}**, each against mmap, round by round. {footing(every)}\n\n" + "\n".join(lines),
        f"**Steadier?** {_verdict(held, base)} {footing(floors, 'spreads of equal cells')}\n\n"
        + "\n".join(spreads),
    ]


def median(held: HeldMemory, column: str, kind: Kind) -> str:
    """Return the median of a kind's processes in ms."""
    value = held.estimate(column, kind)
    return f"{number(value.median * MS)} ms" if value.n else "not known"


def _spread(found: Comparison) -> str:
    return brief(found, "wider", "narrower", STEADY)


def _verdict(held: HeldMemory, base: Kind) -> str:
    """Say in one sentence whether locking makes answers steadier within a process."""
    lock = Kind(base.memory, "mlock")
    if lock not in held.measured:
        return "Locking was not measured here."
    found = {
        what: held.compare(column, base, lock).verdict
        for column, what in (("ttft_range_s", "TTFT"), ("itl_mad_s", "ITL"))
    }
    words = [f"{what} **{STEADY.get(v, v)}**" for what, v in found.items()]
    return (
        f"Locking against mmap, within a process: {enumerate_words(words)} (a spread must differ "
        f"by {percent(SMALLEST_SPREAD)} to matter)."
    )


def _short(held: HeldMemory, info: Mapping[str, Any]) -> list[str]:
    """Say what each way does under each limit."""
    said, every = [], []
    for memory in held.memories:
        if memory == NO_LIMIT:
            continue
        lines = []
        for kind in held.of_memory(memory):
            slower = _against_plenty(held, kind)
            every += [slower] if slower else []
            lines.append(
                f"- **{kind.way}**: {_ended(held, kind, info)}{_cost(held, kind, slower)}."
            )
        said.append(f"**With {memory}** {_by(held, memory)}:\n\n" + "\n".join(lines))
    if said and every:
        said.append(footing(every))
    return said


def _by(held: HeldMemory, memory: str) -> str:
    """Say what held the limit."""
    data = held.counting
    found = {str(by) for by in data.loc[data["memory"] == memory, "by"]}
    if found == {"cgroup"}:
        return "of memory, page cache included (counted by a cgroup)"
    if found == {"rlimit"}:
        return "of memory by RLIMIT&#95;DATA alone, which does not count mapped files"
    if "cgroup" in found or "rlimit" in found:
        return f"of memory (held by {escape(', '.join(sorted(by or 'nothing' for by in found)))})"
    return "of memory asked for, but **not in force**"


def _ended(held: HeldMemory, kind: Kind, info: Mapping[str, Any]) -> str:
    """Return how the processes of a kind ended, and where those that failed."""
    mine = held.of(kind)
    parts = []
    for status, part in mine.groupby("status", sort=False):
        text = f"**{escape(status)}** {len(part)} of {len(mine)}"
        if status != "ok":
            phases = {where_ended(str(reason)) for reason in part["reason"]} - {""}
            limit_s = (info.get("plan") or {}).get("timeout_s")
            if status == "timeout" and limit_s:
                text += f", not finished within {setting(float(limit_s))} s"
            if phases:
                text += f", {enumerate_words(sorted(phases), 2)}"
        parts.append((status != "ok", text))
    return "; ".join(text for _, text in sorted(parts))


def _against_plenty(held: HeldMemory, kind: Kind) -> Comparison | None:
    """Compare whole generations with those of the same way under the least limit there was."""
    plenty = Kind(held.memories[0], kind.way)
    if kind == plenty or kind not in held.measured or plenty not in held.measured:
        return None
    return held.compare("total_s", plenty, kind)


def _cost(held: HeldMemory, kind: Kind, slower: Comparison | None) -> str:
    """Say how long a generation takes, and how often a page had to come from the disk again."""
    if kind not in held.measured:
        return ""
    text = f"; a generation takes {_full(held.estimate('total_s', kind))}"
    if slower:
        text += f", against {held.memories[0]} {brief(slower)}"
    faults = held.good(kind)["major_faults"].dropna()
    if len(faults):
        amount = span(float(faults.min()), float(faults.max())) if faults.max() > 0 else "no"
        text += f"; {amount} major faults per process"
    return text


def _full(value: Estimate) -> str:
    return in_words(value, MS, "ms") if value.n else "a time that is not known"
