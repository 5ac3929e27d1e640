"""What a walk through a context is made of, and another tool's rows to hold beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import pandas as pd

from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.parameters import shown, whole
from llm_latency.plan.settings import MAX_INT32, KvType, padded
from llm_latency.plan.spec import Plan
from llm_latency.records import llama_bench

REPLACED = {"type_k": "kv_type", "type_v": "kv_type"}


def plan(
    model: str = "synthetic:tiny",
    depths: Annotated[Grid, "tokens in the context at each step of the walk"] = (
        *(0, 256, 512, 768, 1024, 1280, 1536, 1792, 2048),
    ),
    prompt_tokens: Annotated[int, "length of the message at each step"] = 32,
    max_tokens: int = 16,
    ttft_s: Annotated[float, "longest wait for a first token that is borne; 0: no bound"] = 0.0,
    n_ctx: Annotated[int, "tokens the context can hold; 0: as many as the deepest needs"] = 0,
    flash_attn: Grid = (False, True),
    kv_type: Annotated[Grid, "number formats of the KV cache, for K and V alike"] = ("f16", "q8_0"),
    beside: Annotated[str, "llama-bench's rows (-d) or sweep-bench's to show beside: a file"] = "",
    rounds: int = 6,
    **options: Any,
) -> Plan:
    """Plan a walk through one context for each kind of attention and number format of its cache.

    Formats that need flash attention are left out where there is none.
    """
    request = Request("depth", locals(), names.check, REPLACED, how_much=True)
    steps = sorted({whole("depths", depth, 0) for depth in request.many("depths")})
    message = whole("prompt_tokens", request.one("prompt_tokens"))
    answer_tokens = whole("max_tokens", request.one("max_tokens"), 2)
    check_bound(request.one("ttft_s"))
    rows_beside(request.one("beside"))
    if (enough := padded(steps[-1] + message + answer_tokens)) > MAX_INT32:
        raise ParameterError(
            f"depths={steps[-1]}, prompt_tokens={message} and max_tokens={answer_tokens} are "
            f"refused: they need a context of more than {MAX_INT32:,} tokens; give fewer."
        )
    asked_n_ctx = request.one("n_ctx")
    n_ctx = enough if type(asked_n_ctx) is int and not asked_n_ctx else asked_n_ctx
    cells = [
        request.cell(
            depths=tuple(steps),
            prompt_tokens=message,
            max_tokens=answer_tokens,
            cache_mode="kept",
            repeats=len(steps) - 1,
            page_cache="resident",
            warm_up="batch",  # else the first step would be the first generation after loading
            n_ctx=n_ctx,
            flash_attn=attention,
            type_k=kv_type,
            type_v=kv_type,
        )
        for kv_type in request.chosen("kv_type", get_args(KvType))
        for attention in request.many("flash_attn")
    ]
    return request.plan(cells, twins=cells[:1])


def check_bound(value: Any) -> None:
    """Refuse what cannot be the longest wait for a first token, in seconds; 0 is no bound."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise ParameterError(
            f"ttft_s={shown(value)} is refused: give seconds, such as 0.5, or 0 for no bound."
        )


def rows_beside(file: Any) -> pd.DataFrame:
    """Return the rows of another tool by depth; none where no file is named."""
    if file == "":
        return pd.DataFrame()
    if not isinstance(file, str):
        raise ParameterError(f"beside={shown(file)} is refused: give the path of a file.")
    try:
        rows = llama_bench.read(Path(file))
    except ParameterError as error:
        why = " ".join(str(error).split())
        raise ParameterError(f"beside={shown(file)} is refused: {why}") from None
    return rows.assign(token_s=1 / rows["decode_tps"])
