"""Which ``n_ctx`` is enough, and what more of it costs: in memory, and per token.

The KV cache holds a key and a value per layer for every token of context:
``2 × layers × KV heads × head width × bytes``, times ``n_ctx``. It is allocated and set to zero
when the context is created, whether it is ever filled or not; so what more context costs is paid
in memory at once. A token's time follows the tokens that *are* in the context, since decode reads
the cache of those: at the same depth a larger ``n_ctx`` should cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.parameters import as_list, whole
from llm_latency.plan.settings import padded
from llm_latency.plan.spec import Plan
from llm_latency.records import frame as fr
from llm_latency.records.machines import on_one
from llm_latency.report import figure as fig
from llm_latency.report import layout, phrases, style, tables
from llm_latency.report.labels import End
from llm_latency.report.page import Answer, Run, code, model_name, no_answer, parameters_of
from llm_latency.stats import fit
from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import Estimate, estimate, per_process
from llm_latency.words import MIB, MS, number, percent, several

QUESTION_TOKENS = 16
"""Tokens that are asked on top of what the context holds."""
CHAT_N_CTX = 2048
"""Least context of the process in which the turns of a conversation are counted."""
MOST_TURNS = 11
"""Turns that are counted; those beyond go on at the same rate."""
ANSWER_TOKENS = 128
"""Room for the last answer where the run does not tell."""


def plan(
    model: str = "synthetic:tiny",
    n_ctx: Grid = (512, 1024, 2048, 4096),
    fill: Annotated[Grid, "shares of n_ctx that are in the KV cache before the question"] = (
        *(0.0, 0.45, 0.9),
    ),
    turns: Annotated[Grid, "lengths of conversation to find an n_ctx for"] = (3, 10, 30),
    answer_tokens: Annotated[int, "room left for the last answer of a conversation"] = 128,
    max_tokens: int = 16,
    rounds: int = 6,
    **options: Any,
) -> Plan:
    """Plan each ``n_ctx``, empty and filled, and a conversation whose turns are counted.

    Shares that give two sizes the same number of tokens let these be compared there.
    """
    request = Request("context_size", locals(), names.check)
    lengths = [whole("turns", value) for value in request.many("turns")]
    whole("answer_tokens", request.one("answer_tokens"))
    tokens = whole("max_tokens", request.one("max_tokens"), least=2)  # decode follows the first
    common = {"repeats": 1, "page_cache": "resident", "max_tokens": tokens}
    cells = []
    for size in request.many("n_ctx"):
        # Whatever is wrong with a size is refused here, before it is counted.
        empty = request.cell(n_ctx=size, prompt_tokens=QUESTION_TOKENS, **common)
        for share in request.many("fill"):
            prefix = _prefix(share, size, tokens)
            filled = {"prompt_tokens": prefix + QUESTION_TOKENS, "prefix_tokens": prefix}
            cells.append(
                request.cell(n_ctx=size, cache_mode="prefix", **filled, **common)
                if prefix
                else empty
            )
    # The twin is a short one, and so it shows the most noise.
    short = min(cells, key=lambda cell: (cell.workload.prefix_tokens, -cell.settings.n_ctx))
    chat = request.cell(
        n_ctx=max(CHAT_N_CTX, *request.many("n_ctx")),
        conversation="fr",
        cache_mode="kept",
        max_tokens=1,
        repeats=min(max(lengths), MOST_TURNS) - 1,
        page_cache="resident",
    )
    return request.plan([*cells, chat], twins=[short])


def _prefix(share: Any, n_ctx: int, max_tokens: int) -> int:
    """Return how many tokens a share of the context is, if question and answer fit behind."""
    if type(share) not in (int, float) or not 0 <= share < 1:
        raise ParameterError(
            f"fill={share!r} is refused: give shares of n_ctx from 0 to below 1, such as 0.5."
        )
    prefix: int = round(share * n_ctx)
    room = n_ctx - prefix
    if room < QUESTION_TOKENS + max_tokens:
        raise ParameterError(
            f"fill={share!r} of n_ctx={n_ctx} leaves {room} tokens, but question and answer need "
            f"{QUESTION_TOKENS + max_tokens}; give a smaller fill, a larger n_ctx or fewer "
            "max_tokens."
        )
    return prefix


class Need(NamedTuple):
    """What a conversation needs: its turns, the last prompt and room for its answer, in tokens.

    ``counted``: whether these turns were counted; else they go on at the rate of those that were.
    """

    turns: int
    prompt: int
    answer: int
    counted: bool

    @property
    def tokens(self) -> int:
        """Tokens of context that hold it all."""
        return self.prompt + self.answer


class View:
    """A run over contexts: its grid, what each size takes, and what conversations need.

    Attributes
    ----------
    data : pandas.DataFrame
        The grid's rows that count, with ``token_s`` (seconds per token after the first) and
        ``growth_bytes`` (resident memory after the first generation above that after loading).
    """

    def __init__(self, run: Run) -> None:
        run = on_one(run)
        rows = run.frame()
        rows = rows.assign(
            token_s=1 / rows["decode_tps"],
            growth_bytes=rows["rss_after_first_bytes"] - rows["rss_after_load_bytes"],
        )
        self.info, self.rows, self.every = run.info, rows, fr.by_cell(rows)
        self.grid = rows[rows["conversation"].isna()]
        self.data = fr.by_cell(self.grid)
        self.good = fr.ok(self.data)

    def memory(self) -> dict[int, float]:
        """Return, for each ``n_ctx`` that ran at all its fills, the bytes of its process."""
        column, _, _ = fr.memory_choice(self.data)
        taken = self.good.groupby("n_ctx")[column].max()
        ran, all_ = (d.groupby("n_ctx")["prompt_tokens"].nunique() for d in (self.good, self.data))
        return {int(n): float(taken[n]) for n in taken.index if ran[n] == all_[n]}

    def needs(self) -> list[Need]:
        """Return what each conversation that was asked about needs; empty if none was counted."""
        chat = fr.ok(self.every[self.every["conversation"].notna()]).dropna(subset=["repeat"])
        counts = chat.groupby("repeat")["prompt_tokens"].median().dropna()
        if counts.empty:
            return []
        counted = dict(zip((counts.index + 1).astype(int), counts.astype(int), strict=True))
        given = parameters_of(self.info)
        answer = int(given.get("answer_tokens") or ANSWER_TOKENS)
        asked = sorted(as_list("turns", given.get("turns") or max(counted)))
        prompts = {turns: counted.get(turns) or _further(counted, turns) for turns in asked}
        return [Need(t, p, answer, t in counted) for t, p in prompts.items() if p is not None]

    def late(self, column: str, tokens: int) -> float | None:
        """Return a column with so many tokens in the context, by a line through all processes.

        ``None`` beyond the fullest context that was measured, or where there is no line.
        """
        each = per_process(self.data, column, ["n_ctx", "prompt_tokens"]).dropna()
        if each.empty or tokens > each["prompt_tokens"].max():
            return None
        fitted = fit.line(each["prompt_tokens"], each[column])
        return None if fitted is None else fitted.at(tokens)

    def compare(self, a: tuple[float, float], b: tuple[float, float]) -> Comparison:
        """Compare the time per token of two cells, each given as n_ctx and tokens of prompt."""
        pair = [samples(self.grid, "decode_s", n_ctx=c, prompt_tokens=p) for c, p in (a, b)]
        return compare(pair[0], pair[1], noise_floor(self.rows, "decode_s"))

    def same_depth(self) -> dict[float, tuple[float, float, Comparison]]:
        """Return, by depth, the smallest and largest ``n_ctx`` there and how they compare."""
        decoded = self.good.dropna(subset=["token_s"])
        found = {}
        for depth, part in decoded.groupby("prompt_tokens"):
            sizes = sorted(part["n_ctx"].unique())
            if len(sizes) > 1:
                at = float(depth)  # type: ignore[arg-type]
                found[at] = sizes[0], sizes[-1], self.compare((sizes[0], at), (sizes[-1], at))
        return found

    def beyond_training(self) -> list[int]:
        """Return the sizes that the model was not trained for."""
        trained = (self.info.get("model") or {}).get("n_ctx_train")
        return [int(s) for s in sorted(self.data["n_ctx"].unique()) if trained and s > trained]


def _further(counted: dict[int, int], turns: int) -> int | None:
    """Return the prompt of a turn beyond the last counted, at the rate of those before."""
    first, last = min(counted), max(counted)
    if first == last:
        return None
    rate = (counted[last] - counted[first]) / (last - first)
    return round(counted[last] + (turns - last) * rate)


def deciding(view: View) -> list[Comparison]:
    """Return the comparisons on which the answer rests."""
    return [found for *_, found in view.same_depth().values()]


def answer(view: View) -> Answer:
    """Answer which measured ``n_ctx`` holds each conversation, and what more of it costs."""
    if nothing := no_answer(view.data):
        return nothing
    needs, memory = view.needs(), view.memory()
    held = {need: next((s for s in sorted(memory) if s >= need.tokens), None) for need in needs}
    if not needs:
        line = "how many tokens a conversation needs is not known"
        sentences = ["How many tokens a conversation needs is **not known**: none was counted."]
    else:
        each = "; ".join(_held(need, size) for need, size in held.items())
        line = "; ".join(f"{n.turns} turns: {size or 'none that ran'}" for n, size in held.items())
        sentences = [f"With {model_name(view.info)}, a conversation in French needs {each}."]
    sentences += [_cost(view, memory), _late(view, needs)]
    depths = view.same_depth()
    compared = [found for *_, found in depths.values()]
    verdict = "measured"
    if depths:
        depth, (small, large, found) = max(depths.items())
        verdict = found.verdict
        sentences.append(
            f"With the same {depth:,.0f} tokens in it, a token takes {phrases.difference(found)} "
            f"with {code('n_ctx')} {large:.0f} than with {small:.0f}."
        )
    sentences.append(_beyond(view) or phrases.noise(compared))
    return Answer(line, verdict, phrases.sureness(compared), tuple(filter(None, sentences)))


def _held(need: Need, size: int | None) -> str:
    about = "" if need.counted else "about "
    turns = f"{about}{need.tokens:,} tokens for {several(need.turns, 'turn')}"
    if size is not None:
        return f"{turns}: **{code('n_ctx')} {size}** is enough"
    least = padded(need.tokens)
    return f"{turns}: **none that ran holds them**, measure {least} or more"


def _cost(view: View, memory: dict[int, float]) -> str:
    """Say what a thousand tokens more of context take."""
    _, word, _ = fr.memory_choice(view.data)
    known = {size: bytes_ for size, bytes_ in memory.items() if bytes_ == bytes_}
    if len(known) < 2:
        return f"What more of it takes in {word} is not known."
    least, most = min(known), max(known)
    each = (known[most] - known[least]) / (most - least) * 1000
    return (
        f"From {code('n_ctx')} {least} to {most} the process takes "
        f"{phrases.amount(known[least], 'MiB')} to {phrases.amount(known[most], 'MiB')} of {word}, "
        f"{phrases.amount(each, 'MiB')} per 1,000 tokens."
    )


def _late(view: View, needs: list[Need]) -> str:
    """Say how the longest conversation whose depth was measured feels at its end."""
    for need in reversed(needs):
        empty, full = (view.late("token_s", tokens) for tokens in (0, need.prompt))
        wait = view.late("ttft_s", need.prompt)
        if empty and full and wait:
            more = full / empty - 1
            return (
                f"At the end of {several(need.turns, 'turn')} a token takes "
                f"**{phrases.amount(full, 'ms')}**, {percent(abs(more))} "
                f"{'more' if more >= 0 else 'less'} than in an empty context, and the first after "
                f"a message of {QUESTION_TOKENS} tokens {phrases.amount(wait, 'ms')}."
            )
    return ""


def _beyond(view: View) -> str:
    if not (sizes := view.beyond_training()):
        return ""
    trained = view.info["model"]["n_ctx_train"]
    return (
        f"**{code('n_ctx')} {', '.join(map(str, sizes))}** is beyond the {trained:,} tokens that "
        "the model was trained with: what it says there may lose its sense."
    )


def table(view: View) -> pd.DataFrame:
    """Return one row per ``n_ctx``: its memory phase by phase, and its speed empty and full."""
    column, word, _ = fr.memory_choice(view.data)
    rows = []
    for size, part in view.data.groupby("n_ctx"):
        good = fr.ok(part)
        row = {"n_ctx": f"{size:.0f}", "trials": fr.status_words(part)}
        for name, source in {
            "KV cache": "kv_bytes",
            "compute": "compute_bytes",
            "RSS after loading": "rss_after_load_bytes",
        }.items():
            row[f"{name}, MiB"] = number(good[source].max() * MIB)
        depths = part["prompt_tokens"]
        ends = {"least": part[depths == depths.min()], "most": part[depths == depths.max()]}
        for name, there in ends.items():
            growth = fr.ok(there)["growth_bytes"].max()
            row[f"first generation adds, {name} filled, MiB"] = number(growth * MIB)
        row[f"{word} at most, MiB"] = number(good[column].max() * MIB)
        for name, there in ends.items():
            row[f"token, {name} filled, ms"] = phrases.short(_over(there, "token_s"), "ms")
        row["load, ms"] = phrases.short(_over(part, "load_s"), "ms")
        rows.append(row)
    caption = f"Memory is that of the process that took most. {phrases.BRACKETS}"
    return tables.captioned(rows, caption)


def _over(part: pd.DataFrame, column: str) -> Estimate:
    return estimate(per_process(part, column, ["n_ctx"])[column].dropna())


def turns(view: View) -> pd.DataFrame:
    """Return one row per length of conversation: its tokens, and where they come from."""
    columns = ["turns", "prompt, tokens", "room for the answer, tokens", "n_ctx needed", "known"]
    late = {"token at the end, ms": "token_s", "TTFT at the end, ms": "ttft_s"}
    rows = [
        (
            f"{need.turns}",
            f"{need.prompt:,}",
            f"{need.answer:,}",
            f"{need.tokens:,}",
            "counted" if need.counted else "at the rate of the turns that were counted",
            *(number((view.late(c, need.prompt) or np.nan) * MS) for c in late.values()),
        )
        for need in view.needs()
    ]
    return tables.captioned(
        pd.DataFrame(rows, columns=[*columns, *late]),
        f"At the end: with the whole prompt in the context and a message of {QUESTION_TOKENS} "
        "tokens behind it, by a line through the contexts that were filled. A dash: beyond them.",
    )


LINES = {
    "resident, first answer": ("rss_after_first_bytes", "-", "D"),
    "resident, loaded": ("rss_after_load_bytes", (0, (5, 2)), "o"),
    "compute buffers": ("compute_bytes", (0, (6, 2, 1.2, 2)), "^"),
    "KV cache": ("kv_bytes", (0, (1.2, 1.6)), "s"),
}
"""What is drawn of the memory, from the top: its column, dash and marker."""


@style.styled
def figure(view: View, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw memory by ``n_ctx`` at its fullest, and time per token by tokens in the context."""
    panels = {"Memory by n_ctx": _draw_memory, "Decode by tokens in the context": _draw_tokens}
    return layout.pair(axes, view, panels)


def _draw_memory(ax: Axes, view: View) -> None:
    # A context that is full has touched all that it will: the largest of its processes.
    sizes = view.good.groupby("n_ctx")[[column for column, *_ in LINES.values()]].max() * MIB
    known = sizes.dropna(how="all")
    if known.empty:
        style.say_unmeasured(ax, view.data, "no memory is known")
        return
    ends = []
    look = zip(LINES.items(), style.ramp(len(LINES)), strict=True)
    for (name, (column, dash, marker)), colour in look:
        line = known[column].dropna()
        if len(line):
            ax.plot(line, color=colour, linestyle=dash, marker=marker, markersize=5, label=name)
            ends.append(End(float(line.index[-1]), float(line.iloc[-1]), name, colour))
    growth = known[["rss_after_load_bytes", "rss_after_first_bytes"]].dropna()
    ax.fill_between(growth.index, *growth.to_numpy().T, color=style.FAINT, label="_growth", lw=0)
    ax.set_ylim(0, float(np.nanmax(known.to_numpy())) * 1.1)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(list(known.index), [f"{size:.0f}" for size in known.index])
    if len(known) > 6:
        ax.tick_params(axis="x", rotation=45)
    ax.set_xlabel("n_ctx, tokens")
    ax.set_ylabel("MiB")
    style.subtitle(ax, "Each context at its fullest.")
    fig.name_ends(ax, ends)


def _draw_tokens(ax: Axes, view: View) -> None:
    each = per_process(view.data, "token_s", ["n_ctx", "prompt_tokens"]).dropna()
    if each.empty:
        style.say_unmeasured(ax, view.data, "one token shows no decode")
        return
    ax.set_xlabel("tokens in the context")
    ax.set_ylabel("ms per token")
    style.subtitle(ax, "Lines: n_ctx. Points: processes.")
    by_size = [(f"{size:.0f}", part) for size, part in each.groupby("n_ctx")]
    fig.lines(ax, [fig.line_of(*one, "prompt_tokens", "token_s", "ms") for one in by_size])
