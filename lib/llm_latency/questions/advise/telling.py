"""What to set for the stated needs, how near the cliff is, and why each other candidate was not."""

from __future__ import annotations

import pandas as pd

from llm_latency.questions.advise.judgement import Advice, View
from llm_latency.questions.advise.needs import Needs
from llm_latency.questions.advise.options import Option
from llm_latency.questions.advise.threads import Threads
from llm_latency.report import phrases
from llm_latency.report.page import Answer, code, model_name, no_answer
from llm_latency.stats.estimate import FEWEST
from llm_latency.words import MIB, enumerate_words, escape, number, percent, several

WEAK = {
    "few": f"fewer than {FEWEST} processes give no interval; set rounds to {FEWEST} or more",
    "doubt": "the interval of a time reaches beyond its bound; more rounds would narrow it",
    "not filled": "whether a prompt that fills the whole window is answered was not proven",
    "open": "the rounds leave open which of those that meet the needs answers soonest",
    "disturbed": "the machine was busy during some of its trials; measure again",
}
"""What speaks against relying on a choice, in words."""


def answer(view: View) -> Answer:
    """Answer what to set, or why nothing meets the needs and what comes nearest."""
    if nothing := no_answer(view.data):
        return nothing
    advice, name = view.advice, model_name(view.info)
    one = advice.chosen
    if one is None:
        return _refusal(advice, name)
    compared = [option.against for option in advice.options if option.against is not None]
    words, best = settings_words(advice, one), advice.threads
    answer = best.answer if best else one.answer
    return Answer(
        f"{words}: answered after {phrases.median(answer, 'ms')}",
        "measured",
        phrases.sureness(compared) if compared else several(one.answer.n, "process", "processes"),
        (
            _choice(advice, words, name),
            _times(best or one, advice.needs),
            *_memory(advice, one),
            _confidence(advice),
        ),
    )


def settings_words(advice: Advice, one: Option) -> str:
    """Return what is to be set, as text of a page."""
    on_gpu, best = advice.needs.on == "gpu", advice.threads
    names = ["n_ctx", "n_batch", "n_ubatch", "flash_attn", *["n_gpu_layers"] * on_gpu]
    names += [name for name in ("type_k", "type_v") if getattr(one.settings, name) != "f16"]
    values = {name: getattr(one.settings, name) for name in names}
    if best is not None:
        values |= best.to_set

    return ", ".join(f"{code(name)} {value}" for name, value in values.items())


def _asked(needs: Needs) -> str:
    prompt = f"a prompt of {several(needs.prompt_tokens, 'token')}"
    if needs.prefix_tokens:
        prompt = (
            f"a message of {several(needs.new_tokens, 'token')} after {needs.prefix_tokens:,} that "
            "are in the prompt cache,"
        )
    return f"{prompt} answered with {needs.max_tokens:,}, in a context of {needs.n_ctx:,}"


def _choice(advice: Advice, words: str, name: str) -> str:
    asked = f"For {_asked(advice.needs)}"
    if len(advice.ways) == len(advice.options):
        through = enumerate_words([one.via for one in advice.ways], 9)
        asked += f", asked through {through}" * (len(advice.ways) > 1)
        return f"{asked}, **these settings hold** with {name}: {words}{_lost(advice)}."
    return f"{asked}, set **{words}** with {name}{_lost(advice)}{_threads(advice)}."


def _lost(advice: Advice) -> str:
    """Say what a smaller KV cache loses; empty where it has none."""
    one, least = advice.chosen, advice.needs.quality
    if one is None or {one.settings.type_k, one.settings.type_v} == {"f16"}:
        return ""
    asked = f", at most {percent(1 - least)} asked for" if least is not None else ""
    return (
        f"; its KV cache makes another token the most likely in {phrases.share(one.loss)} of "
        f"places{asked}"
    )


def _threads(advice: Advice) -> str:
    """Say how the choice of threads compares; empty where they were not varied."""
    best = advice.threads
    if best is None or len(advice.tried) < 2:
        return ""
    usual, *others = advice.tried
    if best.against is not None:
        return (
            f"; the answer takes {phrases.difference(best.against)}, against the usual "
            f"{several(usual.n_threads or 0, 'thread')}"
        )
    nearest = min(others, key=lambda one: one.answer.median)
    assert nearest.against is not None
    return f"; with {threads_words(nearest)} it takes {phrases.difference(nearest.against)}"


def threads_words(one: Threads) -> str:
    """Return a choice of threads and cores in words."""
    kept = f" on {one.cores} cores" if one.asked["cores"] else ""
    return several(one.n_threads or 0, "thread") + kept


def _times(one: Option | Threads, needs: Needs) -> str:
    whole = "loading and answer take" if needs.waits_for_load else "the whole answer takes"
    return (
        f"TTFT is {phrases.estimate(one.ttft, 'ms')}{_bound(needs.ttft_s)}; {whole} "
        f"{phrases.estimate(one.answer, 'ms')}, and loading {phrases.estimate(one.load, 'ms')}"
        f"{_bound(needs.load_s)}."
    )


def _bound(seconds: float | None) -> str:
    return f", at most {phrases.amount(seconds, 'ms')} asked for" if seconds else ""


def _memory(advice: Advice, one: Option) -> list[str]:
    """Say what is taken and left, and what the window was filled with."""
    needs, margin = advice.needs, advice.margin_bytes
    sentences = []
    if advice.need_bytes is None or margin is None:
        sentences.append(f"What it takes of {needs.word} could **not be measured**.")
    else:
        limit = phrases.amount(needs.limit_bytes, "MiB")
        text = (
            f"It takes **{phrases.amount(advice.need_bytes, 'MiB')} of {needs.word}** (predicted "
            f"{number(one.predicted_bytes * MIB)}) of the {limit} that it may; "
            f"**{phrases.amount(margin, 'MiB')}** are left"
        )
        edge, header = advice.edge_n_ctx, advice.header
        if edge is not None and header is not None:
            more, trained = edge - one.settings.n_ctx, header.n_ctx_train
            text += f", by the prediction room for **{more:,} more tokens** of context"
            text += f" (the model was trained for {trained:,})" * bool(trained and edge >= trained)
        sentences.append(f"{text}.")
    if all(way.full == "ok" for way in advice.ways):
        cap = f" under a cap of {phrases.amount(needs.memory_bytes, 'MiB')}"
        cap *= needs.capped and needs.on == "cpu"
        sentences.append(f"A prompt that fills the whole window was answered{cap}.")
    return sentences


def _confidence(advice: Advice) -> str:
    weak = "; ".join(WEAK[point] for point in advice.weak_points())
    why = weak or "each bound is met by the whole interval, and the order is decided"
    return f"Confidence is **{advice.confidence}**: {why}."


def _refusal(advice: Advice, name: str) -> Answer:
    """Say that nothing meets the needs, what comes nearest, and for what that would do."""
    options, needs = advice.options, advice.needs
    tried = sum(1 for one in options if one.measured)
    head = f"**Nothing meets these needs** with {name}"
    if len({one.settings for one in options}) == 1:
        head = f"With {name}, **these settings do not hold**"
    nearest = next(one for one in options if one.breaches)
    return Answer(
        f"nothing meets the needs; nearest comes {escape(nearest.name)}",
        "none",
        several(nearest.answer.n, "process", "processes"),
        (
            f"{head}: {_asked(needs)}.",
            f"Of {several(len(options), 'candidate')}, {tried:,} {'was' if tried == 1 else 'were'} "
            "measured.",
            f"Nearest comes {escape(nearest.name)}: {escape(broken(nearest, needs))}.",
            _way_out(nearest, needs),
        ),
    )


def _way_out(one: Option, needs: Needs) -> str:
    """Say for which needs a candidate would do."""
    give = []
    for breach in one.breaches:
        if breach.need == "memory":
            taken = (one.need_bytes or one.predicted_bytes) + needs.keep_free_bytes
            give.append(f"memory of {phrases.amount(taken, 'MiB')} or more")
        elif breach.need in ("ttft_s", "load_s"):
            value = one.ttft if breach.need == "ttft_s" else one.load
            give.append(f"{code(breach.need)} of {number(value.high, 3)} or more")
        elif breach.need == "quality" and one.loss.kind == "interval":
            give.append(f"quality of {number(100 * (1 - one.loss.high), 1)} % or less")
    if len(give) < len(one.breaches):
        return "A smaller file, or fewer tokens of context, take less."
    return f"It would do with {enumerate_words(give, len(give))}."


def broken(one: Option, needs: Needs) -> str:
    """Return the needs that a candidate does not meet, each with its figure, as plain text."""
    limit = f"{phrases.amount(needs.limit_bytes, 'MiB')} may be taken"
    parts = []
    for breach in one.breaches:
        if breach.need == "memory" and one.need_bytes is None:
            takes = f"predicted to take {phrases.amount(one.predicted_bytes, 'MiB')}, {limit}"
            parts.append(takes if breach.sure else "not measured")
        elif breach.need == "memory":
            parts.append(f"takes {phrases.amount(one.need_bytes or 0, 'MiB')}, {limit}")
        elif breach.need == "runs":
            parts.append(f"its processes ended with {one.measured}: {one.reason}")
        elif breach.need == "full":
            parts.append(f"with its window full it ended with {one.full}: {one.full_reason}")
        elif breach.need == "quality":
            lost = phrases.share(one.loss).replace("**", "")
            text = f"its KV cache makes another token the most likely in {lost} of places"
            parts.append(text if breach.sure else f"{text}, which is not surely little enough")
        else:
            late, bound = (one.ttft, needs.ttft_s), (one.load, needs.load_s)
            value, most = late if breach.need == "ttft_s" else bound
            what = "TTFT" if breach.need == "ttft_s" else "loading"
            text = f"{what} {phrases.estimate(value, 'ms', bold=False)}{_bound(most)}"
            parts.append(text + ("" if breach.sure else ", though its interval reaches into that"))
    return "; ".join(part.rstrip(".") for part in parts)


def why_not(one: Option, advice: Advice) -> str:
    """Return why a candidate was not chosen, as plain text."""
    chosen = advice.chosen
    if one.breaches:
        return broken(one, advice.needs)
    ways = [other for other in advice.options if other.settings == one.settings]
    if chosen is None or any(other.breaches for other in ways):
        return "does not do in each way of asking"
    one = ways[0]  # the way that decides
    if one.told_apart and one.against is not None:
        later = one.against.verdict == "slower"
        return "answers later" if later else "seems to answer later, which more rounds would tell"
    more = (one.need_bytes or 0) - (chosen.need_bytes or 0)
    memory = f"takes {phrases.amount(more, 'MiB')} more" if more * MIB >= 0.5 else "takes no less"
    return f"answers as soon, as far as the rounds tell, and {memory}"


def _why_not_these(one: Threads) -> str:
    """Return why a choice of threads and cores was not advised, as plain text."""
    verdict = one.against.verdict if one.against else "usual"
    return {
        "faster": "answers sooner, and others still sooner or within the bounds",
        "slower": "answers later",
        "same": "answers as soon, with as many threads or more",
        "undecided": "whether it answers sooner more rounds would tell",
        "usual": "the usual: others answer sooner, or fewer threads as soon",
    }[verdict]


def table(view: View) -> pd.DataFrame:
    """Return one row per candidate: what was measured, and why it was chosen or not."""
    advice = view.advice
    rows = [
        {
            "candidate": one.name,
            "reason": "advised" if advice.advises(one) else why_not(one, advice),
            "TTFT, ms": phrases.short(one.ttft, "ms"),
            "answer, ms": phrases.short(one.answer, "ms"),
            "against the soonest": phrases.change(one.against) if one.against else "–",
            "load, ms": phrases.short(one.load, "ms"),
            f"takes, MiB of {advice.needs.word}": number((one.need_bytes or float("nan")) * MIB),
            "predicted, MiB": number(one.predicted_bytes * MIB),
            "window full": one.full or "–",
        }
        for one in advice.options
    ]
    rows += [
        {
            "candidate": f"the advised with {threads_words(one)}",
            "reason": "advised" if one is advice.threads else _why_not_these(one),
            "TTFT, ms": phrases.short(one.ttft, "ms"),
            "answer, ms": phrases.short(one.answer, "ms"),
            "against the soonest": phrases.change(one.against) if one.against else "–",
            "load, ms": phrases.short(one.load, "ms"),
        }
        for one in advice.tried
    ]
    made = pd.DataFrame(rows).fillna("–")
    made.attrs["caption"] = (
        f"{phrases.BRACKETS} Where nothing was measured, the prediction alone spoke against it. "
        "Choices of threads were measured in rounds of their own, against the usual one."
    )
    return made
