"""The sweep: which ``n_ctx`` and ``n_batch`` answer soonest, and what memory they take.

Prefill computes many tokens of the prompt at once, ``min(n_batch, n_ubatch)`` of them, so it is
bound by arithmetic, and TTFT grows with the prompt. Decode computes one token at a time and reads
every weight for it, so it is bound by the bandwidth of memory, and no batch makes it faster. A
larger ``n_ctx`` takes its KV cache at once, whether it is ever filled or not.
"""

from __future__ import annotations

from typing import Annotated, Any

from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.plan.builder import SAMPLING, Grid, Request
from llm_latency.plan.own_prompt import PROMPT, PROMPT_FILE
from llm_latency.plan.parameters import shown
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import HOME, Plan
from llm_latency.questions.sweep.cells import memory_table, table
from llm_latency.questions.sweep.memory import latency_by_memory, memory_by_n_ctx
from llm_latency.questions.sweep.speed import speed_heatmap
from llm_latency.questions.sweep.tokens import figure, total_by_generated, ttft_by_prompt
from llm_latency.questions.sweep.view import View
from llm_latency.records import frame as fr
from llm_latency.report import phrases
from llm_latency.report.page import Answer, code, model_name, no_answer
from llm_latency.stats.compare import Comparison
from llm_latency.words import enumerate_words, escape, percent, several

__all__ = [
    "View",
    "answer",
    "deciding",
    "figure",
    "latency_by_memory",
    "memory_by_n_ctx",
    "memory_table",
    "plan",
    "speed_heatmap",
    "table",
    "total_by_generated",
    "ttft_by_prompt",
]
SAMPLED = True


def plan(
    model: str = "synthetic:tiny",
    n_ctx: Grid = (512, 1024, 2048),
    n_batch: Grid = (128, 256, 512),
    prompt_tokens: Annotated[Grid, "lengths of the prompt, in tokens"] = (64, 192, 448),
    prompt: Annotated[str, PROMPT] = "",
    prompt_file: Annotated[str, PROMPT_FILE] = "",
    max_tokens: int = 32,
    length: str = "fixed",
    prefix_tokens: int = 0,
    via: Grid = "engine",
    address: str = "",
    at_once: Grid = 1,
    page_cache: Grid = "resident",
    warm_up: Grid = "none",
    engine: Grid = HOME,
    rounds: int = 2,
    repeats: int = 1,
    **options: Any,
) -> Plan:
    """Plan every combination of the settings that are given as lists, at each prompt length."""
    request = Request("sweep", locals(), names.check, grids=True, sampled=True)
    prefix = request.one("prefix_tokens")
    address = request.one("address")
    if not isinstance(address, str | None):
        raise ParameterError(
            f"address={shown(address)} is refused: give text, such as http://127.0.0.1:8080/v1."
        )
    own = request.own_prompt()
    prompts = [own] if own else request.grid("prompt_tokens")
    cells = [
        request.cell(
            max_tokens=request.one("max_tokens"),
            length=request.one("length"),
            cache_mode="prefix" if prefix else "cold",
            prefix_tokens=prefix,
            via=way,
            address=address or None if way == "openai" else None,
            at_once=None if shown(requests) == "1" else requests,
            repeats=request.one("repeats"),
            **asked,
            **settings,
            **sampling,
            **start,
        )
        for settings in request.grid(*Settings.model_fields)
        for asked in prompts
        for way in request.many("via")
        for requests in request.many("at_once")
        for sampling in request.grid(*SAMPLING)
        for start in request.grid("page_cache", "warm_up", "engine")
    ]
    return request.plan(cells)


def deciding(view: View) -> list[Comparison]:
    """Return the comparisons on which the answer rests."""
    return list(view.against_soonest.values())


def answer(view: View) -> Answer:
    """Answer which settings answer soonest, at what cost in memory, and how sure that is."""
    if nothing := no_answer(view.data):
        return nothing
    if view.soonest is None:
        return Answer("TTFT could not be timed", "none", "", ("TTFT could not be timed.",))
    compared = list(view.against_soonest.values())
    verdict, sentence = _verdict(view)
    line = f"{view.soonest}: TTFT {phrases.median(view.ttft[view.soonest], 'ms')}"
    if verdict in ("same", "undecided"):
        line += ", and others as soon" if verdict == "same" else f", {phrases.WORDS[verdict]}"
    sentences = (
        _soonest(view, view.soonest),
        sentence,
        _cost(view, view.soonest),
        phrases.noise(compared),
        _larger_batches(view),
    )
    return Answer(escape(line), verdict, phrases.sureness(compared), tuple(filter(None, sentences)))


def _soonest(view: View, soonest: str) -> str:
    claim = "is the only cell that was measured"
    if len(view.ttft) > 1:
        claim = f"has the lowest median TTFT of {len(view.ttft)} measured cells"
    asked = view.data["prompt_tokens"].max()
    lost = f" (with {asked:,.0f} nothing could be measured)" if asked > (view.longest or 0) else ""
    tokens = several(int(fr.ok(view.at_longest)["generated_tokens"].max()), "token")
    return (
        f"With {model_name(view.info)} and a prompt of {view.longest:,.0f} tokens{lost}, "
        f"**{escape(soonest)}** {claim}: {phrases.estimate(view.ttft[soonest], 'ms')}, and "
        f"{tokens} generated after {phrases.median(view.total[soonest], 'ms')}."
    )


def _verdict(view: View) -> tuple[str, str]:
    """Say whether the soonest cell is the fastest."""
    against = view.against_soonest
    if not against:
        return "measured", ""
    rivals = {cell: found for cell, found in against.items() if found.verdict != "slower"}
    nearest = min(rivals or against, key=lambda cell: _distance(against[cell]))
    takes = f"{escape(nearest)}, takes {phrases.difference(against[nearest])}"
    if not rivals:
        return "faster", f"It is the **fastest**; the nearest, {takes}."
    others = f"{len(rivals)} of {several(len(against), 'other')}"
    if {found.verdict for found in rivals.values()} == {"same"}:
        return "same", f"**{others}** answer as soon; the nearest, {takes}."
    return "undecided", (
        f"Whether it is the fastest is {phrases.UNDECIDED} against {others}; the nearest, {takes}."
    )


def _distance(found: Comparison) -> float:
    return abs(found.change) if found.ratio.n else float("inf")


def _cost(view: View, soonest: str) -> str:
    """Say what the soonest cell takes, beside the one that takes least."""
    if soonest not in view.memory:
        return "What it takes in memory could not be measured."
    taken = view.memory[soonest]
    text = f"It takes **{phrases.amount(taken, 'MiB')} of {view.memory_word}**"
    least = min(view.memory, key=lambda cell: view.memory[cell])
    if (more := taken - view.memory[least]) < 2**19:
        return f"{text}, and no cell takes less." if len(view.memory) > 1 else f"{text}."
    return f"{text}, {phrases.amount(more, 'MiB')} more than {escape(least)}."


def _larger_batches(view: View) -> str:
    """Say that ``n_batch`` above ``n_ubatch`` cannot matter, and whether the measurements agree."""
    if (larger := view.larger_batches()) is None:
        return ""
    sizes = enumerate_words([f"{size}" for size in larger.sizes], 9)
    text = (
        f"**{code('n_batch')} {sizes} is above {code('n_ubatch')} and cannot matter**, for "
        f"llama.cpp computes at most {code('n_ubatch')} tokens at once"
    )
    if larger.apart is None:
        return f"{text}; raise {code('n_ubatch')} with it."
    if larger.told_apart:
        return (
            f"{text}; yet equal cells are {percent(larger.apart)} apart, so something disturbed "
            "the measurements: measure again."
        )
    return f"{text}: equal cells are {percent(larger.apart)} apart, which is not told from none."
