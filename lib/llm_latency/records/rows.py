"""Records as a tidy frame, typed at birth: one row per generation, a column per figure.

Names are those of the records' parts; a figure that has one value per phase carries the phase
in its name. Every frame has every column of :data:`COLUMNS`, whatever was measured: numbers are
``float64`` with NaN for what could not be had, counts that are always there ``int64``, flags
``bool``, everything else is text. Nobody who reads a frame has to ask, or to convert again.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from llm_latency.base import Part
from llm_latency.plan import cores
from llm_latency.plan.loading import reading_of
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import HOME, Start
from llm_latency.plan.workload import Sampling, Workload
from llm_latency.records import equal_text, power_cap
from llm_latency.records.generation import Generation, Quality, Timings
from llm_latency.records.record import (
    PHASES,
    PLACES,
    Buffers,
    Effective,
    GpuState,
    HostState,
    LoadTimings,
    ProcessMemory,
    Record,
    StateFile,
    Vram,
)
from llm_latency.words import missing

if TYPE_CHECKING:
    import pandas as pd


SPEEDS = ("binding_overhead_s", "sampling_token_s", "prefill_tps", "decode_tps")
"""Figures of a generation that follow from others."""
NESTED = ("places", "devices")
"""Parts of a process's memory that are no figures themselves."""


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
        "machine_id": record.machine_id,
        "gpu_uuid": record.gpu_uuid,
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
        "reading": reading_of(trial.settings.use_mmap, trial.settings.use_mlock),
        **{f"effective_{k}": v for k, v in _dump(record.effective, Effective).items()},
        **trial.start.model_dump(),
        "cores": cores.in_words(trial.start.cores),
        "engine": trial.start.engine or HOME,
        "effective_cores": record.affinity.in_force,
        "effective_page_cache": record.page_cache.in_force,
        "resident_before": record.page_cache.resident_before,
        "memory_limit_by": record.memory_limit.by if record.memory_limit else None,
        "memory_limit_peak_bytes": record.memory_limit.peak_bytes if record.memory_limit else None,
        **{f"state_{k}": v for k, v in _dump(record.state, StateFile).items()},
        "conversation": trial.workload.conversation,
        "template": trial.workload.template,
        "sampling": trial.workload.sampling.words if trial.workload.sampling else "greedy",
        **_dump(trial.workload.sampling, Sampling),
        "via": trial.workload.via,
        "address": trial.workload.address,
        "at_once": trial.workload.at_once,
        "cache_mode": trial.workload.cache_mode,
        "prefix_tokens": trial.workload.prefix_tokens,
        "length": trial.workload.length,
        "max_tokens": trial.workload.max_tokens,
        "prompt_tokens": trial.workload.prompt_tokens,
        "quality_against": trial.workload.quality_against,
        **{f"quality_{k}": v for k, v in _dump(record.quality, Quality).items() if k != "problem"},
        **_dump(record.load, LoadTimings),
        **record.buffers.model_dump(exclude={"by_device"}),
    }
    for phase in PHASES:
        figures = _dump(record.memory.get(phase), ProcessMemory)
        resident, _ = figures.pop("places") or {}, figures.pop("devices")
        row |= {f"{place}_{phase}_bytes": resident.get(place) for place in PLACES}
        for name, value in figures.items():
            stem = name.removesuffix("_bytes")
            row[f"{stem}_{phase}{name.removeprefix(stem)}"] = value
    last = next((record.memory[p] for p in reversed(PHASES) if p in record.memory), None)
    row |= {k: v for k, v in _dump(last, ProcessMemory).items() if k not in NESTED}
    row |= {
        "read_bytes": record.between("before", "after_load", "read_bytes"),
        "major_faults": record.between("before", "after_last", "major_faults"),
        "minor_faults": record.between("before", "after_last", "minor_faults"),
    }
    row |= {f"vram_{k}": v for k, v in record.vram.model_dump().items()}
    row["vram_delta_bytes"] = record.vram.delta_bytes
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
        "chat_form": g.chat_form,
        "evaluated_tokens": g.evaluated_tokens,
        "unproven": g.unproven,
        "template_tokens": g.template_tokens,
        "cached_tokens": g.cached_tokens,
        "held_tokens": g.held_tokens,
        "lost": g.lost,
        "refilled_tokens": g.refilled_tokens,
        "depth_tokens": g.depth_tokens,
        "generated_tokens": g.generated_tokens,
        "together_tps": g.together_tps,
        "finish_reason": g.finish_reason,
        **g.timings.model_dump(),
        "binding_overhead_s": g.timings.binding_overhead_s,
        "sampling_token_s": g.sampling_token_s,
        "prefill_tps": g.prefill_tps,
        "decode_tps": g.decode_tps,
    }
    if g.cpu_other_fraction is not None:
        row["cpu_other_fraction"] = g.cpu_other_fraction
        row["cpu_steal_fraction"] = g.cpu_steal_fraction
    if g.throttled_periods is not None:
        row["throttled_periods"] = g.throttled_periods
        row["throttled_s"] = g.throttled_s
    if g.problem:
        row |= {"status": "invalid", "reason": g.problem}
    return row


def _dump(part: Part | None, kind: type[Part]) -> dict[str, Any]:
    """Return the part's fields, all ``None`` where the part is missing, so columns are stable."""
    return part.model_dump() if part is not None else dict.fromkeys(kind.model_fields)


def _kind(annotation: Any) -> str:
    """Return the dtype of a field's values."""
    choices = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else [annotation]
    plain = {get_args(one)[0] if get_origin(one) is Annotated else one for one in choices}
    if plain == {bool}:
        return "bool"
    if plain == {int}:
        return "int64"
    return "float64" if plain <= {int, float, type(None)} else "object"


def _kinds(shape: type[BaseModel], leave: Iterable[str] = (), head: str = "") -> dict[str, str]:
    fields = shape.model_fields.items()
    return {f"{head}{name}": _kind(f.annotation) for name, f in fields if name not in set(leave)}


def _measured(shape: type[BaseModel], leave: Iterable[str] = (), head: str = "") -> dict[str, str]:
    """Return the kinds of a part that a trial may lack: then its counts are missing too."""
    weaker = {"int64": "float64", "bool": "object"}
    return {name: weaker.get(kind, kind) for name, kind in _kinds(shape, leave, head).items()}


def _columns() -> dict[str, str]:
    texts = (
        *("run_id", "machine_id", "gpu_uuid", "trial_id", "cell_id", "status", "reason", "model"),
        *("experiment", "process"),
    )
    memory = _measured(ProcessMemory, NESTED)
    by_phase = {
        f"{name.removesuffix('_bytes')}_{phase}{'_bytes' if name.endswith('_bytes') else ''}": kind
        for phase in PHASES
        for name, kind in memory.items()
    }
    places = {f"{place}_{phase}_bytes": "float64" for phase in PHASES for place in PLACES}
    # A streamed answer has no prefill that could be seen: what is Optional stays so.
    return {
        **dict.fromkeys(texts, "object"),
        **dict.fromkeys(("round", "order", "attempt"), "int64"),
        **dict.fromkeys(("twin", "superseded", "disturbed"), "bool"),
        **_kinds(Settings),
        "reading": "object",
        **_measured(Effective, head="effective_"),
        **_kinds(Start),
        "effective_page_cache": "object",
        "effective_cores": "object",
        "resident_before": "float64",
        "memory_limit_by": "object",
        "memory_limit_peak_bytes": "float64",
        **_measured(StateFile, head="state_"),
        **_kinds(Workload, ["prompt", "messages", "prompt_tokens", "depths", "repeats"]),
        **_measured(Sampling),
        **_measured(Quality, ["problem"], head="quality_"),
        **_measured(LoadTimings),
        **_measured(Buffers, ["by_device"]),
        **places,
        **by_phase,
        **memory,
        **_measured(Vram, head="vram_"),
        "vram_delta_bytes": "float64",
        **_measured(GpuState, head="gpu_"),
        **_measured(HostState, ["gpu"]),
        "warnings": "object",
        "child_s": "float64",
        "started_at": "object",
        **_measured(Generation, ["timings", "text", "problem"]),
        **_measured(Timings),
        **dict.fromkeys(SPEEDS, "float64"),
    }


COLUMNS = _columns()
"""Every column of a frame, and its dtype."""
WORDS = (
    *("run_id", "trial_id", "cell_id", "process", "status", "reason", "warnings", "page_cache"),
    "vram_source",
)
"""Texts that are empty rather than missing."""


def typed(made: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return rows as a frame with every column of :data:`COLUMNS`, each with its dtype.

    Columns of other names stay as they are, behind these.
    """
    import pandas as pd

    rows_given = list(made)
    others = dict.fromkeys(n for row in rows_given for n in row if n not in COLUMNS)
    columns: dict[str, Any] = {}
    for name in [*COLUMNS, *others]:
        values = [row.get(name) for row in rows_given]
        columns[name] = _column(values, COLUMNS.get(name), "" if name in WORDS else None)
    table = pd.DataFrame(columns)
    table["process"] = table["run_id"] + "/" + table["trial_id"]
    return table


def _column(values: list[Any], kind: str | None, otherwise: str | None) -> Any:
    """Return values as a column of their kind; of none is known, whatever they are."""
    import numpy as np
    import pandas as pd

    if kind == "float64":
        try:
            return np.array(values, dtype=float)
        except (TypeError, ValueError):
            column = pd.Series(values, dtype=object)
            return pd.to_numeric(column, errors="coerce").astype("float64")
    if kind is None:
        return pd.Series(values, dtype=object).infer_objects()
    # NaN is how pandas marks what a row lacks; of a text that is None.
    if kind == "object":
        known = [otherwise if missing(value) else value for value in values]
        return pd.Series(known, dtype=object)
    return np.array([0 if missing(value) else value for value in values], dtype=kind)


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return the records as a tidy frame.

    A disturbed trial that was measured again has both records: the first is ``superseded`` and
    enters no estimate.
    """
    kept = equal_text.judged(power_cap.judged(records))
    # Replaced because the machine was disturbed, never because of what was measured.
    again = {_first(record) for record in kept if record.trial.attempt and record.status == "ok"}
    return typed(
        row | {"superseded": superseded}
        for record in kept
        for superseded in [bool(again) and not record.trial.attempt and _first(record) in again]
        for row in rows(record)
    )


def _first(record: Record) -> tuple[str, str]:
    """Return what a trial and its second attempt have in common."""
    return record.run_id, record.trial.model_copy(update={"attempt": 0}).trial_id
