"""Whether a seed gave the same answer in every process, where llama.cpp promises it.

Equal scores and an equal seed draw equal tokens. Scores are equal where equal batches are computed
by the same threads of the same engine: of one cell on the CPU, generation by generation. A GPU adds
up in an order of its own, and a cache that holds a prompt has other batches: there is no promise.
No trial can know what others answered, so it is judged when the records are read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from llm_latency.records.generation import Generation
from llm_latency.records.record import Record

Key = tuple[str, str, int]
"""Run, cell and repeat: generations that promise the same answer."""


def judged(records: Iterable[Record]) -> list[Record]:
    """Return records, those ``invalid`` whose answer is another than most of their cell's."""
    kept = list(records)
    texts: dict[Key, Counter[str]] = defaultdict(Counter)
    for record in kept:
        for key, text in _promised(record):
            texts[key][text] += 1
    usual = {key: found.most_common(1)[0][0] for key, found in texts.items() if len(found) > 1}
    return [_judged(record, usual) for record in kept] if usual else kept


def _promised(record: Record) -> list[tuple[Key, str]]:
    sampling, real = record.trial.workload.sampling, record.effective
    if record.status != "ok" or sampling is None or real is None or real.n_gpu_layers:
        return []
    return [(_key(record, g), g.text_sha256) for g in record.generations if g.text_sha256]


def _key(record: Record, generation: Generation) -> Key:
    return record.run_id, record.trial.cell_id, generation.repeat


def _judged(record: Record, usual: dict[Key, str]) -> Record:
    other = [key[2] for key, text in _promised(record) if usual.get(key, text) != text]
    sampling = record.trial.workload.sampling
    if not other or sampling is None:
        return record
    reason = (
        f"seed {sampling.seed} gave another answer than in other processes of this cell "
        f"(generation {other[0]})"
    )
    return record.model_copy(update={"status": "invalid", "reason": reason})
