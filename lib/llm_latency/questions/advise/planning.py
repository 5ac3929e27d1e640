"""Which settings to set: the combinations to try, and which of them are worth it on this machine.

A plan is pure data: every combination of what is varied. When it is carried out, the memory that
there is decides how many layers go to the GPU, and which combinations are left out because they
are predicted not to fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from llm_latency.engine import token_count
from llm_latency.memory.dry_run import foretelling
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.own_prompt import PROMPT, PROMPT_FILE
from llm_latency.plan.parameters import as_list
from llm_latency.plan.spec import Plan, Trial
from llm_latency.plan.workload import Workload
from llm_latency.questions.advise.candidates import candidates, variants, worth_measuring
from llm_latency.questions.advise.needs import ANYWHERE, Needs, here, needs_of
from llm_latency.questions.advise.threads import worth_trying

ONE = (
    *("n_ctx", "prompt_tokens", "max_tokens", "turns", "tokens_per_turn"),
    *("ttft_s", "load_s", "quality", "use", "memory", "keep_free", "page_cache"),
)
"""What is needed: one value each."""
LOSS_TOKENS = 1024
"""Length of the text by which it is told what a smaller KV cache loses."""
REPLACED = {"n_batch": "n_ubatch"}
"""Each batch that is tried is both: llama.cpp computes no more at once than the smaller."""


def plan(
    model: str = "synthetic:tiny",
    n_ctx: Annotated[int, "tokens of context that are needed"] = 2048,
    prompt_tokens: Annotated[int, "length of the prompt that is answered"] = 512,
    prompt: Annotated[str, PROMPT] = "",
    prompt_file: Annotated[str, PROMPT_FILE] = "",
    max_tokens: Annotated[int, "length of the answer"] = 32,
    turns: Annotated[int, "turns that a chat after this prompt grows to; 0: no chat"] = 0,
    tokens_per_turn: Annotated[int, "length of a turn: a message and its answer"] = 96,
    ttft_s: Annotated[float, "longest time to the first token, in seconds; 0: no bound"] = 0.0,
    load_s: Annotated[float, "longest time to load, in seconds; 0: no bound"] = 0.0,
    quality: Annotated[
        str, 'least share of tokens that a smaller KV cache leaves as they are, "99 %"; empty: f16'
    ] = "",
    use: Annotated[str, "start_up: loaded once; on_demand: anew for each answer"] = "start_up",
    memory: Annotated[str, 'memory there is, such as "6 GiB"; empty: what this machine has'] = "",
    keep_free: Annotated[str, "what is to be left of it for others"] = "256 MiB",
    n_ubatch: Annotated[Grid, "batches to try; []: chosen by the prompt; one: verified"] = (),
    flash_attn: Annotated[Grid, "with and without flash attention; one: verified"] = (False, True),
    n_gpu_layers: Annotated[Grid, "layers on the GPU to try; []: as many as fit"] = (),
    page_cache: Annotated[str, "the file at start: resident, evicted or as_is"] = "resident",
    via: Annotated[
        Grid, "ways of asking that must do; the first decides what is soonest"
    ] = "engine",
    rounds: int = 6,
    **options: Any,
) -> Plan:
    """Plan every combination that might meet some needs.

    ``memory`` is the GPU's where there is one that the engine can use, else RAM. One value of
    ``n_ubatch``, with one of ``flash_attn``, verifies these settings.
    """
    asked = Request("advise", locals(), names.check, REPLACED)
    one = {name: asked.one(name) for name in ONE}
    own = asked.own_prompt()
    needs = needs_of(one | ANYWHERE | ({"own_tokens": 1} if own else {}))
    if own and not needs.prefix_tokens:  # of what length the model's vocabulary will tell
        needs = needs.model_copy(update={"prompt_tokens": needs.n_ctx})
    cells = [
        asked.cell(
            **values,
            **own or workload(needs),
            max_tokens=needs.max_tokens,
            via=way,
            repeats=0,
            page_cache=one["page_cache"],
        )
        for values in variants(needs, asked.given)
        for way in asked.many("via")
    ]
    return asked.plan(cells, twins=cells[:1])


def workload(needs: Needs) -> dict[str, Any]:
    """Return the fields of a workload that asks what is needed, of the passage."""
    said = needs.prefix_tokens
    return {
        "prompt_tokens": needs.prompt_tokens,
        "prefix_tokens": said,
        "cache_mode": "prefix" if said else "cold",
    }


def losses(cells: Sequence[Trial]) -> list[Trial]:
    """Return the trials that tell what the candidates' smaller caches lose, one for each.

    On the user's own prompt, or where there is none on the text that ships with the lab.
    """
    by_cache = {(c.settings.type_k, c.settings.type_v): c for c in reversed(cells)}
    found = []
    for cache, cell in by_cache.items():
        if set(cache) != {"f16"}:
            asked, length = cell.workload, min(cell.settings.n_ctx - 1, LOSS_TOKENS)
            own = asked.prompt_tokens is None
            text = {"prompt": asked.prompt, "messages": asked.messages}
            work = Workload(
                **text if own else {"prompt_tokens": length},
                max_tokens=1,
                repeats=0,
                quality_against="f16",
            )
            found.append(cell.model_copy(update={"workload": work}))
    return found


def for_this_machine(plan: Plan) -> Plan:
    """Return the plan with what is worth measuring here, and the memory that it is judged by."""
    given, cell = plan.parameters, plan.cells[0]
    if "on" in given:  # a stored run goes on with what there was when it began
        return plan
    machine, asked = here(given["n_gpu_layers"]), cell.workload
    with names.skeleton(plan.model) as (path, header):
        if asked.prompt_tokens is None:
            machine["own_tokens"] = token_count.count(path, asked)
        needs = needs_of(given | machine)
        with foretelling(path, header, needs.on) as foretell:
            every = candidates(header, cell.settings, needs, given, foretell)
    if needs.prefix_tokens:  # of a chat that an own prompt opens its length alone matters
        nothing = {"prompt": None, "messages": None}
        asked = asked.model_copy(update=nothing | workload(needs))
    cells = [
        cell.model_copy(
            update={"settings": one.settings, "workload": asked.model_copy(update={"via": way})}
        )
        for one in worth_measuring(every, needs)
        for way in as_list("via", given["via"])
    ]
    twin = cells[0].model_copy(update={"twin": True})
    cells += losses(cells)
    there = machine | {
        "memory_there_bytes": needs.memory_bytes,
        "candidates": [one.as_data() for one in every],
        "threads_tried": worth_trying(given),
    }
    return plan.model_copy(update={"cells": (*cells, twin), "parameters": given | there})
