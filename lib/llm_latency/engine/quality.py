"""What a KV cache loses: its model's predictions against those with a cache in another format.

The same tokens go, chunk by chunk, through two contexts of one loaded model that differ in nothing
but the formats of their caches. Of each token both say how likely every token is to come next; how
far apart they are is the Kullback-Leibler divergence, ``sum p (log p - log q)``, ``p`` being the
reference's. A chunk's logits are compared and forgotten, so that beside the model and the two
caches hardly any memory is taken: the whole window times the vocabulary would be hundreds of MiB.

Both contexts compute the same chunks, since the size of a batch decides which of llama.cpp's
kernels works, and a kernel's rounding is no loss of the cache.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from llm_latency.engine.library import C
from llm_latency.engine.llama import Model
from llm_latency.engine.log import LlamaLog
from llm_latency.errors import EngineError
from llm_latency.plan.settings import KvType
from llm_latency.plan.workload import LOSS_BLOCK
from llm_latency.records.generation import Quality

CHUNK = 32
"""Tokens whose logits are held at once. Fewer than llama.cpp takes into tiles of unquantised
attention: so both kinds of cache are read as in decode, token by token."""

Row = npt.NDArray[np.float64]


class Difference(NamedTuple):
    """How far two predictions of the next token are apart."""

    divergence: float
    same_token: float
    probability_change: float


def quality(model: Model, tokens: list[int], against: KvType) -> Quality:
    """Return what a model's KV cache loses on some tokens, by blocks of them.

    Parameters
    ----------
    model
        The model, its cache in the formats that are asked about. What the cache holds is lost.
    tokens
        The text, in tokens; no more than its context holds.
    against
        Format of both K and V in the reference.

    Raises
    ------
    EngineError
        If the text is shorter than a block or longer than the context, or there is no memory for
        the other cache.
    """
    if not LOSS_BLOCK <= len(tokens) <= model.effective.n_ctx:
        raise EngineError(
            f"a text of {len(tokens)} tokens shows no loss: give {LOSS_BLOCK} to "
            f"{model.effective.n_ctx}, what n_ctx holds"
        )
    log = LlamaLog(model.log.stream)
    with model.another_context(against, CHUNK, log) as reference:
        found = np.array(list(differences(model, reference, tokens)))
        fed = [_length(context) for context in (model.context, reference)]
    blocks = found[: len(found) // LOSS_BLOCK * LOSS_BLOCK].reshape(
        -1, LOSS_BLOCK, len(Difference._fields)
    )
    means = dict(zip(Difference._fields, blocks.mean(axis=1).T.tolist(), strict=True))
    return Quality(
        block_tokens=LOSS_BLOCK,
        reference_kv_bytes=log.buffers().kv_bytes,
        problem=_problem(model, log, against, len(tokens), fed, found),
        **means,
    )


def _problem(
    model: Model, log: LlamaLog, against: KvType, tokens: int, fed: list[int], found: Any
) -> str | None:
    """Return which proof failed, as a sentence; ``None`` where all held."""
    if log.kv_types() != (against, against):
        return f"a reference in {against} was asked, and its KV cache is in {log.kv_types()}"
    if log.flash_attn() != model.effective.flash_attn:
        return f"the reference has flash_attn={log.flash_attn()}, and the model another"
    if fed != [tokens, tokens]:
        return f"{tokens} tokens were to be in both KV caches, {fed[0]} and {fed[1]} are"
    if not np.isfinite(found).all():
        return "llama.cpp gave logits that are no numbers"
    return None


def differences(model: Model, reference: Any, tokens: list[int]) -> Iterator[Difference]:
    """Yield, token by token, how far a model's prediction is from that of another context."""
    model.kv_cache.forget()
    size = min(CHUNK, model.effective.n_ubatch)
    with _batch(size) as batch:
        for at in range(0, len(tokens), size):
            chunk = tokens[at : at + size]
            mine, theirs = (
                _logits(model, context, batch, chunk, at) for context in (model.context, reference)
            )
            for found, wanted in zip(mine, theirs, strict=True):
                yield difference(found, wanted)


def difference(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> Difference:
    """Return how far some logits are from those that are wanted."""
    q, p = _log_softmax(found), _log_softmax(wanted)
    likely = np.exp(p)
    first = int(np.argmax(p))
    return Difference(
        float(likely @ (p - q)),
        float(np.argmax(q) == first),
        float(abs(np.exp(q[first]) - likely[first])),
    )


def _log_softmax(logits: npt.NDArray[np.float32]) -> Row:
    row: Row = logits.astype(np.float64)
    row -= row.max()
    row -= np.log(np.exp(row).sum())
    return row


@contextlib.contextmanager
def _batch(size: int) -> Iterator[Any]:
    """Yield a batch of llama.cpp's that asks for the logits of every token."""
    batch = C.llama_batch_init(size, 0, 1)
    try:
        yield batch
    finally:
        C.llama_batch_free(batch)


def _logits(
    model: Model, context: Any, batch: Any, chunk: list[int], at: int
) -> npt.NDArray[np.float32]:
    """Return the logits of every token of a chunk: llama.cpp's own, until the next is computed."""
    batch.n_tokens = len(chunk)
    for place, token in enumerate(chunk):
        batch.token[place], batch.pos[place], batch.logits[place] = token, at + place, 1
        batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
    model.evaluate(batch, context)
    C.llama_synchronize(context)
    rows = C.llama_get_logits(context)
    return np.ctypeslib.as_array(rows, shape=(len(chunk), model.n_vocab))


def _length(context: Any) -> int:
    return int(C.llama_memory_seq_pos_max(C.llama_get_memory(context), 0)) + 1
