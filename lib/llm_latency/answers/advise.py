"""The answer to stated needs: what to set, how near the cliff is, what was rejected and why."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import pandas as pd
from IPython.display import Markdown

from llm_latency.answers import advise_lines, troubles
from llm_latency.answers.brief import brief
from llm_latency.answers.page import in_words, markdown
from llm_latency.answers.verdict import bold
from llm_latency.questions.advise.judgement import Advice, judge
from llm_latency.questions.advise.needs import Needs
from llm_latency.questions.advise.options import Option, timed
from llm_latency.records import frame as fr
from llm_latency.report.tables import short
from llm_latency.stats.compare import SMALLEST_EFFECT
from llm_latency.stats.estimate import FEWEST, Estimate
from llm_latency.words import MIB, MS, enumerate_words, escape, number, percent, several

ALTERNATIVES = 2
"""How many rejected candidates the answer tells of; the table has all."""

WEAK = {
    "few": f"fewer than {FEWEST} processes give no interval; set rounds={FEWEST} or more",
    "doubt": "the interval of a time reaches beyond its bound; more rounds would narrow it",
    "not filled": "whether the whole window can be filled was not proven",
    "open": "the rounds leave open which of those that meet the needs answers soonest",
    "disturbed": "the machine was busy during some of its trials; measure again",
}
"""What speaks against relying on a choice, in words."""


def advise(df: pd.DataFrame, info: Mapping[str, Any]) -> Markdown:
    """Return what to set for the stated needs, or why nothing meets them.

    Parameters
    ----------
    df
        Rows of a run of ``advise``, ``run.frame()``.
    info
        The content of ``run.json``.
    """
    if df.empty:
        return markdown(troubles.NOTHING)
    found = judge(df, info)
    name = troubles.model_name(info)
    if found.chosen is None:
        parts = [_refusal(found, name), _nearest(found)]
    else:
        parts = [
            _choice(found, found.chosen, name),
            _margin(found, found.chosen),
            _confidence(found),
            advise_lines.llama(df, found.chosen, info),
            advise_lines.server(df, found.chosen, info),
            advise_lines.verify(found.chosen, info),
        ]
    parts += [_rejected(found), troubles.disturbed(fr.prepare(timed(df, found.needs)))]
    return markdown("\n\n".join(filter(None, parts)))


def asked_for(needs: Needs) -> str:
    """Return the needs as one sentence."""
    there = f"{number(needs.memory_bytes * MIB)} MiB of {needs.word}"
    bounds = [
        f"{needs.n_ctx:,} tokens of context",
        f"a prompt of {needs.prompt_tokens:,} tokens answered with {needs.max_tokens:,}",
        f"TTFT of at most {number(needs.ttft_s * MS)} ms" if needs.ttft_s else "",
        f"loaded within {number(needs.load_s * MS)} ms" if needs.load_s else "",
        f"{number(needs.keep_free_bytes * MIB)} of {there} kept free",
        "loaded anew for each answer" if needs.waits_for_load else "loaded once, at start",
    ]
    return f"Asked for: {enumerate_words([b for b in bounds if b], 9)}."


def _choice(found: Advice, one: Option, name: str) -> str:
    settings, needs = one.settings, found.needs
    words = ", ".join(
        f"{key} {getattr(settings, key)}"
        for key in ("n_ctx", "n_batch", "n_ubatch", "flash_attn", "n_gpu_layers")
        if key != "n_gpu_layers" or needs.on == "gpu"
    )
    head = f"With {name}, set **{escape(words)}**"
    if len(found.options) == 1:
        head = f"With {name}, **these settings hold**: {escape(words)}"
    waited = ", loading included," if needs.waits_for_load else ""
    return (
        f"{head}. {asked_for(needs)} Measured: TTFT {bold(one.ttft)}; "
        f"{several(needs.max_tokens, 'token')} generated{waited} after {bold(one.answer)}; "
        f"loaded in {bold(one.load)}."
    )


def _margin(found: Advice, one: Option) -> str:
    needs, margin = found.needs, found.margin_bytes
    if one.need_bytes is None or margin is None:
        return f"What it takes of {needs.word} could **not be measured**, nor its margin."
    filled = "Whether a prompt that fills the whole window is answered was not proven"
    if one.full == "ok":
        filled = "A prompt that fills the whole window was answered"
    if one.full == "ok" and needs.stated and needs.on == "cpu":
        filled += f" under a cap of {number(needs.memory_bytes * MIB)} MiB"
    text = (
        f"{filled}. It takes **{number(one.need_bytes * MIB)} MiB of {needs.word}** (predicted "
        f"{number(one.predicted_bytes * MIB)}); to the {number(needs.limit_bytes * MIB)} MiB that "
        f"it may take, **{number(margin * MIB)} MiB** are left"
    )
    edge = found.edge_n_ctx
    if edge is None:
        return f"{text}."
    trained = found.header.n_ctx_train if found.header else None
    text += f", by the prediction room for **{edge - one.settings.n_ctx:,} more tokens** of context"
    if trained and edge > trained:
        text += f" (the model was trained for {trained:,})"
    return f"{text}."


def _confidence(found: Advice) -> str:
    weak = found.weak_points()
    if not weak:
        return (
            "Confidence: **high**: each bound is met by the whole interval, the order is decided, "
            "and the window was full."
        )
    return f"Confidence: **{found.confidence}**: {'; '.join(WEAK[point] for point in weak)}."


def _rejected(found: Advice) -> str:
    shown = found.rejected[: ALTERNATIVES if found.chosen else ALTERNATIVES + 1]
    if found.chosen is None:
        shown = shown[1:]  # the first is told of as the nearest
    if not shown:
        return ""
    lines = [f"- {escape(one.name)}: {why_not(one, found)}." for one in shown]
    return "Rejected:\n\n" + "\n".join(lines)


def why_not(one: Option, found: Advice) -> str:
    """Return why a candidate was not chosen."""
    if one.breaches:
        return broken(one, found.needs)
    chosen = found.chosen
    if chosen is None:
        return "not chosen"
    if one.told_apart and one.against is not None:
        soonest = "the one advised" if chosen.against is None else "the soonest"
        return f"its answer takes {brief(one.against)}, against {soonest}"
    more = ((one.need_bytes or 0) - (chosen.need_bytes or 0)) * MIB
    memory = f"takes {number(more)} MiB more" if more >= 0.5 else "takes no less memory"
    pair = one.against or chosen.against
    blur = max((pair.noise_floor if pair else 0.0) or 0.0, SMALLEST_EFFECT)
    return f"answers as soon, within {percent(blur)}, and {memory}"


def broken(one: Option, needs: Needs) -> str:
    """Return the needs that a candidate does not meet, each with its figure."""
    limit = f"{number(needs.limit_bytes * MIB)} MiB may be taken"
    parts = []
    for breach in one.breaches:
        if breach.need == "memory" and one.need_bytes is None:
            text = f"predicted to take {number(one.predicted_bytes * MIB)} MiB, {limit}"
        elif breach.need == "memory":
            text = f"takes {number((one.need_bytes or 0) * MIB)} MiB, {limit}"
        elif breach.need == "runs":
            text = f"its processes ended with **{one.measured}**: {escape(one.reason)}"
        elif breach.need == "full":
            text = f"with its window full it ended with **{one.full}**: {escape(one.full_reason)}"
        else:
            value = one.ttft if breach.need == "ttft_s" else one.load
            bound = needs.ttft_s if breach.need == "ttft_s" else needs.load_s
            what = "TTFT" if breach.need == "ttft_s" else "loading"
            asked = f"at most {number((bound or 0.0) * MS)} ms asked for"
            text = f"{what} {in_words(value, MS, 'ms')}, {asked}"
            text += "" if breach.sure else ", though its interval reaches into that"
        parts.append(text.rstrip("."))
    return "; ".join(parts)


def _refusal(found: Advice, name: str) -> str:
    tried = sum(1 for one in found.options if one.measured)
    head = f"**Nothing meets these needs** with {name}"
    if len(found.options) == 1:
        head = f"With {name}, **these settings do not hold**"
    return (
        f"{head}: of {several(len(found.options), 'candidate')}, {tried} "
        f"{'was' if tried == 1 else 'were'} measured. {asked_for(found.needs)}"
    )


def _nearest(found: Advice) -> str:
    one, needs = found.options[0], found.needs
    text = f"Nearest comes {escape(one.name)}: {broken(one, needs)}."
    give: list[str] = []
    for breach in one.breaches:
        if breach.need == "memory":
            taken = one.need_bytes or one.predicted_bytes
            give.append(f"memory of {number((taken + needs.keep_free_bytes) * MIB)} MiB or more")
        elif breach.need in ("ttft_s", "load_s"):
            value = one.ttft if breach.need == "ttft_s" else one.load
            give.append(f"{escape(breach.need)} of {number(value.high, 3)} or more")
    if len(give) == len(one.breaches):
        return f"{text} It would do with {enumerate_words(give, 9)}."
    return f"{text} A smaller file, or fewer tokens of context, take less."


def advise_table(df: pd.DataFrame, info: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row per candidate: what was measured, and why it was chosen or not."""
    found = judge(df, info)
    rows = []
    for one in found.options:
        times = {"TTFT, ms": one.ttft, "answer, ms": one.answer, "load, ms": one.load}
        why = "**advised**" if one is found.chosen else why_not(one, found)
        rows.append(
            {"candidate": one.name}
            | {key: _short(value) for key, value in times.items()}
            | {
                f"takes, MiB of {found.needs.word}": number((one.need_bytes or float("nan")) * MIB),
                "predicted, MiB": number(one.predicted_bytes * MIB),
                "reason": plain_text(why),
            }
        )
    table = pd.DataFrame(rows)
    table.attrs["caption"] = (
        "Medians over processes with their 95 % interval, or their range in round brackets. "
        "Where nothing was measured, the prediction alone spoke against it."
    )
    return table


def _short(value: Estimate) -> str:
    return short(value, MS) if value.n else "–"


def plain_text(text: str) -> str:
    """Return a sentence of the page as a table may show it: without Markdown and references."""
    return html.unescape(text).replace("**", "")
