"""The answer on cold starts: what a start takes, which part is largest, what the disk is of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from IPython.display import Markdown

from llm_latency.answers import troubles
from llm_latency.answers.brief import brief, footing
from llm_latency.answers.page import markdown
from llm_latency.answers.shares import full, signed_ms
from llm_latency.answers.verdict import bold
from llm_latency.records import frame as fr
from llm_latency.stats.compare import Comparison
from llm_latency.stats.estimate import Estimate
from llm_latency.views.start_ledger import STATES, Start, StartLedger
from llm_latency.words import (
    MIB,
    MS,
    escape,
    number,
    percent,
    setting,
    several,
    span,
)


def cold_start(df: pd.DataFrame, info: Mapping[str, Any]) -> Markdown:
    """Return what a start takes, which part is largest, and what of it is the disk.

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
    ledger = StartLedger(df)
    if not ledger.measured:
        return markdown(troubles.all_failed(data))
    paragraphs = [
        _whole(ledger, info),
        _not_controlled(ledger) or _disk(ledger),
        _ways(ledger),
        _beyond_second(ledger),
        _bytes(ledger, info),
        troubles.failed(data),
        troubles.disturbed(data),
    ]
    return markdown("\n\n".join(filter(None, paragraphs)))


def _of(start: Start) -> str:
    """Return a start in words, ``mmap with the file on the disk``."""
    return f"{start.way} with the {escape(STATES.get(start.page_cache, start.page_cache))}"


def _whole(ledger: StartLedger, info: Mapping[str, Any]) -> str:
    """Say what a start takes in all, and which of its parts is the largest."""
    way = ledger.measured[0].way
    shown = [start for start in ledger.measured if start.way == way]
    rows = ledger.good
    sizes = [
        "–".join(dict.fromkeys(setting(v) for v in (rows[c].min(), rows[c].max())))
        for c in ("prompt_tokens", "generated_tokens")
    ]
    sentences = [
        f"**{troubles.model_name(info)}**, a prompt of {sizes[0]} tokens, {sizes[1]} generated, "
        f"file brought in by {way}."
    ]
    for start in shown:
        total = ledger.estimate("start_s", start)
        where = STATES.get(start.page_cache, escape(start.page_cache))
        if not total.n:
            sentences.append(f"With the {where} not every part of a start could be measured.")
            continue
        name, part = largest_part(ledger, start)
        sentences.append(
            f"With the {where} a start takes {bold(total)} from the engine's import to the last "
            f"token; its largest part is **{name}**, {number(part * MS)} ms "
            f"({percent(part / total.median)})."
        )
    return " ".join(sentences)


def largest_part(ledger: StartLedger, start: Start) -> tuple[str, float]:
    """Return the part with the largest median, and that median in seconds."""
    medians = {name: ledger.estimate(column, start).median for name, column in ledger.parts.items()}
    known = {name: value for name, value in medians.items() if value == value}
    name = max(known, key=lambda part: known[part])
    return name, known[name]


def _not_controlled(ledger: StartLedger) -> str:
    if ledger.controlled:
        return ""
    mine = ledger.good
    other = mine["effective_page_cache"] != mine["page_cache"]
    return (
        f"**What the disk does is undecided:** in {int(other.sum())} of "
        f"{several(len(mine), 'process', 'processes')} the page cache was not brought into the "
        "state that was asked for, so disk and RAM are not told apart."
    )


def _disk(ledger: StartLedger) -> str:
    """Compare starts from the disk with starts from RAM, way by way."""
    pairs = ledger.pairs()
    if not pairs:
        return (
            "What of it is the disk is **undecided**: no way of reading was measured both with "
            "the file on the disk and with it in RAM."
        )
    lines, every = [], []
    for resident, evicted in pairs:
        extra = ledger.difference("first_token_s", resident, evicted)
        whole = ledger.estimate("first_token_s", evicted).median
        share = "not known, for no round has both"
        if extra.n:
            share = f"{_difference(extra)} of {number(whole * MS)} ms{_share(extra, whole)}"
        found = [
            ledger.compare(column, resident, evicted) for column in ("load_s", "first_token_s")
        ]
        every += found
        load, reply = map(brief, found)
        lines.append(
            f"- **{evicted.way}**: the disk's part is {share}. Loading takes {load}; loading and "
            f"TTFT together {reply}."
        )
    return (
        "**The disk's part** is what a start with the file on the disk takes longer, round by "
        "round, than one with the file in RAM, from loading to the first token. "
        f"{footing(every, 'equal starts')}\n\n" + "\n".join(lines)
    )


def _share(extra: Estimate, whole: float) -> str:
    """Return a difference as a share of the whole, where it is told from none."""
    if extra.kind == "range":
        return ""
    if extra.low <= 0 <= extra.high:
        return ", not told from none"
    return f", that is {percent(extra.median / whole)}".replace("-", "−")


def _difference(value: Estimate) -> str:
    return signed_ms(value) if value.n > 1 else f"{number(value.median * MS)} ms (one round)"


def _ways(ledger: StartLedger) -> str:
    """Say which way of reading brings the first token soonest, in each state."""
    lines: list[str] = []
    every: list[Comparison] = []
    for state in ledger.states():
        best, *others = ledger.of_state(state)
        where = STATES.get(state, escape(state))
        text = (
            f"- {where}: **{best.way}**, first token "
            f"{full(ledger.estimate('first_token_s', best))} after loading began"
        )
        if not others:
            lines.append(f"{text}; no other way was measured.")
            continue
        found = {other: ledger.compare("first_token_s", best, other) for other in others}
        every += found.values()
        rest = "; ".join(f"{other.way} takes {brief(found[other])}" for other in others)
        verdicts = {comparison.verdict for comparison in found.values()}
        judged = {
            frozenset({"slower"}): "**It is the soonest.**",
            frozenset({"same"}): "**None is sooner than the others.**",
        }.get(frozenset(verdicts), "**Whether it is the soonest is undecided.**")
        if verdicts == {"slower", "same"}:
            judged = "**No way is sooner, some are later.**"
        lines.append(f"{text}. {rest}. {judged}")
    head = "**Ways of reading**, the one with the lowest median first, the others against it."
    return f"{head} {footing(every, 'equal starts')}".rstrip() + "\n\n" + "\n".join(lines)


def _beyond_second(ledger: StartLedger) -> str:
    """Say what the first generation costs beyond the next in the same process."""
    found = {start: ledger.beyond_later("ttft_s", start) for start in ledger.measured}
    known = {start: value for start, value in found.items() if value.n}
    if not known:
        return "Each process generated once, so the first generation has no second to compare with."
    most = max(known, key=lambda start: known[start].median)
    total = ledger.beyond_later("total_s", most)
    above = [s for s, v in known.items() if v.kind == "interval" and v.low > 0]
    below = [s for s, v in known.items() if v.kind == "interval" and v.high < 0]
    ranges = any(value.kind == "range" for value in known.values())
    medians = [value.median for value in known.values()]
    text = (
        f"**The first generation** waits for its first token {_apart(medians)} than the next ones "
        f"in the same process (medians of {several(len(known), 'start')}); most with "
        f"{_of(most)}: {_difference(known[most])}, to the last token {_difference(total)}."
    )
    if ranges:
        return f"{text} With fewer than six processes this is **undecided**."
    verdict = f"longer in {len(above)} of {several(len(known), 'start')}"
    if below:
        verdict += f", shorter in {len(below)}"
    return f"{text} By the 95 % interval of each it waits **{verdict}**."


def _apart(medians: list[float]) -> str:
    low, high = min(medians) * MS, max(medians) * MS
    if low >= 0:
        return f"{span(low, high, 'ms')} longer"
    if high <= 0:
        return f"{span(-high, -low, 'ms')} shorter"
    return f"between {number(-low)} ms shorter and {number(high)} ms longer"


def _bytes(ledger: StartLedger, info: Mapping[str, Any]) -> str:
    """Say how much was read from the disk, and when."""
    size = (info.get("model") or {}).get("size_bytes")
    sentences = []
    for state in ledger.states():
        rows = ledger.good[ledger.good["page_cache"] == state]
        read = rows["read_bytes"].dropna() * MIB
        where = STATES.get(state, escape(state))
        if read.empty:
            sentences.append(f"with the {where} it is not known")
            continue
        text = f"with the {where} {_amount(read)} while loading"
        after = (rows["read_after_first_bytes"] - rows["read_after_load_bytes"]).dropna() * MIB
        if len(after):
            text += f" and {_amount(after)} in the first generation"
        sentences.append(text)
    whole = f", of a file of {number(size * MIB)} MiB" if size else ""
    return f"**Read from the disk** by a process{whole}: {'; '.join(sentences)}."


def _amount(values: pd.Series[float]) -> str:
    low, high = round(float(values.min()), 1), round(float(values.max()), 1)
    return span(low, high, "MiB") if high > 0 else "nothing"
