"""The tables on conversations: one speed counted three ways, and every turn."""

from __future__ import annotations

import pandas as pd

from llm_latency.answers.conversation import language
from llm_latency.records import frame as fr
from llm_latency.report.tables import CAPTION, short
from llm_latency.views import chats
from llm_latency.views.chats import SHORT, Kind
from llm_latency.words import MS, number, percent, several


def conversation_counts(df: pd.DataFrame) -> pd.DataFrame:
    """Return one row per kind of process: the same last turns, their speed counted three ways.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    data = chats.prepared(df)
    count = chats.turns(data)
    part = chats.late(data, count)
    tokens = fr.ok(part)["generated_tokens"].max()
    rows = []
    for kind in chats.kinds(data):
        mine = fr.ok(chats.of(part, kind))
        what = "short prompts" if kind.language is None else f"{language(kind)} chat"
        row = {
            "asked": what,
            "prompt cache": "kept" if kind.mode == "kept" else "none",
            "prompt, tokens": number(mine["prompt_tokens"].median(), 0),
            "TTFT / total": percent(chats.over(part, kind, "prefill_share").median),
        }
        for title, column in (
            (f"first {chats.quarter(tokens)} / their time, tok/s", "early_tps"),
            (f"{tokens:.0f} / total latency, tok/s", "count_tps"),
            ("after the first / decode, tok/s", "decode_tps"),
        ):
            row[title] = short(chats.over(part, kind, column))
        rows.append(row)
    table = pd.DataFrame(rows)
    table.attrs["caption"] = f"The last {several(chats.third(count), 'turn')}. {CAPTION}"
    return table


def conversation_turns(df: pd.DataFrame) -> pd.DataFrame:
    """Return one row per turn of each chat: its context, TTFT with and without cache, decode.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    data = chats.prepared(df)
    rows = []
    alone = chats.by_turn(data, SHORT, "token_s")
    for spoken in dict.fromkeys(kind.language for kind in chats.kinds(data) if kind.language):
        kept, cold = Kind(spoken, "kept"), Kind(spoken, "cold")
        of_chat = fr.ok(data[data["conversation"] == spoken])
        tokens = of_chat.groupby("repeat")["prompt_tokens"].median()
        new = fr.ok(chats.of(data, kept)).groupby("repeat")["evaluated_tokens"].median()
        waits = {kind: chats.by_turn(data, kind, "ttft_s") for kind in (cold, kept)}
        steps = {kind: chats.by_turn(data, kind, "token_s") for kind in (cold, kept)}
        for repeat, size in tokens.items():
            turn = int(repeat) + 1  # type: ignore[call-overload]
            row = {
                "chat": language(kept),
                "turn": f"{turn}",
                "prompt, tokens": number(size, 0),
                "new, tokens": number(new.get(repeat, float("nan")), 0),
            }
            for kind, word in ((cold, "cold"), (kept, "kept")):
                row[f"TTFT {word}, ms"] = short(waits[kind].get(turn, chats.NOTHING), MS)
            for kind, word in ((cold, "cold"), (kept, "kept")):
                row[f"token {word}, ms"] = short(steps[kind].get(turn, chats.NOTHING), MS)
            row["token after a short prompt, ms"] = short(alone.get(turn, chats.NOTHING), MS)
            rows.append(row)
    table = pd.DataFrame(rows)
    table.attrs["caption"] = f"New: evaluated where the rest is in the prompt cache. {CAPTION}"
    return table
