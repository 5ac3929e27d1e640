"""Which ``n_batch`` and ``n_ubatch``: how fast a long prompt is read, and in what memory.

Prefill evaluates many tokens per pass over the weights, so it is bound by arithmetic and grows
faster with the number of tokens that share a pass: ``n_ubatch``. ``n_batch`` is only how many are
handed over in one call; above ``n_ubatch`` it changes next to nothing. What more tokens at once
cost is the compute buffer, whose size grows with ``n_ubatch``. Decode evaluates one token per
pass and does not care.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.own_prompt import PROMPT, PROMPT_FILE
from llm_latency.plan.parameters import check_room
from llm_latency.plan.spec import Plan
from llm_latency.records import frame as fr
from llm_latency.records.machines import on_one
from llm_latency.report import figure as fig
from llm_latency.report import layout, phrases, style, tables
from llm_latency.report.page import Answer, Run, code, model_name, no_answer
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimates, per_process
from llm_latency.words import MIB, number, percent

BY = ["n_batch", "n_ubatch"]
Cell = tuple[int, int]
"""n_batch and n_ubatch."""


def plan(
    model: str = "synthetic:tiny",
    n_batch: Grid = (256, 512, 1024),
    n_ubatch: Annotated[Grid, "most tokens computed at once; above n_batch: left out"] = (
        *(64, 256, 512, 1024),
    ),
    prompt_tokens: Annotated[int, "length of the prompt; no batch above it matters"] = 1024,
    prompt: Annotated[str, PROMPT] = "",
    prompt_file: Annotated[str, PROMPT_FILE] = "",
    max_tokens: int = 16,
    rounds: int = 6,
    **options: Any,
) -> Plan:
    """Plan every pair of sizes that llama.cpp would not cut down."""
    request = Request("batch_size", locals(), names.check)
    common = {"max_tokens": request.one("max_tokens"), "repeats": 0, "page_cache": "resident"}
    work = request.asked() | common
    batches, ubatches = request.many("n_batch"), request.many("n_ubatch")
    if 0 in ubatches or None in ubatches:
        raise ParameterError(
            "n_ubatch=0, the engine's own, is refused here: give sizes to compare, such as "
            "n_ubatch=[128, 512]."
        )
    # Each size by itself first: what is wrong with one is refused before any are compared.
    for batch in batches:
        check_room(request.cell(n_batch=batch, n_ubatch=1, **work))
    for ubatch in ubatches:
        request.cell(n_batch=1, n_ubatch=ubatch, **work)
    pairs = [(batch, ubatch) for batch in batches for ubatch in ubatches if ubatch <= batch]
    if not pairs:
        raise ParameterError(
            f"n_ubatch={ubatches!r}: none is within n_batch={batches!r}, and llama.cpp would cut "
            f"each down to it; give an n_ubatch of {max(batches)} or less."
        )
    return request.plan([request.cell(n_batch=a, n_ubatch=b, **work) for a, b in pairs])


class View:
    """The pairs of sizes of a run, and how each compares with the quickest.

    Attributes
    ----------
    prefill : dict
        By cell: the time to read the prompt.
    best : Cell or None
        The cell whose prefill has the lowest median.
    """

    def __init__(self, run: Run) -> None:
        run = on_one(run)
        self.info, self.rows = run.info, run.frame()
        self.data = fr.by_cell(self.rows)
        self.prefill = self.estimates("prefill_s")
        self.best = min(self.prefill, key=lambda c: self.prefill[c].median, default=None)
        self.compute = self.most("compute_bytes")

    def estimates(self, column: str) -> dict[Cell, Estimate]:
        """Return the estimate of every cell in which a column was measured."""
        return {c: value for c, value in estimates(self.data, column, BY).items() if value.n}

    def most(self, column: str) -> dict[Cell, float]:
        """Return the most bytes that a cell's processes took."""
        return _by_cell(fr.ok(self.data).groupby(BY)[column].max().dropna())

    def compare(self, a: Cell, b: Cell, column: str = "prefill_s") -> Comparison:
        """Compare cell B with cell A, round by round."""
        pair = [samples(self.rows, column, n_batch=c[0], n_ubatch=c[1]) for c in (a, b)]
        return compare(pair[0], pair[1], noise_floor(self.rows, column))

    def against_best(self) -> dict[Cell, Comparison]:
        """Return how every other cell compares with the quickest."""
        best = self.best
        return {c: self.compare(best, c) for c in self.prefill if c != best} if best else {}

    def size(self, cell: Cell) -> tuple[float, int, int]:
        """Return what orders cells by what they take."""
        return self.compute.get(cell, float("inf")), cell[1], cell[0]

    def spread(self) -> dict[Cell, float]:
        """Return how far a cell's processes are apart in prefill, relative to their median."""
        groups = per_process(self.data, "prefill_s", BY).dropna().groupby(BY)["prefill_s"]
        return _by_cell((groups.max() - groups.min()) / groups.median())


def _by_cell(values: pd.Series[float]) -> dict[Cell, float]:
    cells: dict[Any, float] = values.to_dict()
    return cells


def enough(view: View) -> tuple[Cell | None, list[Cell]]:
    """Return the smallest cell that is as quick as the quickest, and those still undecided."""
    if view.best is None:
        return None, []
    against = view.against_best()
    equal = [cell for cell, found in against.items() if found.verdict in ("same", "faster")]
    chosen = min([view.best, *equal], key=view.size)
    undecided = [
        cell
        for cell, found in against.items()
        if found.verdict == "undecided" and view.size(cell) < view.size(chosen)
    ]
    return chosen, sorted(undecided, key=view.size)


def deciding(view: View) -> list[Comparison]:
    """Return the comparisons on which the answer rests."""
    return list(view.against_best().values())


def answer(view: View) -> Answer:
    """Answer which sizes are enough for the quickest prefill, and what they cost."""
    if nothing := no_answer(view.data):
        return nothing
    if view.best is None:
        return Answer("prefill could not be timed", "none", "", ("Prefill could not be timed.",))
    against = view.against_best()
    chosen, undecided = enough(view)
    assert chosen is not None
    good = fr.ok(view.data)
    speed = view.estimates("prefill_tps")[view.best]
    sentences = [
        f"With {model_name(view.info)} and a prompt of {good['prompt_tokens'].max():,.0f} tokens, "
        f"{_name(view.best)} has the quickest prefill of {len(view.prefill)} measured cells: "
        f"{phrases.estimate(view.prefill[view.best], 'ms')}, {phrases.median(speed, 'tok/s')}."
    ]
    verdict, line = "measured", f"{_name(chosen)}: {phrases.median(speed, 'tok/s')}"
    if against:
        verdict, sentence = _verdict(view, chosen, undecided, against)
        sentences.append(sentence)
        line += {"undecided": ", whether less is enough is open", "same": " is enough"}.get(
            verdict, ", nothing smaller is enough"
        )
    sentences += [_cost(view, chosen), phrases.noise(list(against.values()))]
    return Answer(
        line, verdict, phrases.sureness(list(against.values())), tuple(filter(None, sentences))
    )


def _verdict(
    view: View, chosen: Cell, undecided: list[Cell], against: dict[Cell, Comparison]
) -> tuple[str, str]:
    """Say whether less than the quickest is enough."""
    if undecided:
        nearest = min(undecided, key=lambda cell: abs(against[cell].change))
        return "undecided", (
            f"Whether less than **{_name(chosen)}** is enough is {phrases.UNDECIDED}; the nearest "
            f"smaller, {_name(nearest)}, takes {phrases.difference(against[nearest])}."
        )
    if chosen != view.best:
        return "same", (
            f"**{_name(chosen)} is enough**, the smallest that is not told from it: it takes "
            f"{phrases.difference(against[chosen])}."
        )
    smaller = [cell for cell in against if view.size(cell) < view.size(chosen)]
    nearest = min(smaller or against, key=lambda cell: against[cell].ratio.median)
    claim = "Nothing smaller is enough" if smaller else "It is also the smallest, and so enough"
    return against[nearest].verdict, (
        f"**{claim}**; the nearest, {_name(nearest)}, takes {phrases.difference(against[nearest])}."
    )


def _cost(view: View, chosen: Cell) -> str:
    """Say what the chosen cell's compute buffers take beyond the smallest."""
    if chosen not in view.compute:
        return "What its compute buffers take is not known."
    least = min(view.compute, key=view.size)
    more = view.compute[chosen] - view.compute[least]
    beyond = f", {phrases.amount(more, 'MiB')} more than {_name(least)}" if more > 0 else ""
    return f"Its compute buffers take {phrases.amount(view.compute[chosen], 'MiB')}{beyond}."


def _name(cell: Cell) -> str:
    return f"{code('n_batch')} {cell[0]:.0f}, {code('n_ubatch')} {cell[1]:.0f}"


def table(view: View) -> pd.DataFrame:
    """Return one row per cell: speeds, spread, memory, and what each step brings."""
    against, spread = view.against_best(), view.spread()
    column, word, _ = fr.memory_choice(view.data)
    whole = view.most(column)
    prefill, speed, decode = (
        estimates(view.data, name, BY) for name in ("prefill_s", "prefill_tps", "decode_tps")
    )
    rows = []
    for cell in sorted(prefill):
        part = view.data[(view.data["n_batch"] == cell[0]) & (view.data["n_ubatch"] == cell[1])]
        smaller = [c for c in view.prefill if c[0] == cell[0] and c[1] < cell[1]]
        fewer = [c for c in view.prefill if c[1] == cell[1] and c[0] < cell[0]]
        steps = [
            phrases.change(view.compare(max(near), cell)) if near and cell in view.prefill else "–"
            for near in (smaller, fewer)
        ]
        best = "quickest" if cell == view.best else "–"
        rows.append(
            {
                "n_batch": f"{cell[0]:.0f}",
                "n_ubatch": f"{cell[1]:.0f}",
                "trials": fr.status_words(part),
                "prefill, ms": phrases.short(prefill[cell], "ms"),
                "prefill, tok/s": phrases.short(speed[cell]),
                "against the quickest": phrases.change(against[cell]) if cell in against else best,
                "against the n_ubatch before": steps[0],
                "against the n_batch before": steps[1],
                "spread of prefill": percent(spread.get(cell, float("nan"))),
                "decode, tok/s": phrases.short(decode[cell]),
                "compute, MiB": number(view.compute.get(cell, float("nan")) * MIB),
                f"{word}, MiB": number(whole.get(cell, float("nan")) * MIB),
            }
        )
    return tables.captioned(
        rows,
        f"Times against another cell, with their verdict. Spread: largest less smallest process, "
        f"by the median. {phrases.BRACKETS}",
    )


ALIKE = 0.01
"""Compute buffers that differ by less are drawn as one line."""


@style.styled
def figure(view: View, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw prefill speed and compute buffers by ``n_ubatch``, a line per ``n_batch``."""
    panels = {"Prefill by n_ubatch": _draw_prefill, "Compute buffers by n_ubatch": _draw_compute}
    return layout.pair(axes, view, panels)


def _draw_prefill(ax: Axes, view: View) -> None:
    each = per_process(view.data, "prefill_tps", BY).dropna()
    if each.empty:
        style.say_unmeasured(ax, view.data)
        return
    _by_ubatch(ax, view)
    ax.set_ylim(0, each["prefill_tps"].max() * 1.08)
    ax.set_ylabel("prompt tokens per second")
    style.subtitle(ax, "Lines: n_batch. Points: processes.")
    fig.lines(
        ax,
        [
            fig.line_of(f"{batch:.0f}", part, "n_ubatch", "prefill_tps")
            for batch, part in each.groupby("n_batch")
        ],
        zero=False,
    )


def _draw_compute(ax: Axes, view: View) -> None:
    good = fr.ok(view.data)
    sizes = (good.groupby(BY)["compute_bytes"].max().dropna() * MIB).unstack(0)
    if sizes.empty:
        why = "llama.cpp named no compute buffers" if len(good) else fr.status_words(view.data)
        style.say_empty(ax, f"Nothing was measured:\n{why}")
        return
    lines = {f"{batch:.0f}": sizes[batch].dropna() for batch in sizes}
    if (sizes.max(axis=1) / sizes.min(axis=1) - 1).max() <= ALIKE and len(lines) > 1:
        lines = {"every n_batch": sizes.max(axis=1)}
    _by_ubatch(ax, view)
    ax.set_ylim(0, float(np.nanmax(sizes.to_numpy())) * 1.1)
    ax.set_ylabel("MiB")
    style.subtitle(ax, f"n_ctx {good['n_ctx'].max():.0f}. Lines: n_batch.")
    points = [pd.DataFrame({"x": line.index, "y": line.to_numpy()}) for line in lines.values()]
    fig.lines(
        ax,
        [fig.line_of(name, part, "x", "y") for name, part in zip(lines, points, strict=True)],
        zero=False,
    )


def _by_ubatch(ax: Axes, view: View) -> None:
    sizes = sorted(view.data["n_ubatch"].dropna().unique())
    ax.set_xscale("log", base=2)
    ax.set_xlim(sizes[0] / 1.25, sizes[-1] * 1.25)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
    ax.set_xlabel("n_ubatch, tokens computed at once")
