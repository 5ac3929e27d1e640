"""The clock of one model that was loaded by hand: what loading took, and when each token came.

*Prefill* evaluates the prompt, many tokens in one pass over the weights. The first token follows
it: TTFT, the time to first token, is prefill and one choice. *Decode* evaluates one token per
pass; the time from each token to the next is the inter-token latency, ITL. All stamps are of one
clock; :mod:`llm_latency.records.generation` has the same picture in letters.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from llm_latency.records.generation import Generation
from llm_latency.records.record import LoadTimings
from llm_latency.report import figure as fig
from llm_latency.report import layout, style
from llm_latency.report.labels import End, label_ends
from llm_latency.report.page import markdown
from llm_latency.report.phrases import amount
from llm_latency.stats.estimate import percentile
from llm_latency.words import MARKER, MS, number, several

COLOURS = {
    "import": "#c9ced6",
    "backend": "#5d6675",
    "model file": "#1b2a5e",
    "context": "#4794ad",
    "rest of loading": "#b5dccb",
    "warm-up": "#7d4f9e",
    "prefill": "#8c4a12",
    "first token": "#dd9a2b",
    "to the last token": "#f3dfae",
}
"""For the parts of a start in their order; neighbours differ in lightness."""
LOADING = ("backend", "model file", "context", "rest of loading")
ANSWER = ("prefill", "first token", "to the last token")


def loading(load: LoadTimings) -> dict[str, float]:
    """Return the parts of loading a model, in seconds."""
    known = (load.backend_init_s, load.model_load_s, load.context_s)
    return dict(zip(LOADING, (*known, load.load_s - sum(known)), strict=True))


def answering(one: Generation) -> dict[str, float]:
    """Return the parts of an answer, in seconds; all of TTFT is prefill where its end is hidden."""
    times = one.timings
    prefill_s = times.ttft_s if times.prefill_s is None else times.prefill_s
    parts = (prefill_s, times.ttft_s - prefill_s, times.total_s - times.ttft_s)
    return dict(zip(ANSWER, parts, strict=True))


def answer(load: LoadTimings, answers: Mapping[str, Generation]) -> Markdown:
    """Return a sentence for loading and one for each answer: what of it was the prompt's part.

    Parameters
    ----------
    load
        A loaded model's ``load``.
    answers
        By the names that they are to be called.
    """
    sentences = [f"Loading took {amount(load.load_s, 'ms')}."]
    for name, one in answers.items():
        gaps = one.timings.itl_s[1:]
        sentences.append(
            f"**{name}:** {one.evaluated_tokens:,} of {several(one.prompt_tokens, 'prompt token')} "
            f"evaluated, the first token after **{amount(one.timings.ttft_s, 'ms')}**"
            + (f", then one every {amount(statistics.median(gaps), 'ms')}" if gaps else "")
            + (f"; {one.problem}." if one.problem else ".")
        )
    return markdown(" ".join(sentences), metadata={MARKER: {}})


def table(answers: Mapping[str, Generation]) -> pd.DataFrame:
    """Return each answer as a column: its tokens, and its times in ms.

    A percentile is of the gaps between the tokens of that answer, if it has enough of them.

    Parameters
    ----------
    answers
        By the names that are to stand above them.
    """
    columns = {}
    for name, one in answers.items():
        times, gaps = one.timings, one.timings.itl_s[1:]
        slow_s = percentile(gaps, 0.95)
        columns[name] = {
            "prompt, tokens": f"{one.prompt_tokens:,}",
            "evaluated of it": f"{one.evaluated_tokens:,}",
            "generated, tokens": f"{one.generated_tokens:,}",
            "TTFT, ms": number(times.ttft_s * MS),
            "prefill, tok/s": number(one.prefill_tps),
            "ITL, median, ms": number(statistics.median(gaps) * MS) if gaps else "–",
            "ITL, 95th percentile, ms": "–" if slow_s is None else number(slow_s * MS),
            "ITL, longest, ms": number(max(gaps) * MS) if gaps else "–",
            "decode, tok/s": number(one.decode_tps),
            "total, ms": number(times.total_s * MS),
        }
    return pd.DataFrame(columns).rename_axis("").reset_index()


@style.styled
def figure(
    load: LoadTimings, answers: Mapping[str, Generation], axes: Sequence[Axes] | None = None
) -> tuple[Axes, Axes]:
    """Draw loading and each answer on one clock, and below the time from each token to the next.

    Parameters
    ----------
    load
        A loaded model's ``load``.
    answers
        By the names that are to stand beside them.
    axes
        Two axes to draw into.
    """
    if axes is None:
        height = 1.6 + 0.42 * (len(answers) + 1)
        whole = plt.figure(figsize=(8.0, height + 2.6), layout="constrained")
        axes = list(whole.subplots(2, 1, height_ratios=[height, 2.6]))
    above, below = axes
    _draw_parts(above, load, answers)
    _draw_gaps(below, answers)
    return above, below


def _draw_parts(ax: Axes, load: LoadTimings, answers: Mapping[str, Generation]) -> None:
    ax.set_title("Where the time goes", pad=26)
    bars = {"loading": loading(load)} | {name: answering(one) for name, one in answers.items()}
    reach = 1.12 * MS * max(sum(parts.values()) for parts in bars.values())
    ax.set_xlim(0, reach)
    for place, parts in enumerate(bars.values()):
        sizes = {name: seconds * MS for name, seconds in parts.items()}
        end = fig.stack(ax, place, sizes, COLOURS, lying=True, reach=reach)
        layout.write(ax, f"{number(end)} ms", (end, place), (6, 0), fontweight="bold")
    for place, one in enumerate(answers.values(), start=1):
        stamps = pd.Series(one.timings.itl_s).cumsum() * MS
        ax.vlines(stamps, place - 0.35, place - 0.2, color=style.INK, linewidth=0.7)
    layout.rows(ax, list(enumerate(bars)), -0.6, len(bars) - 0.4)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("ms; each bar has a zero of its own; a stroke: a token that came")
    layout.key(ax, {name: COLOURS[name] for name in (*LOADING, *ANSWER)}, -0.14)


def _draw_gaps(ax: Axes, answers: Mapping[str, Generation]) -> None:
    ax.set_title("From each token to the next (ITL)")
    gaps = {name: [s * MS for s in one.timings.itl_s[1:]] for name, one in answers.items()}
    gaps = {name: each for name, each in gaps.items() if each}
    if not gaps:
        style.say_empty(ax, "No answer has a second token.")
        return
    ends = []
    for place, ((name, each), colour) in enumerate(
        zip(gaps.items(), style.ramp(len(gaps)), strict=True)
    ):
        marker = style.MARKERS[place % len(style.MARKERS)]
        numbers = range(2, len(each) + 2)
        ax.plot(numbers, each, marker=marker, markersize=3.5, linewidth=0.9, color=colour)
        ends.append(End(len(each) + 1, each[-1], name, colour))
    longest, most = max(map(max, gaps.values())), max(map(len, gaps.values()))
    ax.set_ylim(0, longest * 1.08)
    ax.set_xlim(0, (most + 1) * 1.02)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("number of the token")
    ax.set_ylabel("ms")
    label_ends(ax, ends)
