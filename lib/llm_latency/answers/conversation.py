"""The answer on conversations: whether a rich context is faster, and what makes it look so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from IPython.display import Markdown

from llm_latency.answers import troubles
from llm_latency.answers.comparing import told
from llm_latency.answers.page import in_words, markdown
from llm_latency.records import frame as fr
from llm_latency.stats.compare import Comparison
from llm_latency.views import chats
from llm_latency.views.chats import LANGUAGES, MODES, SHORT, Kind
from llm_latency.words import MS, enumerate_words, escape, number, several

SEEN, BENCHMARKED = (25, 35), (16, 18)
"""tok/s once seen in conversations and in a benchmark, from which the question arose."""
HEADS = {
    "slower": "**A rich context is slower per token, not faster.**",
    "faster": "**A rich context is faster per token.**",
    "same": "**A rich context is as fast per token as a short prompt.**",
    "undecided": "**Whether a rich context is faster is undecided.**",
}


def conversation(df: pd.DataFrame, info: Mapping[str, Any]) -> Markdown:
    """Return whether a token takes longer late in a conversation than after a short prompt.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    info
        The content of ``run.json``.
    """
    data = chats.prepared(df)
    if data.empty:
        return markdown(troubles.NOTHING)
    if fr.ok(data).empty:
        return markdown(troubles.all_failed(data))
    count = chats.turns(data)
    kinds = chats.kinds(data)
    talks = _one_perlanguage(kinds)
    problems = [troubles.failed(data), troubles.disturbed(data)]
    if not talks:
        text = "**Undecided**: no conversation could be measured, only short prompts."
        return markdown("\n\n".join(filter(None, [text, *problems])))
    results = {kind: chats.against(df, "decode_s", count, SHORT, kind) for kind in talks}
    parts = [
        _head(results, kinds, troubles.model_name(info)),
        "\n".join(f"- {_talk(df, data, count, kind, results[kind])}" for kind in talks),
        _first_token(df, data, count, kinds),
        _counts(data, count, kinds),
        *problems,
    ]
    return markdown("\n\n".join(filter(None, parts)))


def _one_perlanguage(kinds: list[Kind]) -> list[Kind]:
    """Return each chat as an application holds it: with the prompt cache, if that was measured."""
    found: dict[str, Kind] = {}
    for kind in kinds:
        if kind.language is not None:
            found.setdefault(kind.language, kind)
    return list(found.values())


def _head(results: dict[Kind, Comparison], kinds: list[Kind], model: str) -> str:
    verdicts = {result.verdict for result in results.values()}
    if SHORT not in kinds:
        return f"{HEADS['undecided']} With {model}, no short prompt could be measured."
    if len(verdicts) == 1:
        return f"{HEADS[verdicts.pop()]} With {model}:"
    said = [
        f"{'not decided' if result.verdict == 'undecided' else result.verdict} in the "
        f"{language(kind)} chat"
        for kind, result in results.items()
    ]
    return f"**Per token, a rich context is {enumerate_words(said, 9)}.** With {model}:"


def language(kind: Kind) -> str:
    """Return the language of a chat in words, for Markdown."""
    return LANGUAGES.get(str(kind.language), escape(kind.language))


def _talk(df: pd.DataFrame, data: pd.DataFrame, count: int, kind: Kind, result: Comparison) -> str:
    part = chats.late(fr.ok(data), count)
    mine = chats.of(part, kind)["prompt_tokens"]
    if mine.empty:
        return f"the {language(kind)} chat: its last turns could not be measured."
    few = chats.of(part, SHORT)["prompt_tokens"]
    token = chats.over(part, kind, "token_s")
    last = several(chats.third(count), "turn")
    if not token.n:
        return f"the {language(kind)} chat: one token shows no decode."
    text = (
        f"{language(kind)} chat, last {last} of {count}, {mine.min():,.0f} to {mine.max():,.0f} "
        f"tokens in the context: a token takes {in_words(token, MS, 'ms')}"
    )
    if len(few):
        alone = chats.over(part, SHORT, "token_s")
        text += (
            f", against {number(alone.median * MS)} ms after short prompts of {few.max():,.0f} "
            f"tokens at the same place of a process: {told(result)}"
        )
    if count >= 2:
        own = chats.against_own_start(df, "decode_s", count, kind)
        text += f"; against its own first {several(chats.third(count), 'turn')}: {told(own)}"
    return f"{text}."


def _slope(data: pd.DataFrame, talks: list[Kind]) -> str:
    found = chats.slope(data, talks).times(1000 * MS)
    if not found.n:
        return ""
    kind = "95 % interval" if found.kind == "interval" else "range"
    sign = "longer" if found.median >= 0 else "shorter"
    bounds = f"{number(found.low)} to {number(found.high)} ms"
    return (
        f"Over the turns, 1,000 further tokens of context make each token "
        f"{number(abs(found.median))} ms {sign} ({kind} {bounds}, n = {found.n} processes)."
    )


def _first_token(df: pd.DataFrame, data: pd.DataFrame, count: int, kinds: list[Kind]) -> str:
    lines = []
    for spoken in dict.fromkeys(kind.language for kind in kinds if kind.language):
        cold, kept = Kind(spoken, "cold"), Kind(spoken, "kept")
        if not {cold, kept} <= set(kinds):
            continue
        part = chats.late(data, count)
        waits = [chats.over(part, kind, "ttft_s") for kind in (kept, cold)]
        if not (waits[0].n and waits[1].n):
            continue
        result = chats.against(df, "ttft_s", count, cold, kept)
        lines.append(
            f"- {language(kept)} chat: TTFT {in_words(waits[0], MS, 'ms')} with it, "
            f"{in_words(waits[1], MS, 'ms')} without: {told(result)}"
        )
    if not lines:
        return ""
    last = several(chats.third(count), "turn")
    return "\n".join([f"The prompt cache, in the last {last}:", "", *lines])


def _counts(data: pd.DataFrame, count: int, kinds: list[Kind]) -> str:
    """Say how far the way of counting alone moves the speed of the same turns."""
    part = chats.late(data, count)
    tokens = fr.ok(part)["generated_tokens"].max()
    talks = [kind for kind in kinds if kind.language]
    counted, brief, decoded = (
        {kind: value.median for kind in talks if (value := chats.over(part, kind, column)).n}
        for column in ("count_tps", "early_tps", "decode_tps")
    )
    if len(counted) < 2 or not decoded:
        return ""
    low, high = (pick(counted, key=lambda kind: counted[kind]) for pick in (min, max))
    by_count = counted[high] / counted[low]
    by_decode = max(decoded.values()) / min(decoded.values())
    wanted = SEEN[0] / BENCHMARKED[1]
    enough = "as large a" if by_count / by_decode >= wanted else "a smaller"
    few = chats.quarter(tokens)
    shorter = ""
    if brief and few < tokens:
        least = min(brief, key=lambda kind: brief[kind])
        shorter = (
            f" An answer that ended after {several(few, 'token')} would count as "
            f"{number(brief[least])} tok/s ({_told_kind(least)})."
        )
    return (
        f"How speed is counted: {tokens:.0f} tokens by their total latency make, in these turns, "
        f"{number(counted[low])} tok/s ({_told_kind(low)}) to {number(counted[high])} tok/s "
        f"({_told_kind(high)}), {number(by_count)} times as much; decode, the tokens after the "
        f"first by their own time, runs at {number(min(decoded.values()))} to "
        f"{number(max(decoded.values()))} tok/s, {number(by_decode)} times as much.{shorter} "
        f"{SEEN[0]}–{SEEN[1]} tok/s were once seen in conversations and "
        f"{BENCHMARKED[0]}–{BENCHMARKED[1]} in a benchmark, at least {number(wanted)} times as "
        f"much: here, counting alone makes {enough} difference."
    )


def _told_kind(kind: Kind) -> str:
    return f"{language(kind)} chat {MODES[kind.mode]}"


def conversation_reading(df: pd.DataFrame) -> Markdown:
    """Return how TTFT and the time per token go from the first turn to the last.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    data = chats.prepared(df)
    kinds = [kind for kind in chats.kinds(data) if kind.language]
    if not kinds:
        return markdown("No conversation was measured, so there is nothing to read here.")
    ways = []
    for kind in kinds:
        found = chats.by_turn(data, kind, "ttft_s")
        first, last = min(found, default=0), max(found, default=0)
        if first < last:
            ways.append(
                f"from {number(found[first].median * MS)} ms in turn {first} to "
                f"{number(found[last].median * MS)} ms in turn {last} "
                f"({language(kind)}, {MODES[kind.mode]})"
            )
    talks = _one_perlanguage(kinds)
    sentences = [f"TTFT goes {'; '.join(ways)}." if ways else "", _slope(data, talks)]
    return markdown(" ".join(filter(None, sentences)) or "One turn shows no course.")
