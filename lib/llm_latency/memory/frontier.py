"""The largest context that truly works in the memory that is there, found by trying.

A context that loads can still fail when it is full: compute buffers are touched by the first
decode, and the mapped file competes for the same memory. So each probe is a process of its own
that loads the model, fills the window with a prompt and answers; running out of memory is its
result. The search starts from the prediction and bisects llama.cpp's grid of 256 tokens, since
what works for a context works for every smaller one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pandas as pd

from llm_latency.engine.dry_run import NotForetoldError, Side
from llm_latency.errors import ParameterError
from llm_latency.memory.dry_run import foretelling
from llm_latency.memory.fits import largest
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.parameters import whole
from llm_latency.plan.settings import PADDING, Settings, padded
from llm_latency.plan.sizes import limit_bytes, size_bytes
from llm_latency.plan.spec import Plan, Trial
from llm_latency.records.record import Record
from llm_latency.records.store import RunStore

PROCESS_CHARGED_BYTES = 40 << 20
"""What a cap counts of a process beside its model, roughly: only where a search begins.

A cgroup counts pages for whoever touched them first: libraries that other processes use as well
are resident here and not counted.
"""


UNDECIDED = ("invalid", "timeout")
"""Ends of a probe that do not tell whether its context works."""


def search(works: Callable[[int], bool], guess: int, most: int, least: int = 1) -> int | None:
    """Return the largest number of steps that works, asking as rarely as it can.

    Parameters
    ----------
    works
        Asked at most once for each number of steps; whatever works for one works for fewer.
    guess
        Where to begin.
    most, least
        The largest and the smallest number to consider.

    Returns
    -------
    int or None
        ``None`` if not even the smallest works.
    """
    guess = min(max(guess, least), most)
    low, high = least - 1, most + 1  # the largest known to work, the smallest known not to
    step, at = 1, guess
    # Away from the guess in growing steps until the edge lies between two answers.
    while low < at < high:
        if works(at):
            low, at = at, min(at + step, most)
        else:
            high, at = at, max(at - step, least)
        step *= 2
        between = high <= most and low >= least
        if low == most or high == least or (between and (low >= guess or high <= guess)):
            break
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if works(middle) else (low, middle)
    return low if low >= least else None


def plan(
    model: str = "synthetic:tiny",
    n_batch: Grid = (512,),
    n_ubatch: Grid = (0,),
    memory_limit: str | int = "none",
    leave_vram: str | int = "none",
    most: int = 32768,
    max_tokens: int = 4,
    **options: Any,
) -> Plan:
    """Plan a frontier: a cell per batch, whose context is to be found.

    Parameters
    ----------
    model
        A path, ``synthetic:<shape>``, ``package:<name>`` or ``hf:owner/repo/file.gguf@revision``.
    n_batch, n_ubatch
        Batches, each with a frontier of its own; ``n_ubatch`` 0 is the engine's own. A context
        smaller than ``n_batch`` is not tried.
    memory_limit
        Most RAM that a probe may use, such as ``"200 MiB"``; ``none``: all there is.
    leave_vram
        VRAM that is free when a probe starts, such as ``"6 GiB"``, as if the card had less; a
        ballast holds the rest, see :mod:`llm_latency.machine.vram_ballast`. ``none``: all there is.
    most
        Largest context to try.
    max_tokens
        Tokens to generate behind the prompt that fills the window.
    **options
        See :data:`~llm_latency.plan.builder.OPTIONS`.
    """
    asked = Request("frontier", locals(), names.check, how_much=True)
    limit = limit_bytes("memory_limit", asked.one("memory_limit"))
    leave = asked.one("leave_vram")
    n_ctx = whole("most", asked.one("most"), least=2 * PADDING)
    tokens = whole("max_tokens", asked.one("max_tokens"))
    if tokens >= PADDING:
        raise ParameterError(
            f"max_tokens={tokens} is refused: the smallest context that is tried holds {PADDING} "
            "tokens, prompt and answer; give fewer."
        )
    cells = [
        asked.cell(
            **batch,
            n_ctx=n_ctx // PADDING * PADDING,
            prompt_tokens=n_ctx // PADDING * PADDING - tokens,
            max_tokens=tokens,
            repeats=0,
            # Mapped pages that were in RAM before would count as nobody's.
            page_cache="evicted" if limit and asked.one("use_mmap") else "resident",
            memory_limit_bytes=limit,
            leave_vram_bytes=(
                None if leave in ("none", "", None) else size_bytes("leave_vram", leave)
            ),
        )
        for batch in asked.grid("n_batch", "n_ubatch")
    ]
    if (batch := max(cell.settings.n_batch for cell in cells)) > cells[0].settings.n_ctx:
        raise ParameterError(
            f"n_batch={batch} is refused: no context up to most={n_ctx} holds it, and llama.cpp "
            "would cut it down; give a smaller n_batch or a larger most."
        )
    # A search has no rounds and no twin: what it finds either works or does not.
    return asked.plan(cells, twins=()).model_copy(update={"rounds": 1})


def next_trials(frontier: Plan, store: RunStore) -> list[Trial]:
    """Return the next probe of the search, given those that are stored; none: it has ended.

    The search is gone through from its beginning each time, by what is known: so one that goes
    on and one that was never stopped ask the same.
    """
    stored = {record.trial.trial_id: record for record in store.records()}
    for cell in frontier.cells:

        def works(steps: int, cell: Trial = cell) -> bool:
            trial = probe(cell, steps * PADDING)
            if trial.trial_id not in stored:
                raise _Unknown(trial)
            return stored[trial.trial_id].status == "ok"

        try:
            # In a smaller context llama.cpp would cut the batch down.
            least = padded(cell.settings.n_batch) // PADDING
            search(works, guess(cell) // PADDING, cell.settings.n_ctx // PADDING, least)
        except _Unknown as unknown:
            return [unknown.trial]
    return []


class _Unknown(Exception):
    """A search asked for a probe that is not stored."""

    def __init__(self, trial: Trial) -> None:
        super().__init__(trial.trial_id)
        self.trial = trial


def probe(cell: Trial, n_ctx: int) -> Trial:
    """Return a cell with another context, filled by its prompt."""
    work = cell.workload
    return cell.model_copy(
        update={
            "settings": cell.settings.model_copy(update={"n_ctx": n_ctx}),
            "workload": work.model_copy(update={"prompt_tokens": n_ctx - work.max_tokens}),
        }
    )


@functools.lru_cache(maxsize=64)
def guess(cell: Trial) -> int:
    """Return the largest context that is predicted to work under the cell's memory limits."""
    ram, vram = cell.start.memory_limit_bytes, cell.start.leave_vram_bytes
    if ram is None and vram is None:
        return cell.settings.n_ctx
    on: Side = "cpu" if vram is None else "gpu"
    with names.skeleton(cell.model) as (path, header), foretelling(path, header, on) as foretell:

        def predicted(n_ctx: int) -> bool:
            need = foretell(cell.settings.model_copy(update={"n_ctx": n_ctx}))
            held = need.host.total_bytes + PROCESS_CHARGED_BYTES
            return held <= (ram or held) and need.gpu.total_bytes <= (vram or need.gpu.total_bytes)

        try:
            return largest(predicted, cell.settings.n_ctx) or PADDING
        except NotForetoldError:  # the search finds it from the other end
            return PADDING


def found(records: list[Record]) -> pd.DataFrame:
    """Return one row per batch: the largest context that worked, and what stopped the next.

    Columns: ``n_batch, n_ubatch, n_ctx`` (the largest that worked), ``verdict`` (``found``,
    ``none`` where no context works, ``undecided`` where the next one was not proven or did not
    end in time), ``fails_at`` (the smallest that failed), ``status`` and ``reason`` (of the
    smallest that did not work), ``probes``, ``peak_bytes`` (of the largest that worked).
    """
    groups: dict[Settings, list[Record]] = {}
    for record in records:
        key = record.trial.settings.model_copy(update={"n_ctx": PADDING})
        groups.setdefault(key, []).append(record)
    rows = []
    for settings, probes in groups.items():
        good = [r for r in probes if r.status == "ok"]
        bad = [r for r in probes if r.status != "ok"]
        best = max(good, key=lambda r: r.trial.settings.n_ctx, default=None)
        cliff = min(bad, key=lambda r: r.trial.settings.n_ctx, default=None)
        undecided = cliff is not None and cliff.status in UNDECIDED
        last = best.memory.get("after_last") if best else None
        rows.append(
            {
                "n_batch": settings.n_batch,
                "n_ubatch": settings.n_ubatch,
                "n_ctx": best.trial.settings.n_ctx if best else None,
                "verdict": "undecided" if undecided else "found" if best else "none",
                "fails_at": cliff.trial.settings.n_ctx if cliff and not undecided else None,
                "status": cliff.status if cliff else None,
                "reason": cliff.reason if cliff else None,
                "probes": len(probes),
                "peak_bytes": last.rss_peak_bytes if last else None,
            }
        )
    return pd.DataFrame(rows)
