"""Warm-ups: which one makes the first reply sooner, what it costs, and when it pays.

The first reply after loading waits for its whole prompt to be evaluated. Some of that can be done
before anybody asks: evaluating a few tokens only touches memory for the first time; evaluating the
system prompt leaves its keys and values in the KV cache, where the first question finds them; the
same cache written to a file once is read back at each start instead. A warm-up pays with time
before the question for time after it: it is free for a user who asks later than it takes, and on
demand it must save more than it costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple, get_args

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.loading import STATES
from llm_latency.plan.parameters import whole
from llm_latency.plan.spec import PREFIX_WARM_UPS, Plan, WarmUp
from llm_latency.records import frame as fr
from llm_latency.records.machines import on_one
from llm_latency.report import figure as fig
from llm_latency.report import layout, phrases, style, tables
from llm_latency.report.page import Answer, Run, model_name, no_answer
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimate, per_process
from llm_latency.words import MIB, MS, escape, number, percent

MOST_TOKENS = 2**30
"""Two of such a length are still a number of tokens that llama.cpp can count."""
NONE = "none"
PLACE = ["page_cache", "prompt_tokens"]
"""Columns of a :class:`Place`."""
ORDER: tuple[str, ...] = get_args(WarmUp)


def plan(
    model: str = "synthetic:tiny",
    warm_up: Annotated[Grid, "warm-ups to compare with none, or all of them"] = ("all",),
    page_cache: Annotated[Grid, "the file at start: resident in RAM, evicted, or as_is"] = (
        *("resident", "evicted"),
    ),
    system_tokens: Annotated[Grid, "lengths of the system prompt, in tokens"] = (100, 300),
    question_tokens: Annotated[int, "length of the question that follows it"] = 20,
    max_tokens: int = 16,
    via: str = "engine",
    n_ctx: int = 512,
    rounds: int = 6,
    repeats: int = 1,
    **options: Any,
) -> Plan:
    """Plan every warm-up with a system prompt and a question, in every state of the page cache.

    The longest system prompt is measured in every state, the shorter ones in the first only: they
    show how the costs grow.
    """
    request = Request("warm_up", locals(), names.check)
    named = request.chosen("warm_up", ("all", *ORDER))
    kinds = list(dict.fromkeys([NONE, *(ORDER if "all" in named else named)]))
    if kinds == [NONE]:
        raise ParameterError("warm_up='none' is refused: give a warm-up to compare it with.")
    states = request.many("page_cache")
    lengths = sorted(
        whole("system_tokens", n, most=MOST_TOKENS) for n in request.many("system_tokens")
    )
    question = whole("question_tokens", request.one("question_tokens"), most=MOST_TOKENS)
    cells = {
        (system, state, kind): request.cell(
            prompt_tokens=system + question,
            max_tokens=request.one("max_tokens"),
            via=request.one("via"),
            cache_mode="prefix" if kind in PREFIX_WARM_UPS else "cold",
            prefix_tokens=system if kind in PREFIX_WARM_UPS else 0,
            repeats=request.one("repeats"),
            page_cache=state,
            warm_up=kind,
        )
        for system in reversed(lengths)
        for state in (states if system == lengths[-1] else states[:1])
        for kind in kinds
    }
    n_ctx, need = request.one("n_ctx"), lengths[-1] + question + request.one("max_tokens")
    if need > n_ctx:
        raise ParameterError(
            f"n_ctx={n_ctx} cannot hold the longest system prompt, the question and max_tokens: "
            f"give n_ctx={need} or more, or fewer system_tokens or question_tokens."
        )
    # Loads from the disk scatter more than loads from RAM: each state has a noise of its own.
    twins = [cells[lengths[-1], state, NONE] for state in states]
    return request.plan(list(cells.values()), twins=twins)


class Place(NamedTuple):
    """Where warm-ups can be compared: one state of the page cache, one length of first prompt."""

    page_cache: str
    tokens: float

    @property
    def words(self) -> str:
        """The state of the model's file in words."""
        return STATES[self.page_cache]


class View:
    """The first generation of every process, by place and warm-up.

    Attributes
    ----------
    planned : dict
        By place, the longest prompt first: the warm-ups that were tried.
    measured : dict
        The same for those in which a first reply was measured.
    uncut : bool
        Whether the model's state cannot be cut: then no later reply finds its system prompt kept,
        and those for which the lab evaluated it anew before the clock are left out.
    """

    def __init__(self, run: Run) -> None:
        run = on_one(run)
        rows = run.frame()
        rows = rows.assign(
            bare_load_s=rows["load_s"] - rows["warm_up_s"],
            load_and_ttft_s=rows["load_s"] + rows["ttft_s"],
        )
        self.info = run.info
        self.data = fr.by_cell(rows)
        refilled = rows["refilled_tokens"] > 0
        self.uncut = bool(refilled.any())
        self.first, self.later = rows[rows["repeat"] == 0], rows[(rows["repeat"] >= 1) & ~refilled]
        self.planned = _by_place(self.data)
        good = fr.ok(self.data)
        self.measured = _by_place(good[(good["repeat"] == 0) & good["ttft_s"].notna()])

    @property
    def compared(self) -> list[Place]:
        """Places in which a warm-up can be compared with none, the leading one first."""
        return [p for p, kinds in self.measured.items() if NONE in kinds and len(kinds) > 1]

    def others(self, place: Place) -> list[str]:
        """Return the warm-ups of a place other than none."""
        return [kind for kind in self.measured[place] if kind != NONE]

    def samples(
        self, column: str, place: Place, kind: str, *, later: bool = False
    ) -> pd.Series[float]:
        """Return one number per round: of the first reply, or of the ``later`` ones."""
        return samples(
            self.later if later else self.first,
            column,
            within="median",
            page_cache=place.page_cache,
            prompt_tokens=place.tokens,
            warm_up=kind,
        )

    def estimate(self, column: str, place: Place, kind: str, *, later: bool = False) -> Estimate:
        """Return the estimate over the processes of one warm-up."""
        return estimate(self.samples(column, place, kind, later=later))

    def difference(self, column: str, place: Place, kind: str) -> Estimate:
        """Return by how much a warm-up's figure exceeds none's, round by round."""
        a, b = (self.samples(column, place, one) for one in (NONE, kind))
        return estimate((b - a).dropna())

    def compare(self, column: str, place: Place, kind: str) -> Comparison:
        """Compare a warm-up with none, by the noise of its state."""
        a, b = (self.samples(column, place, one) for one in (NONE, kind))
        of_state = self.first[self.first["page_cache"] == place.page_cache]
        return compare(a, b, noise_floor(of_state, column))

    def worth(self, place: Place, kind: str) -> float | None:
        """Return the share of loads that must be followed by a question for it to save time.

        The warm-up is paid at every load, its saving comes with every first reply. ``None`` where
        nothing is saved for sure.
        """
        if self.compare("ttft_s", place, kind).verdict != "faster":
            return None
        saved = -self.difference("ttft_s", place, kind).median
        return self.estimate("warm_up_s", place, kind).median / saved


def _by_place(rows: pd.DataFrame) -> dict[Place, list[str]]:
    """Return the warm-ups of some rows by place: the longest prompt first, then the states."""
    found: dict[Place, set[str]] = {}
    for *place, kind in rows[[*PLACE, "warm_up"]].itertuples(index=False, name=None):
        found.setdefault(Place(*place), set()).add(kind)
    places = sorted(found, key=lambda p: (-p.tokens, list(STATES).index(p.page_cache)))
    return {place: sorted(found[place], key=ORDER.index) for place in places}


def deciding(view: View) -> list[Comparison]:
    """Return the comparisons on which the answer rests."""
    if not view.compared:
        return []
    place = view.compared[0]
    columns = ("ttft_s", "load_and_ttft_s")
    return [view.compare(c, place, kind) for c in columns for kind in view.others(place)]


def answer(view: View) -> Answer:
    """Answer which warm-up makes the first reply sooner, what it costs, and when it pays."""
    if nothing := no_answer(view.data):
        return nothing
    if not view.compared:
        sentence = f"Which pays is {phrases.UNDECIDED}: none was measured beside its absence."
        return Answer("no warm-up was measured beside none", "undecided", "", (sentence,))
    place = view.compared[0]
    kinds = view.others(place)
    best = min(kinds, key=lambda kind: view.estimate("ttft_s", place, kind).median)
    found = {kind: view.compare("ttft_s", place, kind) for kind in kinds}
    chosen = found[best]
    alone, warmed = (view.estimate("ttft_s", place, kind) for kind in (NONE, best))
    sentences = [
        f"With {model_name(view.info)}, the {place.words} and a first prompt of "
        f"{place.tokens:,.0f} tokens, the first token comes after {phrases.estimate(alone, 'ms')} "
        "without a warm-up.",
        f"It comes soonest with **{escape(best)}**, after {phrases.median(warmed, 'ms')}, "
        f"{phrases.share(chosen.ratio)} of that: {phrases.verdict(chosen)}.",
        _cost(view, place, best),
        _on_demand(view, place, kinds) + (f" {phrases.UNCUT}." if view.uncut else ""),
        phrases.noise(list(found.values())),
    ]
    line = f"{best}: the first TTFT falls to {percent(chosen.ratio.median)}"
    if chosen.verdict != "faster":
        line = f"no warm-up is surely sooner; the nearest is {best}"
    sure = phrases.sureness(list(found.values()))
    return Answer(line, chosen.verdict, sure, tuple(filter(None, sentences)))


def _cost(view: View, place: Place, kind: str) -> str:
    """Say what a warm-up costs in time, RAM and disk, and when it saves time over many loads."""
    spent = view.estimate("warm_up_s", place, kind)
    ram = view.difference("rss_after_load_bytes", place, kind)
    size = view.estimate("state_bytes", place, kind)
    costs = [phrases.estimate(spent, "ms", bold=False)]
    costs += [f"{phrases.median(ram, 'MiB')} of RAM"] if ram.n else []
    costs += [f"a file of {phrases.median(size, 'MiB')}"] if size.n else []
    worth = view.worth(place, kind)
    if worth is None:
        return f"It costs {', '.join(costs)}."
    pays = f"over many loads it saves time if {percent(worth)} of them are followed by a question"
    return f"It costs {', '.join(costs)}: {pays if worth <= 1 else 'more than it saves'}."


def _on_demand(view: View, place: Place, kinds: list[str]) -> str:
    """Say which warm-ups help where the model is loaded only when the question is there."""
    found = {kind: view.compare("load_and_ttft_s", place, kind) for kind in kinds}
    helping = [escape(kind) for kind, one in found.items() if one.verdict == "faster"]
    if not helping:
        return "Loaded on demand, with the question waiting, no warm-up surely brings it sooner."
    return f"Loaded on demand, load and first token together are sooner with {', '.join(helping)}."


def table(view: View) -> pd.DataFrame:
    """Return one row per page cache, prompt and warm-up: what it brings and what it costs."""
    rows = []
    for place, kinds in view.measured.items():
        for kind in kinds:
            at = (place, kind)
            compared = NONE in kinds and kind != NONE
            worth = view.worth(place, kind) if compared else None
            row = {
                "page cache": place.page_cache,
                "first prompt, tokens": f"{place.tokens:.0f}",
                "warm-up": kind,
                "first TTFT, ms": phrases.short(view.estimate("ttft_s", *at), "ms"),
                "later TTFT, ms": phrases.short(view.estimate("ttft_s", *at, later=True), "ms"),
            }
            for name, column in {
                "first TTFT against none": "ttft_s",
                "load and TTFT against none": "load_and_ttft_s",
                "load without it against none": "bare_load_s",
            }.items():
                row[name] = phrases.change(view.compare(column, *at)) if compared else "–"
            row |= {
                "warm-up, ms": phrases.short(view.estimate("warm_up_s", *at), "ms"),
                "saves if asked after": percent(worth) if worth is not None else "–",
                "load with it, ms": phrases.short(view.estimate("load_s", *at), "ms"),
            }
            for name, (column, factor) in {
                "RAM after load, MiB": ("rss_after_load_bytes", MIB),
                "RAM peak, MiB": ("rss_peak_bytes", MIB),
                "file, MiB": ("state_bytes", MIB),
                "file: evaluate, ms": ("state_evaluate_s", MS),
                "file: save, ms": ("state_save_s", MS),
            }.items():
                row[name] = number(view.estimate(column, *at).median * factor)
            rows.append(row)
    return tables.captioned(
        rows,
        f"{phrases.BRACKETS} Saves if asked after: share of loads that must be followed by a "
        "question for the warm-up to save more time than it takes.",
    )


PAID, WAITED = "#c3ccd6", "#27375f"
"""Colours of the warm-up and of the first TTFT: light and dark, in print too."""
HEIGHT = 0.62


@style.styled
def figure(view: View, ax: Axes | None = None) -> Axes:
    """Draw the warm-up to the left of the question and the first TTFT to its right.

    One bar per warm-up and state of the page cache, at the longest prompt; points are processes.
    Both parts begin at zero, so that both can be compared.
    """
    own = ax is None
    longest = max((place.tokens for place in view.planned), default=0.0)
    groups = {place: kinds for place, kinds in view.planned.items() if place.tokens == longest}
    ax = ax or style.new_axes(8.0, 1.5 + 0.33 * sum(1 + len(kinds) for kinds in groups.values()))
    ax.set_title("Warm-up and first reply")
    if not view.measured:
        return style.say_unmeasured(ax, view.data)
    left, right = _reach(view, groups)
    y, ticks = 0.0, []
    for place, kinds in groups.items():
        layout.write(ax, f"model's {place.words}", (-left * 1.18, y), (0, 0), fontweight="bold")
        for kind in kinds:
            y += 1
            ticks.append((y, kind))
            if kind in view.measured.get(place, []):
                _bar(ax, view, y, place, kind)
            else:
                cell = view.data[[*PLACE, "warm_up"]] == [*place, kind]
                words = fr.status_words(view.data[cell.all(axis=1)])
                style.hatch_box(ax, 0, y - HEIGHT / 2, right * 0.5, HEIGHT, words)
        y += 1.3
    ax.axvline(0, color=style.INK, linewidth=1.0)
    ax.set_xlim(-left * 1.2, right * 1.16)
    layout.rows(ax, ticks, -0.8, y - 0.6)
    ax.xaxis.set_major_formatter(lambda x, _: f"{abs(x):,.10g}")
    ax.set_xlabel("◀ warm-up, paid before the question   |   first TTFT, waited ▶   (ms)")
    style.subtitle(ax, f"First prompt of {longest:,.0f} tokens. Bars: medians; points: processes.")
    style.say_below(ax, style.say_failures(view.data), own)
    return ax


def _reach(view: View, groups: dict[Place, list[str]]) -> tuple[float, float]:
    """Return how far the bars go to either side, in ms."""
    shown = [(place, kind) for place in groups for kind in view.measured.get(place, [])]
    before, after = (
        max((view.samples(name, *at).max() * MS for at in shown), default=0.0)
        for name in ("warm_up_s", "ttft_s")
    )
    after = after or 1.0
    # Without any warm-up the group's name still needs a place.
    return max(before, 0.25 * after), after


def _bar(ax: Axes, view: View, y: float, place: Place, kind: str) -> None:
    for name, sign, colour in (("warm_up_s", -1, PAID), ("ttft_s", 1, WAITED)):
        each = view.samples(name, place, kind) * MS
        middle = float(each.median())
        if not middle > 0:
            continue
        ax.barh(y, sign * middle, HEIGHT, color=colour, label=f"_{name} {kind}")
        below = np.full(len(each), y + HEIGHT / 2 + 0.1)  # the bar's end has the number
        ax.scatter(sign * each, below, s=13, color=style.MUTED, zorder=3, label="_samples")
        ha, color = ("left", style.INK) if sign > 0 else ("right", style.MUTED)
        layout.write(ax, number(middle), (sign * middle, y), (sign * 6, 0), ha=ha, color=color)


@style.styled
def by_prompt(view: View, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw warm-up and first TTFT against the length of the first prompt, a line per warm-up."""
    leading = next(iter(view.measured), None)
    return layout.pair(
        axes,
        view,
        {
            "Warm-up, paid before": partial(_lines, column="warm_up_s"),
            "First TTFT, waited": partial(_lines, column="ttft_s"),
        },
        measured=leading is not None,
        above=f"Model's {leading.words}. Points: processes; lines: medians." if leading else "",
    )


def _lines(ax: Axes, view: View, column: str) -> None:
    rows = view.first[view.first["page_cache"] == next(iter(view.measured)).page_cache]
    each = per_process(rows, column, ["warm_up", "prompt_tokens"]).dropna()
    drawn = []
    for kind, colour, marker in zip(ORDER, style.ramp(len(ORDER)), style.MARKERS, strict=False):
        look = {"colour": colour, "marker": marker, "dash": "-"}
        own = each[each["warm_up"] == kind]
        drawn.append(fig.line_of(kind, own, "prompt_tokens", column, "ms", **look))
    fig.lines(ax, drawn[1:] if column == "warm_up_s" else drawn)  # the first is without any
    ax.set_xticks(sorted(each["prompt_tokens"].unique()))
    ax.set_xlabel("first prompt, tokens")
    ax.set_ylabel("ms")
