"""Records as flat rows of a tidy frame: one row per generation, a column per figure.

Names are those of the records' parts; a figure that has one value per phase carries the phase
in its name. A value that could not be had is missing, and every row has every column.
"""

from __future__ import annotations

from typing import Any

from llm_latency.records.record import (
    PHASES,
    PLACES,
    Effective,
    Generation,
    LoadTimings,
    Part,
    ProcessMemory,
    Record,
    StateFile,
)


def rows(record: Record) -> list[dict[str, Any]]:
    """Return one flat row per generation; a trial without any leaves one row of its state."""
    common = _common(record)
    if not record.generations:
        return [common]
    return [common | _generation_row(g) for g in record.generations]


def _common(record: Record) -> dict[str, Any]:
    trial = record.trial
    row: dict[str, Any] = {
        "run_id": record.run_id,
        "trial_id": trial.trial_id,
        "cell_id": trial.cell_id,
        "round": trial.round,
        "order": trial.order,
        "twin": trial.twin,
        "attempt": trial.attempt,
        "status": record.status,
        "reason": record.reason,
        "model": trial.model,
        "experiment": trial.experiment,
        **trial.settings.model_dump(),
        **{f"effective_{k}": v for k, v in _dump(record.effective, Effective).items()},
        **trial.start.model_dump(),
        "effective_page_cache": record.page_cache.in_force,
        "resident_before": record.page_cache.resident_before,
        "memory_limit_by": record.memory_limit.by if record.memory_limit else None,
        "memory_limit_peak_bytes": record.memory_limit.peak_bytes if record.memory_limit else None,
        **{f"state_{k}": v for k, v in _dump(record.state, StateFile).items()},
        "conversation": trial.workload.conversation,
        "via": trial.workload.via,
        "cache_mode": trial.workload.cache_mode,
        "prefix_tokens": trial.workload.prefix_tokens,
        "length": trial.workload.length,
        "max_tokens": trial.workload.max_tokens,
        "prompt_tokens": trial.workload.prompt_tokens,
        **_dump(record.load, LoadTimings),
        **record.buffers.model_dump(exclude={"by_device"}),
    }
    for phase in PHASES:
        figures = _dump(record.memory.get(phase), ProcessMemory)
        lie = figures.pop("places") or {}
        row |= {f"{place}_{phase}_bytes": lie.get(place) for place in PLACES}
        for name, value in figures.items():
            stem = name.removesuffix("_bytes")
            row[f"{stem}_{phase}{name.removeprefix(stem)}"] = value
    last = next((record.memory[p] for p in reversed(PHASES) if p in record.memory), None)
    row |= {k: v for k, v in _dump(last, ProcessMemory).items() if k != "places"}
    row |= {
        "read_bytes": record.between("before", "after_load", "read_bytes"),
        "major_faults": record.between("before", "after_last", "major_faults"),
        "minor_faults": record.between("before", "after_last", "minor_faults"),
    }
    row |= {f"vram_{k}": v for k, v in record.vram.model_dump().items()}
    known = record.vram.peak_bytes is not None and record.vram.before_bytes is not None
    row["vram_delta_bytes"] = (
        record.vram.peak_bytes - record.vram.before_bytes  # type: ignore[operator]
        if known
        else None
    )
    host = record.host.model_dump()
    row |= {f"gpu_{k}": v for k, v in host.pop("gpu").items()} | host
    row |= {
        "warnings": "; ".join([*record.warnings, *record.disturbed]),
        "disturbed": bool(record.disturbed),
        "child_s": record.child_s,
        "started_at": record.started_at,
    }
    return row


def _generation_row(g: Generation) -> dict[str, Any]:
    row: dict[str, Any] = {
        "repeat": g.repeat,
        "prompt_tokens": g.prompt_tokens,
        "prompt_words": g.prompt_words,
        "evaluated_tokens": g.evaluated_tokens,
        "generated_tokens": g.generated_tokens,
        "finish_reason": g.finish_reason,
        **g.timings.model_dump(),
        "binding_overhead_s": g.timings.binding_overhead_s,
        "prefill_tps": g.prefill_tps,
        "decode_tps": g.decode_tps,
    }
    if g.cpu_other_fraction is not None:
        row["cpu_other_fraction"] = g.cpu_other_fraction
        row["cpu_steal_fraction"] = g.cpu_steal_fraction
    if g.problem:
        row |= {"status": "invalid", "reason": g.problem}
    return row


def _dump(part: Part | None, kind: type[Part]) -> dict[str, Any]:
    """Return the part's fields, all ``None`` where the part is missing, so columns are stable."""
    return part.model_dump() if part is not None else dict.fromkeys(kind.model_fields)
