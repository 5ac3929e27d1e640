"""In which number format should the KV cache be: its memory, its speed, and what it loses.

The cache holds a key and a value per layer for every token. Decode reads all of those before it, so
fewer bytes each are less memory and less to read, and more to compute, since they are unpacked
each time. What is rounded off is lost: the model predicts something else than with f16. How much is
measured by the same tokens through both caches of the same model, see
:mod:`llm_latency.engine.quality`; blocks of tokens are the sample, at one depth after the other.
Keys and values are rounded apart, since they do not bear it alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.own_prompt import PROMPT_FILE
from llm_latency.plan.parameters import plain, shown, whole
from llm_latency.plan.settings import KvType
from llm_latency.plan.sizes import share
from llm_latency.plan.spec import Plan
from llm_latency.plan.workload import LOSS_BLOCK
from llm_latency.records import frame as fr
from llm_latency.records.machines import on_one
from llm_latency.report import figure as fig
from llm_latency.report import layout, page, phrases, style, tables
from llm_latency.report.labels import End
from llm_latency.report.page import Answer, Run, code, model_name, no_answer
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimate, estimates, mean
from llm_latency.words import MIB, MS, number, percent

BY = ["type_k", "type_v"]
Pair = tuple[str, str]
"""Formats of K and V."""
REFERENCE: KvType = "f16"
FORMATS = ("f16", "q8_0", "q5_1", "q4_0")
UNQUANTISED: Pair = (REFERENCE, REFERENCE)


def plan(
    model: str = "synthetic:tiny",
    type_k: Grid = FORMATS,
    type_v: Grid = FORMATS,
    mixed: Annotated[bool, "also two formats that differ, neither of them f16"] = False,
    quality: Annotated[str, "least share of tokens with the same most likely next"] = "99 %",
    text_tokens: Annotated[int, "length of the text that shows what is lost"] = 384,
    prompt_tokens: Annotated[int, "length of the prompt behind which decode is timed"] = 256,
    prompt: Annotated[str, "a text of your own for both, whole, in place of these lengths"] = "",
    prompt_file: Annotated[str, PROMPT_FILE] = "",
    max_tokens: int = 16,
    flash_attn: Annotated[bool, "without it V stays as it is"] = True,
    rounds: int = 6,
    **options: Any,
) -> Plan:
    """Plan each pair of formats, timed in every round, and once what it loses.

    In a pair K and V are alike, or one of them is f16: so each is seen by itself.
    """
    request = Request("kv_types", locals(), names.check)
    share("quality", request.one("quality"))
    every = plain(request.one("mixed"))
    if not isinstance(every, bool):
        raise ParameterError(f"mixed={shown(every)} is refused: give true or false.")
    asked = [(k, v) for k in request.many("type_k") for v in request.many("type_v")]
    pairs = [p for p in asked if every or p[0] == p[1] or REFERENCE in p]
    if not pairs:
        raise ParameterError(
            f"type_k={asked[0][0]!r} and type_v={asked[0][1]!r} differ; give mixed=true to measure "
            "them together."
        )
    own = request.own_prompt()
    text = whole("text_tokens", request.one("text_tokens"), LOSS_BLOCK)
    if not own and isinstance(n_ctx := request.one("n_ctx"), int) and text >= n_ctx:
        raise ParameterError(
            f"text_tokens={text} is refused: n_ctx={n_ctx} does not hold so many; give fewer, or a "
            "larger n_ctx."
        )
    times = request.asked()
    loss = (own or {"prompt_tokens": text}) | {"quality_against": REFERENCE}
    works = times | {"max_tokens": request.one("max_tokens")}, loss | {"max_tokens": 1}
    cells = [
        request.cell(type_k=k, type_v=v, **work, repeats=0, page_cache="resident")
        for k, v in [UNQUANTISED, *(pair for pair in pairs if pair != UNQUANTISED)]
        for work in works
    ]
    return request.plan(cells, twins=cells[:1])


@dataclass(frozen=True)
class Loss:
    """What a pair of formats loses, by blocks of tokens; each figure has one value per block."""

    block_tokens: float
    divergence: list[float]
    same_token: list[float]
    probability_change: list[float]

    @property
    def other_token(self) -> Estimate:
        """Share of tokens after which another one is most likely."""
        found = mean(1 - same for same in self.same_token)
        return replace(found, low=max(found.low, 0.0))  # NaN, where nothing was measured, stays


LOST = tuple(Loss.__dataclass_fields__)
NO_LOSS = Loss(0, [], [], [])
"""Of a pair of which nothing is known."""


def losses(good: pd.DataFrame) -> dict[Pair, Loss]:
    """Return what each pair of formats loses, out of rows that ended well."""
    told = good[good["quality_block_tokens"].notna()]
    return {
        _pair(key): Loss(*part[[f"quality_{name}" for name in LOST]].iloc[0])
        for key, part in told.groupby(BY)
    }


class View:
    """A run over pairs of formats: what each takes, how fast it is, and what it loses.

    Attributes
    ----------
    kv_bytes : dict
        By pair, the smallest last: what its cache takes.
    losses : dict
        By pair: what it loses.
    least : float
        Share of tokens whose most likely next is to be the same.
    """

    def __init__(self, run: Run) -> None:
        run = on_one(run)
        rows = run.frame()
        self.info, self.rows = run.info, rows.assign(token_s=1 / rows["decode_tps"])
        self.data = fr.by_cell(self.rows)
        self.timed = self.rows[self.rows["quality_against"].isna()]
        good = fr.ok(self.data)
        sizes = good.groupby(BY)["kv_bytes"].max().dropna().sort_values(ascending=False)
        self.kv_bytes = {_pair(key): float(size) for key, size in sizes.items()}
        self.losses = losses(good)
        self.least = share("quality", page.parameters_of(self.info).get("quality", "99 %"))

    def estimates(self, column: str) -> dict[Pair, Estimate]:
        """Return the estimate of every pair that was timed."""
        found = estimates(fr.counted(self.timed), column, BY)
        return {pair: value for pair, value in found.items() if value.n}

    def compare(self, pair: Pair, column: str = "decode_s") -> Comparison:
        """Compare a pair with f16, round by round."""
        a, b = (samples(self.timed, column, type_k=k, type_v=v) for k, v in (UNQUANTISED, pair))
        return compare(a, b, noise_floor(self.timed, column))

    def against_f16(self) -> dict[Pair, Comparison]:
        """Return how the time per token of every other pair compares with f16."""
        timed = self.estimates("decode_s")
        if UNQUANTISED not in timed:
            return {}
        return {pair: self.compare(pair) for pair in timed if pair != UNQUANTISED}

    def enough(self) -> tuple[Pair | None, list[Pair]]:
        """Return the smallest pair that surely loses little enough, and smaller ones that may."""
        surely, maybe = [], []
        for pair in self.kv_bytes:
            if pair in self.losses:
                other, most = self.losses[pair].other_token, 1 - self.least
                if other.kind == "interval" and other.high <= most:
                    surely.append(pair)
                elif other.low <= most:
                    maybe.append(pair)
        chosen = min(surely, key=self.kv_bytes.__getitem__, default=None)
        size = self.kv_bytes[chosen] if chosen else np.inf
        return chosen, [pair for pair in maybe if self.kv_bytes[pair] < size]


def _pair(key: Any) -> Pair:
    k, v = key
    return str(k), str(v)


def deciding(view: View) -> list[Comparison]:
    """Return the comparisons on which the answer rests."""
    return list(view.against_f16().values())


def answer(view: View) -> Answer:
    """Answer which formats lose little enough, what they save, and what they cost."""
    if nothing := no_answer(view.data):
        return nothing
    against = view.against_f16()
    chosen, maybe = view.enough()
    sentences = [
        "**The weights are random, so what is lost means nothing**: memory and speed are true."
        * page.random_weights(view.info),
        _kept(view, chosen, maybe),
    ]
    if chosen in against:
        sentences.append(
            f"Behind {fr.ok(view.timed)['prompt_tokens'].max():,.0f} tokens its decode takes, "
            f"beside f16, {phrases.difference(against[chosen])}."
        )
    sentences += [_apart(view), phrases.noise(list(against.values()))]
    line = f"{_name(chosen)}: {_saved(view, chosen)}" if chosen else "none surely keeps so many"
    verdict = "none" if not view.losses else "undecided" if maybe else "measured"
    return Answer(
        line if view.losses else "what is lost is not known",
        verdict,
        phrases.sureness(list(against.values())),
        tuple(filter(None, sentences)),
    )


def _kept(view: View, chosen: Pair | None, maybe: list[Pair]) -> str:
    """Say which is the smallest cache that loses little enough."""
    if not view.losses:
        return f"What the formats lose is **not known**: {fr.status_words(view.data)}."
    text = max(len(lost.divergence) * lost.block_tokens for lost in view.losses.values())
    asked = (
        f"With {model_name(view.info)} and a text of {text:,.0f} tokens, after at most "
        f"{percent(1 - view.least)} of which another one may become most likely,"
    )
    open_ = " or ".join(map(_name, maybe[-2:]))
    if chosen is None:
        nearest = min(view.losses, key=lambda pair: view.losses[pair].other_token.median)
        lost = phrases.share(view.losses[nearest].other_token)
        return f"{asked} **no cache is surely enough**; of {_name(nearest)} it is {lost}."
    size = phrases.amount(view.kv_bytes[chosen], "MiB")
    lost = phrases.share(view.losses[chosen].other_token)
    further = f"; whether {open_} is, is {phrases.UNDECIDED}" if maybe else ""
    return (
        f"{asked} **{_name(chosen)} is enough**: {lost}, n being blocks of "
        f"{view.losses[chosen].block_tokens:.0f} tokens, in {size}, {_saved(view, chosen)}"
        f"{further}."
    )


def _saved(view: View, pair: Pair) -> str:
    if UNQUANTISED not in view.kv_bytes or pair == UNQUANTISED:
        return "nothing saved"
    return f"{percent(1 - view.kv_bytes[pair] / view.kv_bytes[UNQUANTISED])} less than f16"


def _apart(view: View) -> str:
    """Say whether K or V bears to be rounded better, by the format that shows it best."""
    both = [
        kind
        for kind, other in view.losses
        if other == REFERENCE != kind and (REFERENCE, kind) in view.losses
    ]
    if not both:
        return ""
    worst = max(both, key=lambda kind: np.mean(view.losses[kind, REFERENCE].divergence))
    alone = {
        "K": view.losses[worst, REFERENCE].divergence,
        "V": view.losses[REFERENCE, worst].divergence,
    }
    more, less = sorted(alone, key=lambda side: -np.mean(alone[side]))
    # Block by block: both read the same text.
    apart = mean(a - b for a, b in zip(alone[more], alone[less], strict=True))
    surely = apart.kind == "interval" and apart.low > 0
    each = [phrases.estimate(mean(alone[side]).times(1e3), bold=False) for side in (more, less)]
    return (
        f"{code(worst)} in {more} alone diverges by {each[0]} thousandths of a nat, in {less} "
        f"alone by {each[1]}: {'**more**' if surely else phrases.UNDECIDED}."
    )


def _name(pair: Pair) -> str:
    return code(_plain(pair))


def table(view: View) -> pd.DataFrame:
    """Return one row per pair: memory, speed, and what it loses."""
    against = view.against_f16()
    token, prefill = view.estimates("token_s"), view.estimates("prefill_tps")
    nothing, rows = estimate([]), []
    parts = {_pair(key): part for key, part in view.data.groupby(BY, sort=False)}
    for pair in dict.fromkeys([*view.kv_bytes, *parts]):
        part = parts[pair]
        lost = view.losses.get(pair, NO_LOSS)
        size, whole = (view.kv_bytes.get(p, float("nan")) for p in (pair, UNQUANTISED))
        row = {
            "K": pair[0],
            "V": pair[1],
            "trials": fr.status_words(part),
            "KV cache, MiB (of f16)": f"{number(size * MIB)} ({percent(size / whole)})",
            "token, ms": phrases.short(token.get(pair, nothing), "ms"),
            "against f16": phrases.change(against[pair]) if pair in against else "–",
            "prefill, tok/s": phrases.short(prefill.get(pair, nothing)),
        }
        for title, value in {
            "another token, %": lost.other_token.times(100),
            "its probability, ± %": mean(lost.probability_change).times(100),
            "divergence, 10⁻³ nats": mean(lost.divergence).times(1e3),
        }.items():
            row[title] = phrases.short(value).partition(" n ")[0]  # as many blocks in each
        rows.append(row)
    blocks = max((len(lost.divergence) for lost in view.losses.values()), default=0)
    caption = f"Losses are means over {blocks} blocks of {LOSS_BLOCK} tokens. {phrases.BRACKETS}"
    return tables.captioned(rows, caption)


@style.styled
def figure(view: View, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw each pair's memory, time per token and loss, a row each."""
    panels = {
        "KV cache": _draw_memory,
        "Decode": _draw_times,
        "Another likeliest token": _draw_losses,
    }
    height = 1.6 + 0.3 * max(2, len(_rows(view)))
    return layout.pair(axes, view, panels, measured=bool(view.kv_bytes), height=height)


def _rows(view: View) -> list[Pair]:
    """Return the pairs from the top: those that take most first."""
    return list(view.kv_bytes)


def _draw_memory(ax: Axes, view: View) -> None:
    pairs = _rows(view)
    layout.rows(ax, [(at, _plain(pair)) for at, pair in enumerate(pairs)], -0.7, len(pairs) - 0.3)
    most = max(view.kv_bytes.values()) * MIB
    for at, pair in enumerate(pairs):
        size = view.kv_bytes[pair] * MIB
        fig.stack(ax, at, {"KV": size}, {"KV": style.PART_COLOURS[1]}, lying=True)
        layout.write(ax, number(size), (size, at), (4, 0), fontsize=8.5)
    ax.set_xlim(0, most * 1.3)
    ax.set_xlabel("MiB")


def _draw_times(ax: Axes, view: View) -> None:
    found = {pair: value.times(MS) for pair, value in view.estimates("token_s").items()}
    _draw_dots(ax, view, found, "ms per token")


def _draw_losses(ax: Axes, view: View) -> None:
    found = {pair: loss.other_token.times(100) for pair, loss in view.losses.items()}
    _draw_dots(ax, view, found, "% of tokens")
    most = 100 * (1 - view.least)
    if found and most < ax.get_xlim()[1]:
        ax.axvline(most, color=style.INK, linewidth=1.2, linestyle=(0, (4, 3)))
        style.subtitle(ax, "Dashed: at most, as asked.")


def _draw_dots(ax: Axes, view: View, found: dict[Pair, Estimate], unit: str) -> None:
    """Draw a median with its bounds in each row."""
    pairs = _rows(view)
    if not found:
        style.say_unmeasured(ax, view.data)
        return
    layout.rows(ax, [(at, "") for at in range(len(pairs))], -0.7, len(pairs) - 0.3)
    for at, pair in enumerate(pairs):
        if pair in found:
            one, colour = found[pair], style.RAMP(0.3)
            ax.hlines(at, one.low, one.high, color=colour, linewidth=4, alpha=0.35)
            ax.plot(one.median, at, "o", color=colour, markersize=6)
    ax.set_xlim(0, max(one.high for one in found.values()) * 1.1 or 1)
    ax.set_xlabel(unit)


def _plain(pair: Pair) -> str:
    return f"{pair[0]} in both" if pair[0] == pair[1] else f"K {pair[0]}, V {pair[1]}"


@style.styled
def by_depth(view: View, ax: Axes | None = None) -> Axes:
    """Draw the divergence of every block by its place in the text."""
    ax = ax or style.new_axes()
    ax.set_title("Divergence by tokens before")
    lossy = {p: one for p, one in view.losses.items() if min(one.divergence, default=0) > 0}
    if not lossy:
        return style.say_empty(ax, "No cache lost anything that could be drawn.")
    kinds = list(dict.fromkeys(kind for pair in lossy for kind in pair if kind != REFERENCE))
    colours = dict(zip(kinds, style.ramp(len(kinds)), strict=True))
    ends = []
    for (k, v), loss in lossy.items():
        place = 0 if REFERENCE not in (k, v) else 1 if v == REFERENCE else 2
        look: dict[str, Any] = {"linestyle": style.DASHES[place], "marker": style.MARKERS[place]}
        colour = colours[v if k == REFERENCE else k]
        middles = (np.arange(len(loss.divergence)) + 0.5) * loss.block_tokens
        ax.plot(middles, loss.divergence, color=colour, markersize=4, linewidth=1.5, **look)
        ends.append(End(middles[-1], loss.divergence[-1], _plain((k, v)), colour))
    ax.set_yscale("log")
    ax.set_xlim(0, None)
    ax.set_xlabel("tokens before")
    ax.set_ylabel("nats")
    style.subtitle(ax, "Points: blocks of tokens. Solid: both; dashed: K; dotted: V.")
    fig.name_ends(ax, ends)
    return ax
