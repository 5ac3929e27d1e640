"""One or two sentences beside each figure, computed from what it shows."""

from __future__ import annotations

import numpy as np
import pandas as pd
from IPython.display import Markdown

from llm_latency.answers.page import in_words, markdown
from llm_latency.records import frame as fr
from llm_latency.stats.estimate import estimates, per_process
from llm_latency.words import MIB, MS, escape, number, percent, several, span

STRAIGHT = 0.15
"""Relative change of a slope up to which a line is called straight."""


def latency_by_tokens(df: pd.DataFrame) -> Markdown:
    """Return what a further prompt token and a further generated token cost.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    data = fr.prepare(df)
    longest = fr.longest_prompt(data)
    if longest is None:
        return markdown("Nothing was measured, so there is nothing to read here.")
    return markdown(f"{_prompt_slope(data)} {_token_cost(data, longest)}")


def _prompt_slope(data: pd.DataFrame) -> str:
    samples = per_process(data, "ttft_s", ["cell", "prompt_tokens"]).dropna()
    medians = samples.groupby(["cell", "prompt_tokens"])["ttft_s"].median().unstack()
    medians = medians.dropna()
    lengths = medians.columns.to_numpy(dtype=float)
    if len(lengths) < 2 or medians.empty:
        return (
            "TTFT is known at one prompt length only, which says nothing of how it grows; give "
            "prompt&#95;tokens several lengths."
        )
    slopes = np.polyfit(lengths, medians.to_numpy().T, 1)[0] * 100 * MS
    falling = int((slopes <= 0).sum())
    cells = several(len(slopes), "cell")
    if falling:
        return f"In {falling} of {cells} TTFT does not grow with the prompt: noise outweighs it."
    over = f" ({span(slopes.min(), slopes.max(), 'ms')} over {cells})" if len(slopes) > 1 else ""
    text = f"Each further 100 prompt tokens add {number(np.median(slopes))} ms to TTFT{over}"
    if len(lengths) > 2:
        steps = np.diff(medians.to_numpy()) / np.diff(lengths)
        change = steps[:, -1] / steps[:, 0] - 1
        # Said only where every cell says it: a bend in some is as likely noise.
        if (np.abs(change) <= STRAIGHT).all():
            text += f", along a straight line within {100 * STRAIGHT:.0f} %"
        elif (change > STRAIGHT).all() or (change < -STRAIGHT).all():
            bend = float(np.median(change))
            word = "more" if bend > 0 else "less"
            text += (
                f", and not along a straight line: the last ones {percent(abs(bend))} {word} than "
                "the first"
            )
    return f"{text}."


def _token_cost(data: pd.DataFrame, longest: float) -> str:
    part = data[data["prompt_tokens"] == longest]
    found = [v.median for v in estimates(part, "decode_tps", ["cell"]).values() if v.n]
    if not found:
        return "Only one token was generated, which says nothing of decode."
    costs = [MS / speed for speed in found]
    cells = several(len(costs), "cell")
    over = f" ({span(min(costs), max(costs), 'ms')} over {cells})" if len(costs) > 1 else ""
    return (
        f"After a prompt of {longest:,.0f} tokens each further token takes "
        f"{number(float(np.median(costs)))} ms{over}, that is "
        f"{number(MS / float(np.median(costs)))} tok/s."
    )


def speed_heatmap(df: pd.DataFrame, metric: fr.Metric = "decode_tps") -> Markdown:
    """Return how far the cells' speeds are apart, against processes of one and the same cell.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    metric
        ``"decode_tps"`` or ``"prefill_tps"``.
    """
    data = fr.prepare(df)
    part = data[data["prompt_tokens"] == fr.longest_prompt(data)]
    found = [value for value in estimates(part, metric, ["cell"]).values() if value.n]
    what = {"decode_tps": "Decode", "prefill_tps": "Prefill"}[metric]
    if not found:
        return markdown(f"{what} speed could not be measured in any cell.")
    if len(found) == 1:
        return markdown(f"{what} runs at {in_words(found[0], 1, 'tok/s')} in the only cell.")
    medians = [value.median for value in found]
    apart = (max(medians) - min(medians)) / float(np.median(medians))
    samples = per_process(part, metric, ["cell"]).dropna().groupby("cell")[metric]
    inside = ((samples.max() - samples.min()) / samples.median())[samples.count() > 1]
    text = (
        f"{what} runs at {span(min(medians), max(medians), 'tok/s')}: the slowest and the fastest "
        f"of {several(len(found), 'cell')} are {percent(apart)} apart"
    )
    if inside.empty:
        return markdown(f"{text}; one process per cell cannot tell this from noise.")
    worst = float(inside.max())
    if apart <= worst:
        return markdown(
            f"{text}, no more than processes of one and the same cell (up to {percent(worst)}): "
            "no reason to choose by it."
        )
    return markdown(
        f"{text}, more than processes of one and the same cell (up to {percent(worst)})."
    )


def latency_by_memory(df: pd.DataFrame) -> Markdown:
    """Return what the fastest cell takes beyond the one that takes least memory.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    data = fr.prepare(df)
    column, word, _ = fr.memory_choice(data)
    part = data[data["prompt_tokens"] == fr.longest_prompt(data)]
    total = {k: v for k, v in estimates(part, "total_s", ["cell"]).items() if v.n}
    sizes = (fr.ok(part).groupby("cell")[column].max().dropna() * MIB).to_dict()
    both = [cell for cell in total if cell in sizes]
    if len(both) < 2:
        return markdown("Fewer than two cells were measured, so there is nothing to weigh.")
    fast = min(both, key=lambda cell: total[cell].median)
    small = min(both, key=lambda cell: (sizes[cell], total[cell].median))
    if fast == small:
        return markdown(
            f"**{escape(fast)}** is at once the fastest to its last token and takes the "
            f"least {word}, {number(sizes[fast])} MiB."
        )
    gain = 1 - total[fast].median / total[small].median
    sure = "" if total[fast].below(total[small]) else ", which is not told from noise"
    return markdown(
        f"The least {word}, {number(sizes[small])} MiB, is taken by {escape(small)}. "
        f"{number(sizes[fast] - sizes[small])} MiB more, with {escape(fast)}, bring the last token "
        f"{percent(gain)} sooner{sure}."
    )


def memory_by_n_ctx(df: pd.DataFrame) -> Markdown:
    """Return what the context costs in KV cache, and how far the sum is from what was measured.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    good = fr.ok(fr.prepare(df))
    known = good.dropna(subset=["kv_bytes", "effective_n_ctx"])
    known = known[known["effective_n_ctx"] > 0]
    if known.empty:
        return markdown("The size of the KV cache is not known in any cell.")
    per_token = known["kv_bytes"] / known["effective_n_ctx"]
    low, high = per_token.min() * 1000 * MIB, per_token.max() * 1000 * MIB
    contexts = known["effective_n_ctx"]
    reach = (
        f"from {contexts.min():,.0f} to {contexts.max():,.0f} tokens"
        if contexts.nunique() > 1
        else f"at {contexts.max():,.0f} tokens"
    )
    sentences = [
        f"The KV cache takes {number(low)} MiB per 1,000 tokens of context, in proportion {reach}."
        if high <= low * 1.01 and contexts.nunique() > 1
        else f"The KV cache takes {span(low, high, 'MiB')} per 1,000 tokens of context, {reach}."
    ]
    compute = good["compute_bytes"].dropna() * MIB
    if len(compute):
        sentences.append(f"Compute buffers take {span(compute.min(), compute.max(), 'MiB')}.")
    parts = ["weights_bytes", "kv_bytes", "compute_bytes", "output_bytes"]
    beyond = (good["rss_peak_bytes"] - good[parts].sum(axis=1)).dropna() * MIB
    if len(beyond):
        low, high = float(beyond.min()), float(beyond.max())
        if low >= 0:
            text = f"{span(low, high, 'MiB')} above"
        elif high <= 0:
            text = f"{span(-high, -low, 'MiB')} below"
        else:
            text = f"between {number(-low)} MiB below and {number(high)} MiB above"
        sentences.append(f"Resident memory at its peak is {text} the sum of the parts.")
    return markdown(" ".join(sentences))
