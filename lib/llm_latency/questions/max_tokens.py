"""``max_tokens``: what it costs, and whether latency can be predicted.

Decode evaluates one token per pass over the weights, and each pass takes about the same time, so
``latency = prefill and all else + tokens generated × time per token``. A line is fitted to some
lengths and tested on others that it has not seen. ``max_tokens`` is only the most: an answer that
ends by itself generates fewer, so a line through what was *asked for* predicts something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.parameters import as_list, check_room
from llm_latency.plan.spec import Plan
from llm_latency.plan.workload import Language
from llm_latency.records import frame as fr
from llm_latency.records.machines import on_one
from llm_latency.report import figure as fig
from llm_latency.report import layout, phrases, style, tables
from llm_latency.report.page import Answer, Run, code, model_name, no_answer, parameters_of
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import FEWEST, Estimate, estimate, estimates
from llm_latency.stats.fit import Line, line
from llm_latency.words import MS, counts, number, percent, several

FEWEST_FITTED = 2
"""A line needs two lengths."""
HELD_OUT = (25, 75, 150)
"""Lengths that a fit does not see, where nobody says which."""
Formula = Literal["generated", "asked"]
FORMULAS: dict[Formula, str] = {
    "generated": "through tokens generated",
    "asked": "through tokens asked for",
}
"""What the line goes through."""


def plan(
    model: str = "synthetic:tiny",
    max_tokens: Annotated[Grid, "tokens to ask for"] = (8, 16, 25, 50, 75, 100, 150),
    held_out: Annotated[Grid, "those of max_tokens that the fit does not see"] = HELD_OUT,
    length: Annotated[Grid, "fixed: exactly so many; natural: stop at end-of-generation"] = (
        *("fixed", "natural"),
    ),
    prompt_tokens: Annotated[int, "length of the prompt, in tokens"] = 12,
    conversation: Annotated[str, "in its place a chat's first message: fr, en; or none"] = "none",
    rounds: int = 6,
    repeats: int = 1,
    **options: Any,
) -> Plan:
    """Plan every length and kind of end; a line through some of them is tested on the others."""
    request = Request("max_tokens", locals(), names.check, how_much=True)
    request.one("conversation")
    (chat,) = request.chosen("conversation", ("none", *get_args(Language)))
    prompt: dict[str, Any] = {
        "prompt_tokens": request.one("prompt_tokens"),
        "repeats": request.one("repeats"),
    }
    if chat != "none":  # a further generation would be its next turn
        prompt = {"conversation": chat, "template": "own", "repeats": 0}
    cells = [
        request.cell(**prompt, max_tokens=tokens, length=kind, page_cache="resident")
        for kind in request.many("length")
        for tokens in request.many("max_tokens")
    ]
    lengths = sorted({cell.workload.max_tokens for cell in cells})
    unseen = request.many("held_out")
    for value in unseen:
        if type(value) is not int or value not in lengths:
            raise ParameterError(
                f"held_out={value!r} is refused: give lengths that are among max_tokens={lengths}."
            )
    if len(lengths) - len(unseen) < FEWEST_FITTED:
        raise ParameterError(
            f"held_out={unseen} is refused: of max_tokens={lengths} at least {FEWEST_FITTED} "
            "must remain for the fit; hold out fewer, or give max_tokens more lengths."
        )
    check_room(max(cells, key=lambda cell: cell.workload.max_tokens))
    return request.plan(cells)


class Place(NamedTuple):
    """Processes that were asked for the same number of tokens and generated the same number."""

    asked: float
    generated: float

    @property
    def words(self) -> str:
        """In words: ``75 tokens``, or ``75 asked, 23 came``."""
        if self.asked == self.generated:
            return several(int(self.asked), "token")
        return f"{self.asked:,.0f} asked, {self.generated:,.0f} came"


@dataclass(frozen=True)
class Prediction:
    """What a line predicts at one place, against what was measured there.

    ``error``: predicted against measured, relative, over processes; above 0: predicted too long.
    """

    predicted_s: float
    measured: Estimate
    error: Estimate

    @property
    def inside(self) -> bool | None:
        """Whether it lies within the measured interval; ``None`` where there is no interval."""
        if self.measured.kind != "interval":
            return None
        return self.measured.low <= self.predicted_s <= self.measured.high


class View:
    """One combination of settings, asked for answers of several lengths.

    Attributes
    ----------
    asked : list of float
        Lengths that were asked for and measured, the smallest first.
    held_out : list of float
        Those of them that the fit does not see.
    points : pandas.DataFrame
        One row per process: how it was to end, ``asked``, ``generated``, ``total_s``, ``unseen``.
    """

    def __init__(self, run: Run) -> None:
        run = on_one(run)
        self.info, self.rows = run.info, run.frame()
        self.data = fr.by_cell(self.rows)
        self.good = fr.ok(self.data).dropna(subset=["generated_tokens", "total_s"])
        self.asked = [float(n) for n in sorted(self.good["max_tokens"].unique())]
        given = parameters_of(run.info).get("held_out")
        unseen = HELD_OUT if given in (None, []) else as_list("held_out", given)
        self.held_out = sorted(float(n) for n in unseen if float(n) in self.asked)
        by = ["length", "max_tokens", "run_id", "trial_id"]
        each = self.good.groupby(by, as_index=False)[["generated_tokens", "total_s"]].median()
        each = each.rename(columns={"max_tokens": "asked", "generated_tokens": "generated"})
        self.points = each.assign(unseen=each["asked"].isin(self.held_out))

    @cached_property
    def lines(self) -> dict[Formula, Line | None]:
        """Latency over tokens generated, and over tokens asked for, without those held out."""
        seen = self.points[~self.points["unseen"]]
        return {over: line(seen[over], seen["total_s"]) for over in FORMULAS}

    @cached_property
    def unseen_places(self) -> list[Place]:
        """Where predictions are tested."""
        unseen = self.points[self.points["unseen"]]
        pairs = unseen[["asked", "generated"]].drop_duplicates().sort_values(["asked", "generated"])
        return [Place(float(a), float(g)) for a, g in pairs.itertuples(index=False, name=None)]

    def test(self, over: Formula, place: Place, kind: str | None = None) -> Prediction | None:
        """Return how far a line is off at a place; ``None`` where there is no line.

        ``kind`` leaves only the processes whose answers were to end that way.
        """
        fitted = self.lines[over]
        if fitted is None:
            return None
        predicted_s = fitted.at(getattr(place, over))
        here = (self.points["asked"] == place.asked) & (self.points["generated"] == place.generated)
        if kind is not None:
            here &= self.points["length"] == kind
        times = self.points.loc[here, "total_s"]
        return Prediction(predicted_s, estimate(times), estimate(predicted_s / times - 1))

    def tests(self, over: Formula = "generated") -> dict[Place, Prediction]:
        """Return every test of a line at the lengths that it has not seen."""
        tested = {place: self.test(over, place) for place in self.unseen_places}
        return {place: found for place, found in tested.items() if found is not None}

    def compare(self, a: tuple[str, float], b: tuple[str, float]) -> Comparison:
        """Compare two kinds of end and lengths, round by round, by total latency."""
        pair = [samples(self.rows, "total_s", length=k, max_tokens=n) for k, n in (a, b)]
        return compare(pair[0], pair[1], noise_floor(self.rows, "total_s"))

    @cached_property
    def same_length(self) -> float | None:
        """Longest length at which natural ends brought exactly what fixed ones did."""
        ends = self.good.groupby(["max_tokens", "length"])["generated_tokens"].agg(["min", "max"])
        for n in reversed(self.asked):
            here = ends.loc[n]
            if {"fixed", "natural"} <= set(here.index) and bool((here.to_numpy() == n).all()):
                return n
        return None

    @property
    def natural(self) -> pd.DataFrame:
        """Generations that might end by themselves."""
        return self.good[self.good["length"] == "natural"]


def answer(view: View) -> Answer:
    """Answer what a further token costs, and how well unseen lengths are predicted."""
    if nothing := no_answer(view.data):
        return nothing
    if not view.asked:
        sentence = (
            f"What {code('max_tokens')} costs is {phrases.UNDECIDED}: no process has a latency."
        )
        return Answer("no latency is known", "undecided", "", (sentence,))
    first, last = view.asked[0], view.asked[-1]
    kinds = [
        kind
        for kind, rows in view.good.groupby("length")
        if {first, last} <= set(rows["max_tokens"])
    ]
    found = [view.compare((str(k), first), (str(k), last)) for k in kinds if first != last]
    fitted = view.lines["generated"]
    line_text = f"what a further token costs is {phrases.WORDS['undecided']}"
    text = f"{line_text} below {FEWEST} processes of two lengths."
    if fitted is not None:
        (cost, basis), rest = phrases.slope(fitted, "ms"), phrases.amount(fitted.intercept, "ms")
        text = f"each further token takes **{cost}** {basis}, and prefill and all else {rest}."
        line_text = f"{rest} + {cost} per token"
    sentences = [f"With {model_name(view.info)}, {text}"]
    if found:
        sentences.append(
            f"An answer of {last:,.0f} tokens instead of {first:,.0f} takes "
            f"{phrases.difference(found[0])}."
        )
    sentences += [_predicted(view), _ends(view), phrases.noise(found)]
    verdict = found[0].verdict if found else "undecided"
    sure = phrases.sureness(found)
    return Answer(line_text, verdict, sure, tuple(filter(None, sentences)))


def _predicted(view: View) -> str:
    """Say how far the line is off at lengths that it has not seen."""
    tests = view.tests()
    if not tests:
        why = "no line to test" if view.unseen_places else "no length was held out"
        return f"Whether latency can be predicted is {phrases.UNDECIDED}: {why}."
    worst = max((abs(test.error.median) for test in tests.values()), default=0.0)
    judged = [test.inside for test in tests.values() if test.inside is not None]
    inside = f"{sum(judged)} of {len(judged)} lie within the measured interval"
    if not judged:
        inside = f"whether that is within the noise is {phrases.UNDECIDED} below {FEWEST} processes"
    off = f"off by at most **{percent(worst)}**"
    return f"At lengths that the line has not seen it is {off}: {inside}."


def _ends(view: View) -> str:
    """Say how often asked and generated differ."""
    natural = view.natural
    if natural.empty:
        return ""
    stopped = natural[natural["finish_reason"] == "stop"]
    if stopped.empty:
        return f"None of {several(len(natural), 'generation')} with a natural end ended by itself."
    share = float((stopped["generated_tokens"] / stopped["max_tokens"]).median())
    return (
        f"{percent(len(stopped) / len(natural))} of {several(len(natural), 'generation')} with a "
        f"natural end ended by themselves, at the median after {percent(share)} of what was asked."
    )


def signed_percent(fraction: float) -> str:
    """Return a relative error with its sign, ``−0.4 %`` or ``+2,019 %``."""
    size = percent(abs(fraction))
    if abs(fraction) >= 10:
        size = f"{100 * abs(fraction):,.0f} %"
    sign = "" if size == percent(0.0) else "−" if fraction < 0 else "+"
    return f"{sign}{size}"


def table(view: View) -> pd.DataFrame:
    """Return one row per kind of end and length: what came, TTFT, total, prediction, error."""
    by, rows = ["length", "max_tokens"], []
    for _, part in view.data.groupby(by):
        kind, asked = str(part["length"].iloc[0]), float(part["max_tokens"].iloc[0])
        good = view.good[view.good["cell"].isin(part["cell"].unique())]
        came = good["generated_tokens"]
        tested = None
        if came.nunique() == 1:
            tested = view.test("generated", Place(asked, float(came.iloc[0])), kind)
        ttft, total = (estimates(part, c, by)[(kind, asked)] for c in ("ttft_s", "total_s"))
        against = "–"
        if kind == "natural" and asked == view.same_length:
            against = phrases.change(view.compare(("fixed", asked), ("natural", asked)))
        rows.append(
            {
                "length": kind,
                "max_tokens": f"{asked:,.0f}",
                "generated": _range(came),
                "finish": counts(good["finish_reason"].dropna().astype(str)) or "–",
                "trials": fr.status_words(part),
                "in the fit": "held out" if asked in view.held_out else "yes",
                "TTFT, ms": phrases.short(ttft, "ms"),
                "total, ms": phrases.short(total, "ms"),
                "line, ms": number(tested.predicted_s * MS) if tested else "–",
                "error": signed_percent(tested.error.median) if tested else "–",
                "natural against fixed": against,
            }
        )
    return tables.captioned(
        rows,
        f"{phrases.BRACKETS} Error: the line's prediction against the measurement. Natural against "
        "fixed: where both generate the same, what watching for the end costs.",
    )


def _range(values: pd.Series[float]) -> str:
    if values.empty:
        return "–"
    low, high = f"{values.min():,.0f}", f"{values.max():,.0f}"
    return low if low == high else f"{low}–{high}"


LOOKS = {"fixed": ("o", 0), "natural": ("s", 2), "generated": ("o", 0), "asked": ("D", 1)}
"""Marker and place in the ramp."""


@style.styled
def figure(view: View, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw total latency by tokens generated with its line, and errors where it saw nothing."""
    return layout.pair(
        axes,
        view,
        {"Latency by tokens generated": _draw_time, "Error at held-out lengths": _draw_errors},
        measured=bool(view.asked),
        above="Points: processes; hollow: held out from the line.",
        height=4.1,
    )


def _draw_time(ax: Axes, view: View) -> None:
    palette, points = style.ramp(4), view.points
    far = float(points["generated"].max())
    for (kind, unseen), part in points.groupby(["length", "unseen"]):
        marker, hue = LOOKS[str(kind)]
        ax.scatter(
            part["generated"] + far * (0.008 if kind == "natural" else -0.008),
            part["total_s"] * MS,
            s=22,
            marker=marker,
            facecolors=["white" if unseen else palette[hue]],
            edgecolors=[palette[hue]],
            alpha=0.75,
            zorder=2.5,
            label=f"_{kind} held out" if unseen else f"{kind} length",
        )
    if (fitted := view.lines["generated"]) is not None:
        xs = np.linspace(0, far, 60)
        rest, cost = phrases.amount(fitted.intercept, "ms"), phrases.slope(fitted, "ms")[0]
        fig.straight(ax, fitted, xs, f"{rest} + {cost} × tokens", "ms", style.INK)
    ax.set_xlim(0, far * 1.06)
    ax.set_ylim(0, float(points["total_s"].max()) * MS * 1.3 or 1)
    ax.set_xlabel("tokens generated")
    ax.set_ylabel("total latency, ms")
    ax.yaxis.set_major_formatter(layout.WHOLE)
    ax.legend(loc="upper left", borderaxespad=0.0)


def _draw_errors(ax: Axes, view: View) -> None:
    if not view.unseen_places or view.lines["generated"] is None:
        why = "Too few processes for a line" if view.unseen_places else "No length was held out"
        style.say_empty(ax, why)
        return
    palette, ticks, reach = style.ramp(4), dict[float, str](), 1.0
    for row, place in enumerate(view.unseen_places):
        top = row * (len(FORMULAS) + 1.2)
        at: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "fontweight": "bold"}
        layout.write(ax, place.words.replace(" tokens", " asked"), (0, top), (4, 0), **at)
        for step, over in enumerate(FORMULAS, start=1):
            tested = view.test(over, place)
            if tested is None:
                continue
            error, (marker, hue) = tested.error.times(100), LOOKS[over]
            look: dict[str, Any] = {"color": palette[hue], "label": f"_{over}"}
            ax.hlines(top + step, error.low, error.high, linewidth=2.6, alpha=0.5, **look)
            ax.plot([error.median], [top + step], marker=marker, linestyle="none", **look)
            ticks[top + step] = FORMULAS[over].removeprefix("through ")
            reach = max(reach, abs(error.low), abs(error.high))
    ax.axvline(0, color=style.INK, linewidth=0.9, zorder=0.8)
    ax.set_xlim(-reach * 1.15, reach * 1.15)
    layout.rows(ax, list(ticks.items()), -0.8, max(ticks) + 0.8)
    ax.set_xlabel("error of the prediction, %")
