"""How fast deep in a context: a message and its answer at every depth of the window.

Decode reads every weight once per token, and the keys and values of all tokens that are in the
context; so a token's time should grow along a line, by ``KV bytes per token / bandwidth`` for each
of them. A message's TTFT does, too, since each of its tokens looks at all before it. Where the
cache outgrows a faster memory, or another way of computing takes over, the line ends.

One process walks the whole window, as a conversation would: at each depth the context is filled
so far outside the clock, a message is evaluated, and some tokens are decoded. llama.cpp's own
count proves that nothing but the message was evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.parameters import shown, whole
from llm_latency.plan.spec import MAX_INT32, KvType, Plan, padded
from llm_latency.records import frame as fr
from llm_latency.records import llama_bench
from llm_latency.report import figure as fig
from llm_latency.report import layout, phrases, style
from llm_latency.report.page import Answer, Run, code, model_name, no_answer
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.curves import Curves
from llm_latency.stats.estimate import Estimate, estimate, per_process
from llm_latency.words import MIB, MS, number, percent

REPLACED = {"type_k": "kv_type", "type_v": "kv_type"}
PER = 1000
"""Tokens for which a slope is told."""


def plan(
    model: str = "synthetic:tiny",
    depths: Annotated[Grid, "tokens in the context at each step of the walk"] = (
        *(0, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584),
    ),
    prompt_tokens: Annotated[int, "length of the message at each step"] = 32,
    max_tokens: int = 16,
    ttft_s: Annotated[float, "longest wait for a first token that is borne; 0: no bound"] = 0.0,
    n_ctx: Annotated[int, "tokens the context can hold; 0: as many as the deepest needs"] = 0,
    flash_attn: Grid = (False, True),
    kv_type: Annotated[Grid, "number formats of the KV cache, for K and V alike"] = ("f16", "q8_0"),
    beside: Annotated[str, "llama-bench's rows (-d) or sweep-bench's to show beside: a file"] = "",
    rounds: int = 6,
    **options: Any,
) -> Plan:
    """Plan a walk through one context for each kind of attention and number format of its cache.

    Formats that need flash attention are left out where there is none.
    """
    request = Request("depth", locals(), names.check, REPLACED, how_much=True)
    steps = sorted({whole("depths", depth, 0) for depth in request.many("depths")})
    message = whole("prompt_tokens", request.one("prompt_tokens"))
    answer_tokens = whole("max_tokens", request.one("max_tokens"), 2)
    _bound(request.one("ttft_s"))
    _rows_beside(request.one("beside"))
    if (enough := padded(steps[-1] + message + answer_tokens)) > MAX_INT32:
        raise ParameterError(
            f"depths={steps[-1]}, prompt_tokens={message} and max_tokens={answer_tokens} are "
            f"refused: they need a context of more than {MAX_INT32:,} tokens; give fewer."
        )
    asked_n_ctx = request.one("n_ctx")
    n_ctx = enough if type(asked_n_ctx) is int and not asked_n_ctx else asked_n_ctx
    cells = [
        request.cell(
            depths=tuple(steps),
            prompt_tokens=message,
            max_tokens=answer_tokens,
            cache_mode="kept",
            repeats=len(steps) - 1,
            page_cache="resident",
            warm_up="batch",  # else the first step would be the first generation after loading
            n_ctx=n_ctx,
            flash_attn=attention,
            type_k=kv_type,
            type_v=kv_type,
        )
        for kv_type in request.chosen("kv_type", get_args(KvType))
        for attention in request.many("flash_attn")
    ]
    return request.plan(cells, twins=cells[:1])


def _bound(value: Any) -> float:
    """Return the longest wait for a first token, in seconds; 0 is no bound."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise ParameterError(
            f"ttft_s={shown(value)} is refused: give seconds, such as 0.5, or 0 for no bound."
        )
    return float(value)


def _rows_beside(file: Any) -> pd.DataFrame:
    """Return the rows of another tool by depth; none where no file is named."""
    if file == "":
        return pd.DataFrame()
    if not isinstance(file, str):
        raise ParameterError(f"beside={shown(file)} is refused: give the path of a file.")
    try:
        rows = llama_bench.read(Path(file))
    except ParameterError as error:
        why = " ".join(str(error).split())
        raise ParameterError(f"beside={shown(file)} is refused: {why}") from None
    return rows.assign(token_s=1 / rows["decode_tps"])


class Kind(NamedTuple):
    """How attention was computed, and in which format its keys and values were kept."""

    flash_attn: Any
    type_k: str
    type_v: str

    @property
    def cell(self) -> dict[str, Any]:
        """Columns and values that name its rows."""
        return self._asdict()

    @property
    def words(self) -> str:
        """Both in words: ``q8_0, flash``."""
        kept = self.type_k if self.type_k == self.type_v else f"{self.type_k}/{self.type_v}"
        attention = {"True": ", flash", "False": ""}.get(str(self.flash_attn), ", auto")
        return kept + attention


class View:
    """The walks of a run, by how attention was computed and kept.

    Attributes
    ----------
    kinds : list of Kind
        What was walked through, without flash attention first.
    depths : list of float
        Tokens in the context at the steps of the walks.
    bound_s : float
        Longest wait for a first token that the user bears; 0: nobody said.
    beside : pandas.DataFrame
        Another tool's rows, if any were named and are still there.
    """

    def __init__(self, run: Run) -> None:
        rows = run.frame()
        self.rows = rows.assign(token_s=1 / rows["decode_tps"])
        self.info = run.info
        self.data = fr.by_cell(self.rows)
        self.good = fr.ok(self.data).dropna(subset=["depth_tokens"])
        found = self.good[list(Kind._fields)].drop_duplicates().itertuples(index=False)
        formats = get_args(KvType)
        self.kinds = sorted(
            (Kind(*row) for row in found),
            key=lambda kind: (str(kind.flash_attn), formats.index(kind.type_k), kind.type_v),
        )
        self.depths = [float(depth) for depth in sorted(self.good["depth_tokens"].unique())]
        given = (self.info.get("plan") or {}).get("parameters") or {}
        self.bound_s = float(given.get("ttft_s") or 0.0)
        try:
            self.beside = _rows_beside(given.get("beside") or "")
        except ParameterError:  # the file has gone since
            self.beside = pd.DataFrame()
        self._curves: dict[tuple[Kind, str], Curves] = {}

    def of(self, kind: Kind, rows: pd.DataFrame | None = None) -> pd.DataFrame:
        """Return the rows of one kind: those that may enter an estimate, or some others."""
        rows = self.good if rows is None else rows
        return rows[np.logical_and.reduce([rows[name] == v for name, v in kind.cell.items()])]

    def curves(self, kind: Kind, column: str) -> Curves:
        """Return a column over the depths of one kind's walks: ``token_s`` or ``ttft_s``."""
        if (kind, column) not in self._curves:
            known = self.of(kind).dropna(subset=[column])
            self._curves[kind, column] = Curves.of(known, "depth_tokens", column)
        return self._curves[kind, column]

    def at(self, kind: Kind, column: str, depth: float) -> Estimate:
        """Return the estimate of a column at one depth."""
        here = self.of(kind)
        each = per_process(here[here["depth_tokens"] == depth], column, ["depth_tokens"])
        return estimate(each[column])

    def compare(self, base: tuple[Kind, float], other: tuple[Kind, float]) -> Comparison:
        """Compare the time of the same number of tokens of two kinds, each at a depth."""
        pair = [
            samples(self.rows, "decode_s", depth_tokens=depth, **kind.cell)
            for kind, depth in (base, other)
        ]
        return compare(pair[0], pair[1], noise_floor(self.rows, "decode_s"))

    def worst(self, kind: Kind, column: str) -> float:
        """Return the largest error at depths that the lines had not seen; NaN without any."""
        errors = [abs(e.median) for e in self.curves(kind, column).foretold().values() if e.n]
        return max(errors, default=float("nan"))

    @cached_property
    def crossed(self) -> dict[Kind, Estimate]:
        """From which depth on each kind's TTFT is above the bound; ``n`` 0: it never is."""
        return {kind: self.curves(kind, "ttft_s").reaches(self.bound_s) for kind in self.kinds}

    def beside_of(self, kind: Kind) -> pd.Series[float]:
        """Return the other tool's time per token by depth, of rows that may be of a kind."""
        rows = self.beside
        if rows.empty:
            return pd.Series(dtype=float)
        fits = rows["token_s"].notna()
        for name, value in kind.cell.items():
            fits &= rows[name].isna() | (rows[name] == value)
        found: pd.Series[float] = rows[fits].groupby("n_depth")["token_s"].median()
        return found


def answer(view: View) -> Answer:
    """Answer how much slower a token is deep in the context, and where that is no line any more."""
    if nothing := no_answer(view.data):
        return nothing
    if len(view.depths) < 2:
        sentence = (
            f"How fast it is deep in a context is {phrases.UNDECIDED}: fewer than two depths were "
            f"measured; give {code('depths')} several."
        )
        return Answer("fewer than two depths were measured", "undecided", "", (sentence,))
    kind, first, last = view.kinds[0], view.depths[0], view.depths[-1]
    found = view.compare((kind, first), (kind, last))
    sentences = [
        f"With {model_name(view.info)} and {kind.words}, a token takes "
        f"{phrases.estimate(view.at(kind, 'token_s', last), 'ms')} with {last:,.0f} tokens in the "
        f"context, {phrases.median(view.at(kind, 'token_s', first), 'ms')} with {first:,.0f}: "
        f"{phrases.difference(found)}.",
        _line(view, kind),
        _waiting(view, kind, first, last),
        _others(view, kind, last),
        phrases.noise([found, *(view.compare((kind, last), (k, last)) for k in view.kinds[1:])]),
    ]
    line = f"a token with {last:,.0f} tokens in the context: {phrases.change(found)}"
    sure = phrases.sureness(found)
    return Answer(line, found.verdict, sure, tuple(filter(None, sentences)))


def _line(view: View, kind: Kind) -> str:
    """Say whether a token's time is a line of the depth, where it ends, and what it foretells."""
    curves, worst = view.curves(kind, "token_s"), view.worst(kind, "token_s")
    tested = f"; at depths held out it is off by at most **{percent(worst)}**" if worst >= 0 else ""
    each = phrases.estimate(curves.slope.times(PER), "ms")
    if (end := curves.broken) is not None:
        off = phrases.share(end.beyond)
        return (
            f"**The line ends between {end.last:,.0f} and {end.first:,.0f} tokens**: up to there "
            f"{PER:,} tokens of context add {each}, and from there a token takes {off} beyond it"
            f"{tested.replace('it is', 'a line on either side is')}."
        )
    bend = curves.bend
    shape = "No end of the line shows"
    if bend is not None and bend.turn in ("upwards", "downwards"):
        shape = f"It bends **{bend.turn}**"
    return f"{shape}: {PER:,} tokens of context add {each} to a token{tested}."


def _waiting(view: View, kind: Kind, first: float, last: float) -> str:
    """Say how TTFT of a message grows, and where it crosses the bound."""
    message = view.of(kind)["evaluated_tokens"].median()
    text = (
        f"TTFT of a message of {message:,.0f} tokens rises from "
        f"{phrases.median(view.at(kind, 'ttft_s', first), 'ms')} to "
        f"{phrases.estimate(view.at(kind, 'ttft_s', last), 'ms', bold=False)}"
    )
    if not view.bound_s:
        return f"{text}."
    return f"{text}; {_crossing(view, kind)}."


def _crossing(view: View, kind: Kind) -> str:
    """Say from which depth on TTFT is longer than the user bears."""
    bound, at = phrases.amount(view.bound_s, "ms"), view.crossed[kind]
    walks = len(view.curves(kind, "ttft_s").values)
    if not at.n:
        return f"it stays below {bound} as far as was walked"
    some = f" in {at.n} of {walks} processes" if at.n < walks else ""
    return f"it is above {bound} from {phrases.estimate(at, 'tokens')} on{some}"


def _others(view: View, base: Kind, depth: float) -> str:
    """Say how the other kinds compare with the first at the deepest step."""
    changes = [
        f"{kind.words} {phrases.change(view.compare((base, depth), (kind, depth)))}"
        for kind in view.kinds[1:]
    ]
    return f"There, against {base.words}: {'; '.join(changes)}." if changes else ""


def table(view: View) -> pd.DataFrame:
    """Return one row per kind: a token and TTFT at either end, the line, and the memory."""
    column, word, _ = fr.memory_choice(view.data)
    ends = list(dict.fromkeys([*view.depths[:1], *view.depths[-1:]]))
    rows = []
    for kind in view.kinds:
        good, tokens = view.of(kind), view.curves(kind, "token_s")
        row = {"KV cache": kind.words, "trials": fr.status_words(view.of(kind, view.data))}
        for name, source in (("token", "token_s"), ("TTFT", "ttft_s")):
            for depth in ends:
                row[f"{name} at {depth:,.0f}, ms"] = phrases.short(
                    view.at(kind, source, depth), "ms"
                )
        row["deepest against first"] = phrases.change(
            view.compare((kind, ends[0]), (kind, ends[-1]))
        )
        end = tokens.broken
        row |= {
            f"{PER:,} tokens add, ms": phrases.short(tokens.slope.times(PER), "ms"),
            "the line ends": "–" if end is None else f"{end.last:,.0f}–{end.first:,.0f}",
            "off where held out": percent(view.worst(kind, "token_s")),
        }
        if view.bound_s:
            row["TTFT too long from, tokens"] = phrases.short(view.crossed[kind])
        for name, source in (("KV cache", "kv_bytes"), ("compute", "compute_bytes")):
            row[f"{name}, MiB"] = number(good[source].max() * MIB)
        row[f"{word}, MiB"] = number(good[column].max() * MIB)
        rows.append(row)
    made = pd.DataFrame(rows)
    made.attrs["caption"] = f"Memory is that of the process that took most. {phrases.BRACKETS}"
    return made


def steps(view: View) -> pd.DataFrame:
    """Return one row per kind and depth: what was evaluated, TTFT, a token, the line's error."""
    rows = []
    for kind in view.kinds:
        tokens, others = view.curves(kind, "token_s"), view.beside_of(kind)
        errors = {tokens.places[number]: error for number, error in tokens.foretold().items()}
        for depth in view.depths:
            part = view.of(kind)[view.of(kind)["depth_tokens"] == depth]
            row = {
                "KV cache": kind.words,
                "tokens in the context": f"{depth:,.0f}",
                "evaluated": number(part["evaluated_tokens"].median(), 0),
                "TTFT, ms": phrases.short(view.at(kind, "ttft_s", depth), "ms"),
                "token, ms": phrases.short(view.at(kind, "token_s", depth), "ms"),
                "line's error where held out, %": phrases.short(
                    errors.get(depth, estimate([])), "%"
                ),
            }
            if len(view.beside):
                row["beside: token, ms"] = number(float(others.get(depth, np.nan)) * MS)
            rows.append(row)
    made = pd.DataFrame(rows)
    made.attrs["caption"] = phrases.BRACKETS
    return made


PARTS = {"KV cache": "kv_bytes", "compute": "compute_bytes"}
"""What is drawn of the memory: the parts that these settings change."""


@style.styled
def figure(view: View, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw a token's time and TTFT by depth with their lines, and the memory of each kind."""
    measured = len(view.depths) > 0
    note = " Hollow: the other tool." if len(view.beside) else ""
    panels = {"A token": _draw_tokens, "TTFT of a message": _draw_waits, "Memory": _draw_memory}
    above = f"Points: processes; lines: fitted, up to where they end.{note}"
    return layout.pair(axes, view, panels, measured=measured, above=above, height=4.2)


def _draw_tokens(ax: Axes, view: View) -> None:
    _draw(ax, view, "token_s", "ms per token")


def _draw_waits(ax: Axes, view: View) -> None:
    _draw(ax, view, "ttft_s", "ms")
    if view.bound_s:
        ax.axhline(view.bound_s * MS, color=style.ALARM, linewidth=1.0, label="_bound")


def _draw(ax: Axes, view: View, column: str, label: str) -> None:
    top, far = 0.0, view.depths[-1]
    for place, (kind, colour) in enumerate(_coloured(view)):
        curves = view.curves(kind, column)
        points = view.of(kind).dropna(subset=[column])
        if points.empty:
            continue
        marker = style.MARKERS[place % len(style.MARKERS)]
        look: dict[str, Any] = {"s": 13, "marker": marker, "linewidths": 0, "alpha": 0.4}
        ax.scatter(points["depth_tokens"], points[column] * MS, color=colour, label="_", **look)
        if curves.slope.n:
            xs = np.linspace(curves.places[0], curves.places[-1], 200)
            fitted = np.nanmedian(curves.fitted(xs), axis=0) * MS
            if curves.broken:  # a gap where nobody knows
                fitted[(xs > curves.broken.last) & (xs < curves.broken.first)] = np.nan
            ax.plot(xs, fitted, color=colour, label=kind.words)
        others = view.beside_of(kind) if column == "token_s" else pd.Series(dtype=float)
        hollow: dict[str, Any] = {"facecolors": "none", "edgecolors": [colour]}
        ax.scatter(others.index, others * MS, s=34, marker=marker, label="_beside", **hollow)
        top = max(top, float(points[column].max()) * MS)
    ax.set_xlim(0, far * 1.04 or 1)
    ax.set_ylim(0, max(top, view.bound_s * MS * (column == "ttft_s")) * 1.1 or 1)
    ax.set_xlabel("tokens in the context")
    ax.set_ylabel(label)
    ax.xaxis.set_major_formatter(layout.WHOLE)
    ax.locator_params(axis="x", nbins=4)


def _draw_memory(ax: Axes, view: View) -> None:
    sizes = {
        kind: {name: float(view.of(kind)[c].max()) * MIB for name, c in PARTS.items()}
        for kind in view.kinds
    }
    far = max((float(np.nansum(list(parts.values()))) for parts in sizes.values()), default=0.0)
    if not far > 0:
        style.say_empty(ax, "llama.cpp named no buffers")
        return
    colours = dict(zip(PARTS, style.PART_COLOURS[1:], strict=False))
    for place, (kind, colour) in enumerate(_coloured(view)):
        fig.stack(ax, place, sizes[kind], colours, lying=True, reach=far, thickness=0.5)
        layout.write(ax, kind.words, (0, place - 0.42), (0, 0), color=style.deep(colour))
    layout.rows(ax, [], -0.7, len(sizes) - 0.5)
    ax.set_xlim(0, far * 1.02)
    ax.set_xlabel("MiB")
    ends = ", ".join(PARTS)
    style.subtitle(ax, f"From the left: {ends}.")


def _coloured(view: View) -> list[tuple[Kind, Any]]:
    return list(zip(view.kinds, style.ramp(len(view.kinds)), strict=True))
