"""The answer on ``n_ctx``: which is enough for a conversation, and what more of it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from IPython.display import Markdown

from llm_latency.answers import troubles
from llm_latency.answers.comparing import told
from llm_latency.answers.page import markdown
from llm_latency.records import frame as fr
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.views.contexts import costs, grid_rows, needs, with_costs
from llm_latency.words import MIB, enumerate_words, escape, number, several, span


def context_size(df: pd.DataFrame, info: Mapping[str, Any]) -> Markdown:
    """Return which measured ``n_ctx`` holds each conversation, and what more of it costs.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    info
        The content of ``run.json``.
    """
    data = with_costs(df)
    if data.empty:
        return markdown(troubles.NOTHING)
    if fr.ok(data).empty:
        return markdown(troubles.all_failed(data))
    every = fr.prepare(df)
    parts = [
        _conversations(df, data, info),
        _same_depth(df, data),
        _beyond_training(data, info),
        troubles.failed(every),
        troubles.disturbed(every),
    ]
    return markdown("\n\n".join(filter(None, parts)))


def _conversations(df: pd.DataFrame, data: pd.DataFrame, info: Mapping[str, Any]) -> str:
    found = needs(df, info)
    model = troubles.model_name(info)
    if not found:
        return (
            f"How many tokens a conversation with {model} needs is **not known**: the one that "
            "was to be counted did not run."
        )
    memory = costs(data)
    _, word, why = fr.memory_choice(data)
    lines = [
        f"With {model}, these n&#95;ctx are enough for a conversation in French "
        f"({word} of the whole process: {why}):"
    ]
    for need in found:
        about = "" if need.counted else "about "
        text = (
            f"- **{several(need.turns, 'turn')}** need {about}{need.tokens:,} tokens "
            f"({need.prompt:,} of prompt, {need.answer:,} left for the answer): "
        )
        fits = [size for size in sorted(memory) if size >= need.tokens]
        lines.append(text + (_held(fits[0], memory, word) if fits else _not_held(need.tokens)))
    return "\n".join([lines[0], "", *lines[1:]])


def _not_held(tokens: int) -> str:
    least = -(-tokens // 256) * 256
    return (
        f"**no n&#95;ctx that ran holds them**; measure again with n&#95;ctx {least} or more, or "
        "drop the oldest turns."
    )


def _held(size: int, memory: dict[int, float], word: str) -> str:
    text = f"**n&#95;ctx {size}** is the smallest measured that holds them"
    if memory[size] != memory[size]:
        return f"{text}; its {word} is not known."
    text += f", in {number(memory[size])} MiB of {word}"
    sizes = sorted(memory)
    place = sizes.index(size)
    beside = []
    for other, name in ((place - 1, "smaller"), (place + 1, "larger")):
        if 0 <= other < len(sizes):
            apart = memory[sizes[other]] - memory[size]
            more = "more" if apart >= 0 else "less"
            beside.append(f"the next {name}, {sizes[other]}, takes {number(abs(apart))} MiB {more}")
    return f"{text}; {', '.join(beside)}." if beside else f"{text}."


def _compared(df: pd.DataFrame, a: tuple[float, float], b: tuple[float, float]) -> Comparison:
    """Compare the time per token of two cells, each given as n_ctx and tokens of prompt."""
    grid = grid_rows(df)
    pair = [samples(grid, "decode_s", n_ctx=c, prompt_tokens=p) for c, p in (a, b)]
    return compare(pair[0], pair[1], noise_floor(df, "decode_s"))


def _same_depth(df: pd.DataFrame, data: pd.DataFrame) -> str:
    """Say whether a larger n_ctx is slower where both hold the same number of tokens."""
    good = fr.ok(data).dropna(subset=["token_s"])
    lines, verdicts = [], []
    for depth, part in good.groupby("prompt_tokens"):
        sizes = sorted(part["n_ctx"].unique())
        if len(sizes) < 2:
            continue
        found = _compared(df, (sizes[0], float(depth)), (sizes[-1], float(depth)))  # type: ignore[arg-type]
        verdicts.append(found.verdict)
        lines.append(
            f"- after {depth:,.0f} tokens, a token with n&#95;ctx {sizes[-1]:.0f} against "
            f"{sizes[0]:.0f}: {told(found)}"
        )
    if not lines:
        return (
            "Whether a larger n&#95;ctx is slower at the same depth was not measured: no two "
            "n&#95;ctx held the same number of tokens."
        )
    words = {
        "slower": "takes longer per token",
        "faster": "takes less time per token",
        "same": "takes the same time per token",
        "undecided": "is not told from a smaller one (**undecided**)",
    }
    tally = [
        f"{words[verdict]} at {several(verdicts.count(verdict), 'depth')}"
        for verdict in ("slower", "faster", "same", "undecided")
        if verdict in verdicts
    ]
    head = f"With the same tokens in it, a larger n&#95;ctx {enumerate_words(tally, 4)}:"
    return "\n".join([head, "", *lines])


def _depth(df: pd.DataFrame, data: pd.DataFrame) -> str:
    """Say what a fuller context costs per token, in the largest n_ctx where two fills ran."""
    good = fr.ok(data).dropna(subset=["token_s"])
    for size in sorted(good["n_ctx"].unique(), reverse=True):
        depths = sorted(good.loc[good["n_ctx"] == size, "prompt_tokens"].unique())
        if len(depths) > 1:
            found = _compared(df, (size, depths[0]), (size, depths[-1]))
            return (
                f"With n&#95;ctx {size:.0f}, a token after {depths[-1]:,.0f} tokens against one "
                f"after {depths[0]:,.0f}: {told(found)}."
            )
    return "What a fuller context costs per token was not measured: each n&#95;ctx ran at one fill."


def _first_generation(data: pd.DataFrame) -> str:
    """Say what the first generation adds to the memory that loading took."""
    good = fr.ok(data).dropna(subset=["growth_bytes"])
    if good.empty:
        return "What the first generation adds to resident memory could not be measured."
    found = good.groupby(["n_ctx", "prompt_tokens"])["growth_bytes"].max() * MIB
    table = found.rename("mib").reset_index().sort_values("mib")
    text = (
        f"Beyond what loading took, the first generation adds "
        f"{span(found.min(), found.max(), 'MiB')} of resident memory"
    )
    if len(found) > 1:
        ends = [
            f"{row['prompt_tokens']:,.0f} tokens in n&#95;ctx {row['n_ctx']:.0f}"
            for _, row in table.iloc[[0, -1]].iterrows()
        ]
        text += f": least with {ends[0]}, most with {ends[1]}"
    cache = fr.ok(data).groupby("n_ctx")["kv_bytes"].max().dropna() * MIB
    if len(cache):
        text += (
            f". The KV cache that llama.cpp allocated for it while loading takes "
            f"{span(cache.min(), cache.max(), 'MiB')}"
        )
    return f"{text}."


def _beyond_training(data: pd.DataFrame, info: Mapping[str, Any]) -> str:
    """Say which n_ctx the model was not trained for, and what llama.cpp says of that."""
    trained = (info.get("model") or {}).get("n_ctx_train")
    if not trained:
        return ""
    beyond = sorted(size for size in data["n_ctx"].dropna().unique() if size > trained)
    if not beyond:
        return ""
    said = {
        part.strip()
        for text in data.loc[data["n_ctx"].isin(beyond), "warnings"]
        for part in str(text).split(";")
        if "train" in part
    }
    sizes = enumerate_words([f"{size:.0f}" for size in beyond], 9)
    text = (
        f"**n&#95;ctx {sizes}** {'is' if len(beyond) == 1 else 'are'} beyond the {trained:,} "
        "tokens that the model was trained with: what it says there may lose its sense."
    )
    quoted = enumerate_words([f"“{escape(one)}”" for one in sorted(said)], 2) if said else ""
    return f"{text} llama.cpp warns: {quoted}." if quoted else text


def context_size_reading(df: pd.DataFrame) -> Markdown:
    """Return what the first generation adds to the memory, and what a fuller context costs.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    data = with_costs(df)
    if fr.ok(data).empty:
        return markdown("Nothing was measured, so there is nothing to read here.")
    return markdown(f"{_first_generation(data)} {_depth(df, data)}")
