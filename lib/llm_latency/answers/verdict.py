"""The answer to a sweep: which settings answer soonest, at what cost, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from IPython.display import Markdown

from llm_latency.answers import troubles
from llm_latency.answers.page import in_words, markdown
from llm_latency.records import frame as fr
from llm_latency.stats.compare import SMALLEST_EFFECT, Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import FEWEST, Estimate, estimates
from llm_latency.words import (
    MIB,
    MS,
    enumerate_words,
    escape,
    number,
    percent,
    several,
    span,
)


def sweep(df: pd.DataFrame, info: Mapping[str, Any]) -> Markdown:
    """Return the answer: which settings answer soonest, at what cost, and how sure that is.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    info
        The content of ``run.json``.
    """
    data = fr.prepare(df)
    longest = fr.longest_prompt(data)
    if data.empty:
        return markdown(troubles.NOTHING)
    if longest is None:
        return markdown(troubles.all_failed(data))
    part = data[data["prompt_tokens"] == longest]
    found = {k: v for k, v in estimates(part, "ttft_s", ["cell"]).items() if v.n}
    best, slowest = (pick(found, key=lambda cell: found[cell].median) for pick in (min, max))
    against_best = _against(df, part, found, best)
    name = str((info.get("model") or {}).get("name") or "")
    sentences = [
        _soonest(part, found, best, longest, name),
        _verdict(part, against_best),
        _cost(data, part, best),
        _slowest(found, against_best, best, slowest),
    ]
    asked = data["prompt_tokens"].max()
    if asked > longest:
        sentences.append(f"At the longest prompt, {asked:,.0f} tokens, nothing could be measured.")
    warnings = [troubles.failed(data), troubles.disturbed(data), _useless_batch(data)]
    paragraphs = [" ".join(filter(None, sentences)), *filter(None, warnings)]
    return markdown("\n\n".join(paragraphs))


def _soonest(
    part: pd.DataFrame, found: dict[str, Estimate], best: str, longest: float, model: str
) -> str:
    total = estimates(part, "total_s", ["cell"])[best]
    tokens = fr.ok(part)["generated_tokens"]
    low, high = int(tokens.min()), int(tokens.max())
    length = several(high, "token") if low == high else f"{low:,}–{high:,} tokens"
    claim = "is the only cell that was measured"
    if len(found) > 1:
        claim = f"has the lowest median TTFT of {len(found)} measured cells"
    start = f"With {escape(model)} and a" if model else "With a"
    return (
        f"{start} prompt of {longest:,.0f} tokens, **{escape(best)}** {claim}: "
        f"TTFT {bold(found[best])}; {length} generated after {bold(total)}."
    )


def _against(
    df: pd.DataFrame, part: pd.DataFrame, found: dict[str, Estimate], best: str
) -> dict[str, Comparison]:
    """Compare every other cell with the best, round by round."""
    ids = fr.ok(part).drop_duplicates("cell").set_index("cell")["cell_id"]
    floor = noise_floor(df, "ttft_s")
    times = {cell: samples(df, "ttft_s", cell_id=ids[cell]) for cell in found}
    return {cell: compare(times[best], times[cell], floor) for cell in found if cell != best}


def _verdict(part: pd.DataFrame, against_best: dict[str, Comparison]) -> str:
    """Say whether the best cell is the fastest, and what that rests on."""
    if not against_best:
        return ""
    results = list(against_best.values())
    floor = results[0].noise_floor
    if all(result.verdict == "slower" for result in results):
        nearest = min(results, key=lambda result: result.ratio.median).change
        return (
            f"It is the fastest, **decided** round by round: every other cell takes at least "
            f"{percent(nearest)} longer, while two equal cells differ by {percent(floor or 0)}."
        )
    fewest = min(result.ratio.n for result in results)
    if fewest < FEWEST:
        why = f"{several(fewest, 'paired round')}; set rounds={FEWEST} or more"
    elif floor is None:
        why = "no cell was measured twice, so nobody knows how much equal cells differ"
    else:
        draw = [cell for cell, result in against_best.items() if result.verdict != "slower"]
        equal = [cell for cell in draw if against_best[cell].verdict == "same"]
        cells = part[part["cell"].isin(against_best)]
        if draw == equal:
            where = escape(fr.describe(cells, equal)).replace("all cells", "all the others")
            return (
                f"It is **no faster than** {where}: round by round these take the same time "
                f"within {percent(SMALLEST_EFFECT)}."
            )
        why = (
            f"the rounds do not tell it from {escape(fr.describe(cells, draw))} (two equal "
            f"cells differ by {percent(floor)}); more rounds, or a quieter machine, might"
        )
    return f"Whether it is the fastest is **undecided**: {why}."


def bold(value: Estimate) -> str:
    """Return an estimate in ms with its median in bold."""
    middle, rest = in_words(value, MS, "ms").split(" (", 1)
    return f"**{middle}** ({rest}"


def _cost(data: pd.DataFrame, part: pd.DataFrame, best: str) -> str:
    column, word, why = fr.memory_choice(data)
    sizes = fr.ok(part).groupby("cell")[column].max().dropna() * MIB
    if best not in sizes:
        return "What it takes in memory could not be measured."
    text = f"It takes **{number(sizes[best])} MiB of {word}** ({why})"
    if len(sizes) > 1:
        text += f"; over all cells {span(sizes.min(), sizes.max(), 'MiB')}"
    return f"{text}."


def _slowest(
    found: dict[str, Estimate], against_best: dict[str, Comparison], best: str, slowest: str
) -> str:
    if best == slowest:
        return ""
    longer = found[slowest].median / found[best].median - 1
    text = (
        f"The slowest cell, {escape(slowest)}, takes {percent(longer)} longer to its first token: "
        f"{in_words(found[slowest], MS, 'ms')}"
    )
    if against_best[slowest].verdict != "slower":
        text += ", a difference that these measurements cannot tell from none"
    return f"{text}."


def _useless_batch(data: pd.DataFrame) -> str:
    """Say that n_batch above n_ubatch cannot matter, and whether the measurements agree."""
    good = fr.ok(data)
    above = good[good["effective_n_batch"] > good["effective_n_ubatch"]]
    if above.empty:
        return ""
    sizes = enumerate_words([f"{v:.0f}" for v in sorted(above["effective_n_ubatch"].unique())], 9)
    used = enumerate_words([f"{v:.0f}" for v in sorted(above["effective_n_batch"].unique())], 9)
    text = (
        f"**n&#95;batch above n&#95;ubatch ({sizes}) cannot matter:** llama.cpp computes at most "
        f"n&#95;ubatch tokens at once. This concerns n&#95;batch {used}"
    )
    twins = good[good["effective_n_batch"] >= good["effective_n_ubatch"]]
    same = [key for key in fr.keys(data) if key not in ("n_batch", "n_ubatch")]
    same += ["effective_n_ubatch", "prompt_tokens"]
    found = estimates(twins, "ttft_s", [*same, "cell"])
    groups: dict[tuple[Any, ...], list[Estimate]] = {}
    for key, value in found.items():
        groups.setdefault(key[:-1], []).append(value)
    pairs = [group for group in groups.values() if len(group) > 1]
    if not pairs:
        return f"{text}; raise n&#95;ubatch with it."
    apart = max(max(v.median for v in g) / min(v.median for v in g) - 1 for g in pairs)
    told = any(a.below(b) for group in pairs for a in group for b in group)
    if told:
        return (
            f"{text}, yet TTFT differs by {percent(apart)} between cells that differ in nothing "
            "else: something disturbed the measurements; measure again."
        )
    return f"{text}; TTFT differs by up to {percent(apart)}, which is not told from none."
