"""Is a rich context faster? A chat, turn by turn, against short prompts.

Decode reads every weight once per token, and besides the keys and values of all tokens in the
context: so a token late in a conversation should take longer than one after a short prompt, by
``tokens × KV bytes per token / bandwidth``. What makes a rich context *look* faster is the
prompt cache, which leaves only the new message to evaluate, and the way of counting: tokens by
the whole time of an answer depend on how long its prefill was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.parameters import whole
from llm_latency.plan.spec import Plan
from llm_latency.records import frame as fr
from llm_latency.records.generation import LOST
from llm_latency.records.machines import on_one
from llm_latency.report import figure as fig
from llm_latency.report import layout, phrases, style, tables
from llm_latency.report.page import Answer, Run, model_name, no_answer
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimate, per_process
from llm_latency.words import escape, number, percent, several

SAMPLED = True
MOST_TURNS = 10_000
"""Turns that one process may be asked for."""
LANGUAGES = {"fr": "French", "en": "English"}
MODES = ("kept", "cold")
"""With the prompt cache, as an application keeps it, and without."""


def plan(
    model: str = "synthetic:tiny",
    conversation: Annotated[Grid, "languages of the chats: fr, en"] = ("fr", "en"),
    turns: Annotated[int, "turns of each chat, and short prompts, in one process"] = 10,
    short_tokens: Annotated[int, "length of a short prompt: about that of a message"] = 20,
    max_tokens: Annotated[int, "most tokens to generate in each turn"] = 24,
    length: Annotated[
        str, "natural: stop at end-of-generation; fixed: exactly so many"
    ] = "natural",
    via: str = "engine",
    n_ctx: int = 4096,
    rounds: int = 6,
    **options: Any,
) -> Plan:
    """Plan the chats that ship with the lab, turn by turn, and as many short prompts."""
    request = Request("conversation", locals(), names.check, sampled=True)
    count = whole("turns", request.one("turns"), 2, MOST_TURNS)  # a later one beside the first
    tokens = whole("max_tokens", request.one("max_tokens"), least=2)  # decode follows the first
    short_tokens = whole("short_tokens", request.one("short_tokens"))
    common = {
        "max_tokens": tokens,
        "length": request.one("length"),
        "via": request.one("via"),
        "repeats": count - 1,
        "page_cache": "resident",
    }
    # The twin is the first: a chat, whose turns show how much equal turns differ.
    cells = [
        request.cell(conversation=language, template="own", cache_mode=mode, **common)
        for language in request.many("conversation")
        for mode in MODES
    ]
    short = request.cell(prompt_tokens=short_tokens, cache_mode="cold", **common)
    if (need := short_tokens + short.workload.max_tokens) > short.settings.n_ctx:
        raise ParameterError(
            f"short_tokens={short_tokens} is refused: with max_tokens={tokens} it needs {need} "
            f"tokens of context, n_ctx={short.settings.n_ctx}; give a shorter prompt."
        )
    return request.plan([*cells, short], twins=cells[:1])


class Kind(NamedTuple):
    """What was asked in a process: a chat in a language, or short prompts; and how."""

    language: str | None
    mode: str

    @property
    def cell(self) -> dict[str, Any]:
        """Columns and values that name its rows."""
        return {"conversation": self.language, "cache_mode": self.mode}

    @property
    def words(self) -> str:
        """The chat in words, for Markdown."""
        if self.language is None:
            return "short prompts"
        return f"{LANGUAGES.get(self.language, escape(self.language))} chat"


SHORT = Kind(None, "cold")
"""Short prompts, without the prompt cache."""


class View:
    """The chats of a run, turn by turn, and how their speed is counted.

    Attributes
    ----------
    kinds : list of Kind
        What was measured: the chats, and the short prompts last.
    turns : int
        How many turns a process has; 0 where nothing was measured.
    data : pandas.DataFrame
        Rows that count, with ``token_s`` (seconds per token after the first), ``count_tps``
        (tokens by total latency), ``early_tps`` (the same, had the answer ended after a quarter of
        its tokens) and ``prefill_share`` (TTFT by total latency).
    """

    def __init__(self, run: Run) -> None:
        run = on_one(run)
        rows = run.frame()
        self.rows = rows.assign(
            token_s=1 / rows["decode_tps"],
            count_tps=rows["generated_tokens"] / rows["total_s"],
            early_tps=np.array([_early(times) for times in rows["itl_s"]], dtype=float),
            prefill_share=rows["ttft_s"] / rows["total_s"],
        )
        self.info = run.info
        self.data = fr.by_cell(self.rows)
        self.good = fr.ok(self.data)
        languages = [str(one) for one in self.data["conversation"].dropna().unique()]
        every = [Kind(one, mode) for one in sorted(languages, reverse=True) for mode in MODES]
        self.kinds = [kind for kind in [*every, SHORT] if len(self.of(kind))]
        repeats = self.good["repeat"].dropna()
        self.turns = int(repeats.max()) + 1 if len(repeats) else 0

    @property
    def third(self) -> int:
        """How many turns stand for the first, or the last, of a conversation."""
        return max(1, self.turns // 3)

    @property
    def chats(self) -> list[Kind]:
        """Each chat as an application holds it: with the prompt cache, if that was measured."""
        first = {kind.language: kind for kind in reversed(self.kinds) if kind.language}
        return [kind for kind in self.kinds if kind in first.values()]

    def of(self, kind: Kind) -> pd.DataFrame:
        """Return the rows of one kind that may enter an estimate."""
        chat = self.good["conversation"]
        asked = chat.isna() if kind.language is None else chat == kind.language
        return self.good[asked & (self.good["cache_mode"] == kind.mode)]

    def late(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of the last turns."""
        return rows[rows["repeat"] >= self.turns - self.third]

    def over(self, kind: Kind, column: str) -> Estimate:
        """Return the estimate of a column over a kind's last turns."""
        return estimate(per_process(self.late(self.of(kind)), column, ["cache_mode"])[column])

    def by_turn(self, kind: Kind, column: str) -> dict[int, Estimate]:
        """Return the estimate of a column in each turn, from 1."""
        each = per_process(self.of(kind), column, ["repeat"]).dropna()
        places = sorted(each["repeat"].unique())
        return {int(p) + 1: estimate(each.loc[each["repeat"] == p, column]) for p in places}

    def compare(self, column: str, base: Kind, other: Kind) -> Comparison:
        """Compare the last turns of two kinds, each process with its quickest turn."""
        late = self.late(self.rows)
        pair = [samples(late, column, **kind.cell) for kind in (base, other)]
        return compare(pair[0], pair[1], noise_floor(late, column))

    def against_own_start(self, column: str, kind: Kind) -> Comparison:
        """Compare the last turns of a kind with the first ones of the same processes."""
        late = self.late(self.rows)
        before = samples(self.rows[self.rows["repeat"] < self.third], column, **kind.cell)
        return compare(before, samples(late, column, **kind.cell), noise_floor(late, column))

    def ended(self, rows: pd.DataFrame) -> float | None:
        """Return the share of answers that ended by themselves; ``None`` where none was free to."""
        natural = rows[rows["length"] == "natural"]
        return float((natural["finish_reason"] == "stop").mean()) if len(natural) else None

    def slope(self, kind: Kind) -> Estimate:
        """Return the seconds that a further token of context adds to each token.

        The first turn is left out: it is the first generation after loading.
        """
        rows = self.of(kind).dropna(subset=["token_s", "prompt_tokens"])
        later = rows[rows["repeat"] > 0].groupby("process")
        return estimate(
            float(np.polyfit(one["prompt_tokens"], one["token_s"], 1)[0])
            for _, one in later
            if one["prompt_tokens"].nunique() > 1
        )


def _early(times: Any) -> float:
    """Return the speed of an answer that ends after a quarter of its tokens, at least one."""
    if not isinstance(times, list) or not times:
        return float("nan")
    count = max(1, len(times) // 4)
    return count / float(np.sum(times[:count]))


HEADS = {
    "slower": "A rich context is slower per token, not faster",
    "faster": "A rich context is faster per token",
    "same": "A rich context is as fast per token as a short prompt",
    "undecided": f"Whether a rich context is faster is {phrases.WORDS['undecided']}",
}


def deciding(view: View) -> list[Comparison]:
    """Return the comparisons on which the answer rests."""
    pairs = [(SHORT, chat) for chat in view.chats if SHORT in view.kinds]
    return [view.compare("token_s", *pair) for pair in pairs]


def answer(view: View) -> Answer:
    """Answer whether a token takes longer late in a conversation than after a short prompt."""
    if nothing := no_answer(view.data):
        return nothing
    chats = view.chats
    if not chats or SHORT not in view.kinds:
        lacking = "conversation" if not chats else "short prompt"
        sentence = f"Whether it is faster is {phrases.UNDECIDED}: no {lacking} was measured."
        return Answer(f"no {lacking} could be measured", "undecided", "", (sentence,))
    found = {kind: view.compare("token_s", SHORT, kind) for kind in chats}
    verdicts = {one.verdict for one in found.values()}
    verdict = verdicts.pop() if len(verdicts) == 1 else "undecided"
    kind, chat = chats[0], found[chats[0]]
    depths = view.late(view.of(kind))["prompt_tokens"]
    token = view.over(kind, "token_s")
    sentences = [
        f"**{HEADS[verdict]}.**",
        f"With {model_name(view.info)}, in the last {several(view.third, 'turn')} of the "
        f"{kind.words} ({depths.min():,.0f} to {depths.max():,.0f} tokens) a token takes "
        f"{phrases.estimate(token, 'ms', bold=False)}: against short prompts "
        f"{phrases.difference(chat)}{_ends(view)}.",
    ]
    if len(chats) > 1:
        others = "; ".join(f"{k.words} {phrases.change(found[k])}" for k in chats[1:])
        sentences.append(f"Against the same short prompts: {others}.")
    cold, kept = (Kind(kind.language, mode) for mode in ("cold", "kept"))
    if {cold, kept} <= set(view.kinds):
        sentences.append(
            f"What feels faster is the prompt cache: in these turns TTFT is "
            f"{phrases.median(view.over(kept, 'ttft_s'), 'ms')} with it, "
            f"{phrases.median(view.over(cold, 'ttft_s'), 'ms')} without, "
            f"{phrases.difference(view.compare('ttft_s', cold, kept))}."
        )
    sentences.append(phrases.noise(list(found.values())))
    line = f"a token in a rich context: {phrases.change(chat)}"
    sure = phrases.sureness(list(found.values()))
    return Answer(line, verdict, sure, tuple(filter(None, sentences)))


def _ends(view: View) -> str:
    """Say how many of the chats' answers ended by themselves, where they were free to."""
    share = view.ended(pd.concat([view.of(kind) for kind in view.chats]))
    return "" if share is None else f"; {percent(share)} of all answers ended by themselves"


def table(view: View) -> pd.DataFrame:
    """Return one row per kind of process: its last turns, compared, their speed counted 3 ways."""
    rows = []
    for kind in view.kinds:
        late = view.late(view.of(kind))
        share, ended = view.over(kind, "prefill_share").median, view.ended(late)
        row = {
            "asked": kind.words,
            "prompt cache": "kept" if kind.mode == "kept" else "none",
            "prompt, tokens": number(late["prompt_tokens"].median(), 0),
            "generated, tokens": number(late["generated_tokens"].median(), 0),
            "ended by itself": "–" if ended is None else percent(ended),
            "TTFT, ms": phrases.short(view.over(kind, "ttft_s"), "ms"),
            "token, ms": phrases.short(view.over(kind, "token_s"), "ms"),
        }
        for title, compared in {
            "short prompts": view.compare("token_s", SHORT, kind),
            "its own start": view.against_own_start("token_s", kind),
        }.items():
            row[f"token against {title}"] = phrases.change(compared) if kind != SHORT else "–"
        row |= {
            "1,000 tokens of context add, ms": phrases.short(view.slope(kind).times(1000), "ms"),
            "TTFT / total": percent(share),
        }
        for title, column in {
            "first quarter / its time, tok/s": "early_tps",
            "all / total latency, tok/s": "count_tps",
            "after the first / decode, tok/s": "decode_tps",
        }.items():
            row[title] = phrases.short(view.over(kind, column))
        rows.append(row)
    caption = f"The last {several(view.third, 'turn')}. {phrases.BRACKETS}"
    return tables.captioned(rows, caption)


def turns(view: View) -> pd.DataFrame:
    """Return one row per turn of each chat: its context, TTFT with and without cache, decode."""
    rows, nothing = [], estimate([])
    for language in dict.fromkeys(kind.language for kind in view.kinds if kind.language):
        chat = {mode: Kind(language, mode) for mode in ("cold", "kept")}
        of_chat = view.good[view.good["conversation"] == language]
        sizes = of_chat.groupby("repeat")["prompt_tokens"].median()
        told = _as_applications(view.of(chat["kept"]))
        new = view.of(chat["kept"]).groupby("repeat")["evaluated_tokens"].median()
        times = {
            f"{name} {mode}, ms": view.by_turn(kind, column)
            for name, column in (("TTFT", "ttft_s"), ("token", "token_s"))
            for mode, kind in chat.items()
        } | {"token after a short prompt, ms": view.by_turn(SHORT, "token_s")}
        for repeat, size in zip(sizes.index.astype(int), sizes, strict=True):
            row = {
                "chat": LANGUAGES.get(language, language),
                "turn": f"{repeat + 1}",
                "prompt, tokens": number(size, 0),
                "new, tokens": number(new.get(repeat, float("nan")), 0),
            }
            if told:
                row |= told.get(repeat, dict.fromkeys(AS_APPLICATIONS, "–"))
            for title, values in times.items():
                row[title] = phrases.short(values.get(repeat + 1, nothing), "ms")
            rows.append(row)
    why = {word for row in rows for word in row.get("why not more", "").split(", ")}
    reasons = "".join(f" {word.capitalize()}: {LOST[word]}." for word in LOST if word in why)
    caption = f"New: evaluated where the rest is in the prompt cache.{reasons} {phrases.BRACKETS}"
    return tables.captioned(rows, caption)


AS_APPLICATIONS = ("template, tokens", "found, tokens", "of, tokens", "why not more")
"""What is told of a chat where a template writes it anew in each turn."""


def _as_applications(kept: pd.DataFrame) -> dict[Any, dict[str, str]]:
    """Return by turn what the template added, and what of the chat before was found again."""
    found = {}
    for repeat, turn in kept[kept["template_tokens"].notna()].groupby("repeat"):
        sizes = turn[["template_tokens", "cached_tokens", "held_tokens"]].median()
        why = ", ".join(sorted(turn["lost"].dropna().unique())) or "–"
        told = [*(number(size, 0) for size in sizes), why]
        found[repeat] = dict(zip(AS_APPLICATIONS, told, strict=True))
    return found


LOOKS = {"kept": ("-", "o"), "cold": ((0, (5, 2)), "s")}
"""Dash and marker of a chat with the prompt cache and without."""


@style.styled
def figure(view: View, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw TTFT by turn, and time per token by turn beside that after short prompts."""
    return layout.pair(axes, view, {"TTFT by turn": _draw_ttft, "Decode by turn": _draw_tokens})


def _draw_ttft(ax: Axes, view: View) -> None:
    chats = [kind for kind in view.kinds if kind.language]
    _draw(view, ax, chats, "ttft_s", "TTFT, ms", "kept: with the prompt cache; cold: without.")


def _draw_tokens(ax: Axes, view: View) -> None:
    # As an application holds them: the prompt cache changes TTFT, and lines would cover lines.
    shown = [*view.chats, SHORT] if SHORT in view.kinds else view.chats
    sizes = view.good.loc[view.good["conversation"].notna(), "prompt_tokens"].dropna()
    said = f"Context: {sizes.min():,.0f} to {sizes.max():,.0f} tokens." if len(sizes) else ""
    _draw(view, ax, shown, "token_s", "ms per token", said)


def _draw(view: View, ax: Axes, kinds: list[Kind], column: str, label: str, said: str) -> None:
    languages = list(dict.fromkeys(kind.language for kind in kinds if kind.language))
    hues = dict(zip(languages, style.ramp(max(2, len(languages) + 1)), strict=False))
    drawn = []
    for kind in kinds:
        rows = view.of(kind)
        each = rows.assign(turn=rows["repeat"] + 1)
        dash, marker = ((0, (1.2, 1.6)), "^") if kind == SHORT else LOOKS[kind.mode]
        look = {"colour": hues.get(str(kind.language), style.MUTED), "dash": dash, "marker": marker}
        drawn.append(fig.line_of(_name(kind, kinds), each, "turn", column, "ms", **look))
    if not any(line.values for line in drawn):
        style.say_unmeasured(ax, view.data)
        return
    style.subtitle(ax, said)
    ax.set_xlabel("turn")
    ax.set_ylabel(label)
    ax.set_ylim(0, max(line.samples["y"].max() for line in drawn) * 1.06)
    ax.set_xlim(0.4, view.turns + 0.6)
    ax.set_xticks(range(1, view.turns + 1, 1 if view.turns <= 12 else -(-view.turns // 10)))
    fig.lines(ax, drawn, apart=0.012, zero=False)


def _name(kind: Kind, kinds: list[Kind]) -> str:
    """Return a line's name: no longer than what tells it from the others."""
    if kind == SHORT:
        return "short\nprompts"
    several_modes = len({one.mode for one in kinds if one.language}) > 1
    return f"{kind.language}, {kind.mode}" if several_modes else f"{kind.language}"
