"""The answer on ``n_batch`` and ``n_ubatch``: where more stops helping, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pandas as pd
from IPython.display import Markdown

from llm_latency.answers import troubles
from llm_latency.answers.comparing import told
from llm_latency.answers.page import in_words, markdown
from llm_latency.records import frame as fr
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimates, per_process
from llm_latency.words import MIB, MS, enumerate_words, number, percent, several

Cell = tuple[int, int]
"""n_batch and n_ubatch."""
GUESS = {256: "4 GB", 512: "6 GB", 1024: "8 GB and more"}
"""The n_batch that was once guessed for each size of a card, before anything was measured."""


def batch_size(df: pd.DataFrame, info: Mapping[str, Any]) -> Markdown:
    """Return the smallest batches whose prefill is as quick as the quickest, and their cost.

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
    found = prefills(data)
    problems = [troubles.failed(data), troubles.disturbed(data)]
    if not found:
        if fr.ok(data).empty:
            return markdown(troubles.all_failed(data))
        return markdown("\n\n".join(filter(None, ["Prefill could not be timed.", *problems])))
    best = min(found, key=lambda cell: found[cell].median)
    others = {cell: against(df, best, cell) for cell in found if cell != best}
    parts = [
        f"{_quickest(data, found, best, info)} {_enough(data, best, others)}".rstrip(),
        _equal_ubatch(df, found),
        _stable(data),
        _guess(data),
        *problems,
    ]
    return markdown("\n\n".join(filter(None, parts)))


def prefills(data: pd.DataFrame) -> dict[Cell, Estimate]:
    """Return the prefill time of every cell in which it was measured."""
    found = estimates(data, "prefill_s", ["n_batch", "n_ubatch"])
    return {(int(b), int(u)): value for (b, u), value in sorted(found.items()) if value.n}


def against(df: pd.DataFrame, a: Cell, b: Cell, column: str = "prefill_s") -> Comparison:
    """Compare cell B with cell A, round by round."""
    pair = [samples(df, column, n_batch=batch, n_ubatch=ubatch) for batch, ubatch in (a, b)]
    return compare(pair[0], pair[1], noise_floor(df, column))


def sizes(data: pd.DataFrame, column: str) -> dict[Cell, float]:
    """Return the most MiB that a cell's processes took, of one kind of memory."""
    most = (fr.ok(data).groupby(["n_batch", "n_ubatch"])[column].max() * MIB).dropna()
    return _by_cell(most)


def _by_cell(values: pd.Series[float]) -> dict[Cell, float]:
    table = values.rename("value").reset_index()
    return {
        (int(b), int(u)): float(value)
        for b, u, value in table[["n_batch", "n_ubatch", "value"]].itertuples(index=False)
    }


def name(cell: Cell) -> str:
    """Return a cell in words, for Markdown."""
    return f"n&#95;batch {cell[0]}, n&#95;ubatch {cell[1]}"


def _quickest(
    data: pd.DataFrame, found: dict[Cell, Estimate], best: Cell, info: Mapping[str, Any]
) -> str:
    good = fr.ok(data)
    speed = estimates(data, "prefill_tps", ["n_batch", "n_ubatch"])[float(best[0]), float(best[1])]
    claim = f"has the quickest prefill of {len(found)} cells" if len(found) > 1 else "alone ran"
    return (
        f"With {troubles.model_name(info)}, n&#95;ctx {good['n_ctx'].max():.0f} and a prompt of "
        f"{good['prompt_tokens'].max():,.0f} tokens, {name(best)} {claim}: "
        f"{in_words(found[best], MS, 'ms')}, {number(speed.median)} tok/s."
    )


def _enough(data: pd.DataFrame, best: Cell, others: dict[Cell, Comparison]) -> str:
    """Name the smallest cell that is as quick as the quickest, and what it costs."""
    if not others:
        return "There is nothing to compare it with: give several sizes."
    compute = sizes(data, "compute_bytes")

    def size(cell: Cell) -> tuple[float, int, int]:
        return compute.get(cell, float("inf")), cell[1], cell[0]

    equal = [cell for cell, result in others.items() if result.verdict in ("same", "faster")]
    chosen = min([best, *equal], key=size)
    open_ = [
        cell
        for cell in sorted(others, key=size)
        if others[cell].verdict == "undecided" and size(cell) < size(chosen)
    ]
    if chosen != best:
        text = (
            f"**{name(chosen)} is enough**, the smallest of those whose prefill is not told from "
            f"it: it takes {told(others[chosen])}."
        )
    elif open_:
        text = f"Whether less is enough is **undecided**. **{name(best)}** is safe."
    elif smaller := [cell for cell in others if size(cell) < size(best)]:
        nearest = min(smaller, key=lambda cell: others[cell].ratio.median)
        text = (
            f"**Nothing smaller is enough**; the nearest, {name(nearest)}, takes "
            f"{told(others[nearest])}."
        )
    else:
        text = f"**{name(best)}** is also the smallest, and so it is enough. {_as_quick(others)}"
    if open_:
        nearest = min(open_, key=lambda cell: abs(others[cell].change))
        also = "also " if chosen != best else ""
        text += (
            f" Of {several(len(open_), 'smaller cell')} it is {also}not decided; the nearest, "
            f"{name(nearest)}, takes {told(others[nearest])}."
        )
    return f"{text} {_cost(data, chosen, compute)}"


def _as_quick(others: dict[Cell, Comparison]) -> str:
    """Say whether larger cells are slower than the smallest, or just no faster."""
    nearest = min(others, key=lambda cell: others[cell].ratio.median)
    if all(result.verdict == "slower" for result in others.values()):
        return (
            f"All others are slower; the nearest, {name(nearest)}, takes {told(others[nearest])}."
        )
    return f"Against it, the nearest of the larger, {name(nearest)}, takes {told(others[nearest])}."


def _cost(data: pd.DataFrame, chosen: Cell, compute: dict[Cell, float]) -> str:
    if chosen not in compute:
        return "What its compute buffers take is not known."
    least = min(compute, key=lambda cell: (compute[cell], cell))
    text = f"Its compute buffers take {number(compute[chosen])} MiB"
    if compute[least] < compute[chosen]:
        text += (
            f", {number(compute[chosen] - compute[least])} MiB more than the smallest "
            f"({name(least)}: {number(compute[least])} MiB)"
        )
    column, word, why = fr.memory_choice(data)
    whole = sizes(data, column)
    if chosen in whole:
        text += f"; the whole process takes {number(whole[chosen])} MiB of {word} ({why})"
        apart = whole[chosen] - min(whole.values())
        text += f", {number(apart)} MiB more than the least" if apart > 0 else ", the least"
    return f"{text}."


def _steps(df: pd.DataFrame, found: dict[Cell, Estimate]) -> str:
    """Tell what each step of n_ubatch brings, at the n_batch that allows most of them."""
    batches = {b for b, _ in found}
    batch = max(batches, key=lambda b: (sum(1 for cell in found if cell[0] == b), b))
    steps = sorted(u for b, u in found if b == batch)
    if len(steps) < 2:
        return ""
    lines = [
        f"- from {low} to {high}: {told(against(df, (batch, low), (batch, high)))}"
        for low, high in pairwise(steps)
    ]
    return "\n".join([f"Prefill by steps of n&#95;ubatch, with n&#95;batch {batch}:", "", *lines])


def _equal_ubatch(df: pd.DataFrame, found: dict[Cell, Estimate]) -> str:
    """Tell what n_batch alone changes."""
    lines = []
    for ubatch in sorted({u for _, u in found}):
        batches = sorted(b for b, u in found if u == ubatch)
        if len(batches) > 1:
            result = against(df, (batches[0], ubatch), (batches[-1], ubatch))
            lines.append(
                f"- n&#95;ubatch {ubatch}: n&#95;batch {batches[-1]} against {batches[0]}: "
                f"{told(result)}"
            )
    if not lines:
        return ""
    return "\n".join(["Prefill by n&#95;batch alone, at equal n&#95;ubatch:", "", *lines])


def _decode(df: pd.DataFrame, found: dict[Cell, Estimate]) -> str:
    low, high = (pick(found, key=lambda cell: (cell[1], cell[0])) for pick in (min, max))
    if low == high or samples(df, "decode_s").eq(0).any():
        return ""
    result = against(df, low, high, "decode_s")
    return f"Decode with {name(high)} against {name(low)}: {told(result)}."


def spreads(data: pd.DataFrame) -> dict[Cell, float]:
    """Return how far the processes of a cell are apart in prefill, relative to their median."""
    times = per_process(data, "prefill_s", ["n_batch", "n_ubatch"]).dropna()
    groups = times.groupby(["n_batch", "n_ubatch"])["prefill_s"]
    wide = ((groups.max() - groups.min()) / groups.median())[groups.count() > 1]
    return _by_cell(wide)


def _stable(data: pd.DataFrame) -> str:
    each = fr.processes(data)
    good = int((each["status"] == "ok").sum())
    text = f"{good:,} of {several(len(each), 'process', 'processes')} ended ok"
    wide = spreads(data)
    if not wide:
        return f"{text}; one process per cell shows no spread."
    worst = max(wide, key=lambda cell: wide[cell])
    return (
        f"{text}; in prefill the processes of one cell lie up to {percent(wide[worst])} apart "
        f"({name(worst)})."
    )


def _guess(data: pd.DataFrame) -> str:
    """Put what was once guessed beside the compute buffers that were measured."""
    by_ubatch: dict[int, float] = {}
    for (_, ubatch), value in sizes(data, "compute_bytes").items():
        by_ubatch[ubatch] = max(value, by_ubatch.get(ubatch, 0.0))
    known = [
        f"{number(by_ubatch[size])} MiB at n&#95;ubatch {size}"
        for size in GUESS
        if size in by_ubatch
    ]
    if not known:
        return ""
    guess = enumerate_words([f"{size} for {card}" for size, card in GUESS.items()], 3)
    good = fr.ok(data)
    on_gpu = bool((good["effective_n_gpu_layers"] > 0).any())
    where = "" if on_gpu else " No GPU held a layer here: of cards this says nothing more."
    return (
        f"Beside an old guess of n&#95;batch by the card's memory ({guess}): what was measured "
        f"here of compute buffers, with n&#95;ctx {good['n_ctx'].max():.0f}, is "
        f"{enumerate_words(known, 3)}.{where}"
    )


def batch_size_reading(df: pd.DataFrame) -> Markdown:
    """Return what each step of ``n_ubatch`` brings, and whether decode cares.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    data = fr.prepare(df)
    found = prefills(data) if len(data) else {}
    parts = [_steps(df, found), _decode(df, found)] if found else []
    text = "\n\n".join(filter(None, parts))
    return markdown(text or "No two sizes were measured, so there is nothing to read here.")
