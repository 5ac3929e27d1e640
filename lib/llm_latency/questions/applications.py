"""What does the way in cost? One prompt and one answer, by every way that an application has.

Between an application and llama.cpp lie a template that writes a chat as text, a tokenizer, a
sampler that reads a score of every token of the vocabulary, Python's part per token, or HTTP. The
model's own work is the same whatever the way: so what a way adds is what remains of its time when
evaluation and sampling are taken off. It is small beside a large model, and the larger the smaller
the model is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.parameters import whole
from llm_latency.plan.settings import padded
from llm_latency.plan.spec import Plan, Trial
from llm_latency.records import frame as fr
from llm_latency.records.machines import on_one
from llm_latency.report import figure as fig
from llm_latency.report import layout, phrases, style, tables
from llm_latency.report.page import Answer, Run, code, model_name, no_answer
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimate, per_process
from llm_latency.words import MIB, MS, number

SAMPLED = True
MOST_AT_ONCE = 64
BASE = "engine"
"""The least that stands between an application and llama.cpp."""
CALLS = {
    "engine": "llama.cpp's calls alone",
    "generate": "Llama.generate",
    "stream": "create_completion",
    "chat": "create_chat_completion",
    "server": "llama-server, HTTP",
}
"""What an application calls."""
WAYS = tuple(CALLS)
FIRST = {"template": "template_s", "sampling": "sampling_token_s", "the rest": "first_rest_s"}
"""What is added to the first token besides evaluating the prompt, and its columns."""
LATER = {"sampling": "sampling_token_s", "the rest": "token_rest_s"}
"""What is added to each token after it."""


def plan(
    model: str = "synthetic:tiny",
    via: Annotated[Grid, "ways in: engine, generate, stream, chat, server"] = WAYS,
    prompt_tokens: Annotated[int, "length of the chat's first message and its template"] = 128,
    max_tokens: Annotated[int, "tokens to generate, whatever the way"] = 32,
    at_once: Annotated[Grid, "requests at once through llama-server, which share n_ctx"] = (
        *(1, 2, 4),
    ),
    n_ctx: int = 1024,
    rounds: int = 6,
    repeats: int = 2,
    **options: Any,
) -> Plan:
    """Plan the same chat by every way, and several at once by the server, all of them cold."""
    request = Request("applications", locals(), names.check, sampled=True)
    ways = dict.fromkeys([BASE, *request.chosen("via", WAYS)])
    crowds = [whole("at_once", count, most=MOST_AT_ONCE) for count in request.many("at_once")]
    asked = {
        "prompt_tokens": request.one("prompt_tokens"),
        "template": "own",
        "max_tokens": request.one("max_tokens"),
        "repeats": request.one("repeats"),
        "page_cache": "resident",
    }
    cells = [request.cell(via=way, **asked) for way in ways]
    if "server" in ways:
        cells += [request.cell(via="server", at_once=n, **asked) for n in crowds if n > 1]
    _check_shares(cells)
    return request.plan(cells, twins=cells[:1])


def _check_shares(cells: Sequence[Trial]) -> None:
    """Refuse more requests at once than the context has room for."""
    for cell in cells:
        work, n_ctx = cell.workload, cell.settings.n_ctx
        need = (work.at_once or 0) * padded((work.prompt_tokens or 0) + work.max_tokens)
        if need > n_ctx:
            raise ParameterError(
                f"n_ctx={n_ctx} is refused: at_once={work.at_once} requests of "
                f"prompt_tokens={work.prompt_tokens} and max_tokens={work.max_tokens} share it; "
                f"give n_ctx={need} or more, or fewer at once."
            )


class View:
    """The ways of a run, and what each adds to the model's own work.

    Attributes
    ----------
    data, good : pandas.DataFrame
        Rows that count, and those that may enter an estimate, with ``token_s`` (seconds per token
        after the first) and what is left of both times without evaluation, template and sampling:
        ``first_rest_s`` and ``token_rest_s``. The server counts its sampling as evaluation, and
        does not tell it apart.
    planned, measured : list of str
        The ways that were tried, and those that were measured, one request at a time.
    crowds : list of int
        How many requests were answered at once by the server, one among them.
    """

    def __init__(self, run: Run) -> None:
        run = on_one(run)
        rows = run.frame()
        later = (rows["generated_tokens"] - 1).where(lambda count: count > 0)
        token_s = rows["decode_s"] / later
        chosen_s, written_s = rows["sampling_token_s"].fillna(0), rows["template_s"].fillna(0)
        self.rows = rows.assign(
            token_s=token_s,
            first_rest_s=rows["ttft_s"] - rows["engine_prefill_s"] - written_s - chosen_s,
            token_rest_s=token_s - rows["engine_decode_s"] / later - chosen_s,
        )
        self.info, self.data = run.info, fr.by_cell(self.rows)
        self.good = fr.ok(self.data)
        alone = self.data[self.data["at_once"].isna()]
        tried, known = (set(part["via"].dropna()) for part in (alone, fr.ok(alone)))
        self.planned = [way for way in WAYS if way in tried]
        self.measured = [way for way in self.planned if way in known]
        served = self.good[self.good["via"] == "server"]
        self.crowds = sorted({int(count) for count in served["at_once"].fillna(1)})

    @property
    def others(self) -> list[str]:
        """The ways that can be compared with the base."""
        return [way for way in self.measured if way != BASE] if BASE in self.measured else []

    def estimate(self, way: str, column: str, at_once: int = 1) -> Estimate:
        """Return the estimate of a column over the processes of a way."""
        count = self.good["at_once"].fillna(1)
        part = self.good[(self.good["via"] == way) & (count == at_once)]
        return estimate(per_process(part, column, ["via"])[column])

    def against(self, way: str, column: str) -> Comparison:
        """Compare a way with the base, round by round."""
        pair = [samples(self.rows, column, via=one, at_once=None) for one in (BASE, way)]
        return compare(pair[0], pair[1], noise_floor(self.rows, column))

    def added(self, way: str, parts: dict[str, str]) -> dict[str, float]:
        """Return the median seconds of each part that a way adds, where it is known."""
        found = {name: self.estimate(way, column).median for name, column in parts.items()}
        return {name: max(0.0, value) for name, value in found.items() if value == value}


def deciding(view: View) -> list[Comparison]:
    """Return the comparisons on which the answer rests."""
    return [view.against(way, column) for way in view.others for column in ("ttft_s", "token_s")]


def answer(view: View) -> Answer:
    """Answer what each way costs beside llama.cpp's calls alone, and what to do about it."""
    if nothing := no_answer(view.data):
        return nothing
    if not view.others:
        lacking = "only one way was measured" if view.measured == [BASE] else f"{BASE} failed"
        return Answer(lacking, "undecided", "", (f"What a way in costs is not known: {lacking}.",))
    found = {way: view.against(way, "token_s") for way in view.others}
    dearest = max(found, key=lambda way: found[way].change if found[way].ratio.n else -1.0)
    worst = found[dearest]
    token = view.estimate(BASE, "token_s")
    sentences = [
        f"With {model_name(view.info)}, a token takes {phrases.estimate(token, 'ms')} by "
        f"llama.cpp's calls alone; by {_called(dearest)}, which adds most, it takes "
        f"{phrases.difference(worst)}.",
        _crowd(view) or _others(found, dearest),
        _first(view),
        _advice(view),
        phrases.noise(deciding(view)),
    ]
    line = f"{dearest} against {BASE}: a token {phrases.change(worst)}"
    sure = phrases.sureness(deciding(view))
    return Answer(line, worst.verdict, sure, tuple(filter(None, sentences)))


def _called(way: str) -> str:
    return f"{way} ({code(CALLS[way])})" if way in CALLS else way


def _others(found: dict[str, Comparison], dearest: str) -> str:
    told = [f"{way} {phrases.change(one)}" for way, one in found.items() if way != dearest]
    return f"A token by the other ways: {'; '.join(told)}." if told else ""


def _crowd(view: View) -> str:
    """Say what most requests at once wait, get and have, against one alone."""
    if len(view.crowds) < 2 or view.crowds[0] != 1:
        return ""
    most = view.crowds[-1]
    (one, many), (alone, all_of_them) = (
        [view.estimate("server", column, count) for count in (1, most)]
        for column in ("ttft_s", "together_tps")
    )
    return (
        f"Of {most} requests at once the server begins the last after "
        f"{phrases.median(many, 'ms')}, {phrases.median(one, 'ms')} alone; all together get "
        f"{phrases.median(all_of_them, 'tok/s')}, {phrases.median(alone, 'tok/s')} alone, and each "
        f"has {number(_share(view, most), 0)} tokens of context."
    )


def _share(view: View, at_once: int) -> float:
    return view.estimate("server", "effective_n_ctx", at_once).median / at_once


def _first(view: View) -> str:
    """Say what the ways add to the first token."""
    told = [f"{way} {phrases.change(view.against(way, 'ttft_s'))}" for way in view.others]
    template = view.estimate("chat", "template_s")
    parts = f"; the template and its tokens take {phrases.median(template, 'ms')}"
    return f"TTFT: {'; '.join(told)}{parts if template.n else ''}."


def _advice(view: View) -> str:
    """Say what an application can do about the part that is largest."""
    taken = {
        column: {way: view.estimate(way, column).median for way in view.measured}
        for column in LATER.values()
    }
    chosen = max((value for value in taken[LATER["sampling"]].values() if value > 0), default=0.0)
    rest = {way: taken[LATER["the rest"]][way] for way in view.others}
    way = max(rest, key=lambda one: rest[one] if rest[one] == rest[one] else -1.0)
    if not max(chosen, rest[way]) > 0:
        return ""
    if chosen >= rest[way]:
        greedy = set(view.data["sampling"]) == {"greedy"}
        helps = f"a {code('top_k')} helps, and no penalties, each of which reads all of it"
        return (
            f"Most of it is choosing the token, {phrases.amount(chosen, 'ms')} whatever the way, "
            f"for a score of the whole vocabulary is read{'' if greedy else f': {helps}'}."
        )
    if way == "server":
        return (
            f"Over HTTP {phrases.amount(rest[way], 'ms')} a token remain: ask it from the same "
            "machine, and read its answer as it comes."
        )
    return (
        f"By {way} {phrases.amount(rest[way], 'ms')} a token are Python's, more the longer the "
        f"answer, for all of it is made text again at each token; {code('Llama.generate')} does "
        "not do that."
    )


def table(view: View) -> pd.DataFrame:
    """Return one row per way: its times, compared, what they consist of, and its memory."""
    rows = []
    for way in view.planned:
        part = view.data[(view.data["via"] == way) & view.data["at_once"].isna()]
        row = {"way": way, "calls": CALLS.get(way, ""), "trials": fr.status_words(part)}
        for title, column in (("TTFT", "ttft_s"), ("token", "token_s")):
            row[f"{title}, ms"] = phrases.short(view.estimate(way, column), "ms")
            compared = way in view.others
            change = phrases.change(view.against(way, column)) if compared else "–"
            row[f"{title} against {BASE}"] = change
        row["decode, tok/s"] = phrases.short(view.estimate(way, "decode_tps"))
        row["template, ms"] = _amount(view, way, "template_s")
        row["sampling, ms per token"] = _amount(view, way, "sampling_token_s")
        row["rest of TTFT, ms"] = _amount(view, way, "first_rest_s")
        row["rest per token, ms"] = _amount(view, way, "token_rest_s")
        row["RSS peak, MiB"] = number(view.estimate(way, "rss_peak_bytes").median * MIB)
        rows.append(row)
    return tables.captioned(
        rows,
        "Rest: without evaluation, template and sampling; Python's part, or HTTP's. The server "
        "counts its sampling, and what else it does between two tokens, as evaluation. RSS: of the "
        f"process that holds the model. {phrases.BRACKETS}",
    )


def crowd(view: View) -> pd.DataFrame:
    """Return one row per number of requests at once: what each waits, gets and has."""
    rows = []
    for count in view.crowds:
        told = partial(view.estimate, "server", at_once=count)
        rows.append(
            {
                "requests at once": f"{count}",
                "n_ctx each": number(_share(view, count), 0),
                "TTFT of the last, ms": phrases.short(told("ttft_s"), "ms"),
                "total, ms": phrases.short(told("total_s"), "ms"),
                "each, tok/s": phrases.short(told("decode_tps")),
                "all together, tok/s": phrases.short(told("together_tps")),
                "RSS peak, MiB": number(told("rss_peak_bytes").median * MIB),
            }
        )
    return tables.captioned(
        rows,
        "The same question that often, asked of llama-server at one time; what is told is of the "
        f"one that waited longest. All together: prefill included. {phrases.BRACKETS}",
    )


def _amount(view: View, way: str, column: str) -> str:
    return phrases.minus(number(view.estimate(way, column).median * MS))


COLOURS = {"template": "#c3ccd6", "sampling": "#7f92ab", "the rest": "#27375f"}
"""From light to dark, in print too."""


@style.styled
def figure(view: View, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw what each way adds to the first token, and to each token after it."""
    return layout.pair(
        axes,
        view,
        {
            "Added to the first token": partial(_bars, parts=FIRST),
            "Added to each token after it": partial(_bars, parts=LATER),
        },
        measured=bool(view.measured),
        above="Without the evaluation itself. Medians of processes.",
        height=1.9 + 0.45 * max(2, len(view.planned)),
    )


def _bars(ax: Axes, view: View, parts: dict[str, str]) -> None:
    added = {way: view.added(way, parts) for way in view.measured}
    reach = max((sum(each.values()) for each in added.values()), default=0.0) * MS or 1.0
    for place, way in enumerate(view.planned):
        if way not in added:
            word = fr.status_words(view.data[view.data["via"] == way])
            style.hatch_box(ax, 0, place - 0.3, reach * 0.5, 0.6, word)
            continue
        sizes = {name: value * MS for name, value in added[way].items()}
        # Narrow axes: only a long part has room for its number.
        end = fig.stack(ax, place, sizes, COLOURS, lying=True, reach=reach * 3)
        untold = "" if "sampling" in sizes else " HTTP;\nits own work not told"
        layout.write(ax, f"{number(end)}{untold}", (end, place), (5, 0), ha="left", fontsize=9)
    layout.rows(ax, list(enumerate(view.planned)), -0.6, len(view.planned) - 0.4)
    ax.set_xlim(0, reach * 1.6)
    ax.set_xlabel("ms")
    handles = [ax.barh([0], [0], color=COLOURS[name], label=name) for name in parts]
    below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.22)}
    ax.legend(handles=handles, ncols=len(parts), fontsize=8.5, **below)
