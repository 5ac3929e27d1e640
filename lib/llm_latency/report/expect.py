"""What to expect, before anything is measured: how much, how large, and no faster than what.

Decode is bound by memory: each token reads every weight that takes part in it once, so the
ceiling is ``bandwidth / bytes read per token``. Of the vocabulary's table one row is read, unless
the same table is the output layer. What does not follow from a header alone is not foretold.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from llm_latency.errors import LabError
from llm_latency.machine.bandwidth import read_bytes_per_s
from llm_latency.measure.earlier import round_s
from llm_latency.model import names
from llm_latency.model.header import Header
from llm_latency.plan.spec import Plan
from llm_latency.words import MIB, duration, number, percent, several

NOT_FORETOLD = "not foretold"


def expect(plan: Plan) -> pd.DataFrame:
    """Return a card of what a plan will measure, and of the bounds that its figures have.

    Parameters
    ----------
    plan
        What :mod:`llm_latency.questions` plan.
    """
    cells = [cell for cell in plan.cells if not cell.twin]
    trials = len(plan.trials())
    rounds = "as many rounds as fit" if plan.minutes else several(plan.rounds, "round")
    lines = {
        "measured": f"{several(len(cells), 'cell')} × {rounds}"
        + (
            f", {len(plan.cells) - len(cells)} of them twice"
            if len(plan.cells) > len(cells)
            else ""
        )
        + (f": {trials:,} fresh processes" if not plan.minutes else ""),
        "takes": _takes(plan),
    }
    try:
        lines |= _of_model(plan, names.header_of(plan.model))
    except LabError as error:
        lines["model"] = f"{NOT_FORETOLD}: {error}"
    card = pd.DataFrame(list(lines.items()), columns=["to expect", ""], dtype=object)
    card.attrs["card"] = True
    return card


def _takes(plan: Plan) -> str:
    """Say how long the plan takes, as far as earlier runs tell."""
    one = round_s(plan)
    if plan.minutes:
        fit = 60 * plan.minutes / one if one else math.nan
        whole = f", about {several(round(fit), 'round')}" if fit >= 1 else ""
        part = f", about {percent(fit)} of a round" if fit < 1 else ""
        early = ", or less if all is decided before" * plan.stop_when_decided
        return f"{duration(60 * plan.minutes)}{whole}{part}{early}"
    if one is None:
        return "known after the first round"
    most = "at most, " * plan.stop_when_decided
    whole_s = one + (plan.rounds - 1) * (round_s(plan, 1) or 0.0)
    return f"{most}about {duration(whole_s)}, as such trials took before"


def token_bytes(header: Header) -> int | None:
    """Return the weight bytes that one token of decode reads; ``None`` where nobody can tell.

    Of a layer's experts it reads those that the router chooses: as many for every token.
    """
    if header.has_experts and not 0 < header.n_expert_used <= header.n_expert:
        return None
    tensors = [t for t in header.tensors if header.is_tied or t.name != "token_embd.weight"]
    experts = sum(tensor.bytes for tensor in tensors if tensor.is_experts)
    others = sum(tensor.bytes for tensor in tensors) - experts
    return others + (experts * header.n_expert_used // header.n_expert if experts else 0)


def _of_model(plan: Plan, header: Header) -> dict[str, Any]:
    """Return the lines that follow from the model's header."""
    settings = plan.cells[0].settings
    per_token = sum(header.kv_bytes(settings.type_k, settings.type_v))
    lines = {"weights": f"{number(header.file_bytes * MIB)} MiB in the file"}
    if header.recurrent:
        lines["KV cache"] = f"{NOT_FORETOLD} for {header.architecture}: it keeps a state instead"
    else:
        lines["KV cache"] = f"{per_token:,.0f} bytes per token of context"
    read = token_bytes(header)
    if read is None:
        lines["decode"] = f"{NOT_FORETOLD}: the file does not say how many experts a token reads"
        return lines
    routed = f", {header.n_expert_used} of {header.n_expert} experts" * header.has_experts
    lines["read per token"] = (
        f"{number(read * MIB)} MiB of weights{routed}, and the KV cache so far"
    )
    bandwidth = read_bytes_per_s(names.cache_dir())
    ceiling = bandwidth / read
    lines["bandwidth of RAM"] = f"{number(bandwidth / 1e9)} GB/s, measured here"
    lines["ceiling of decode"] = (
        f"{number(ceiling)} tok/s from RAM; a GPU reads its own memory, and small models may come "
        "from the CPU's cache, which is faster"
    )
    if any(cell.workload.length == "natural" for cell in plan.cells):
        lines["time"] = f"{NOT_FORETOLD}: answers end where the model ends them"
        return lines
    if plan.minutes:
        return lines
    tokens = plan.rounds * sum(c.workload.max_tokens * c.workload.generations for c in plan.cells)
    lines["time"] = (
        f"{duration(tokens / ceiling)} for {tokens:,} tokens at that ceiling; a process's start, "
        "loading and its prompts come on top"
    )
    return lines
