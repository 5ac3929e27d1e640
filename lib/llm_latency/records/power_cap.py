"""Whether a card that its power limit holds back was slower in one trial than in others.

A limit that holds the clock back in every trial is what the machine is like. What disturbs is a
clock that fell: something else took of the power, or the limit itself was lowered meanwhile. No
trial can know that of itself, so it is judged when the records are read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import median

from llm_latency.records.record import POWER_CAP, Record

FELL_BELOW = 0.95
"""Share of the median clock of a cell's trials below which a trial is called disturbed."""


def judged(records: Iterable[Record]) -> list[Record]:
    """Return records, those with a fallen clock with one disturbance more."""
    kept = list(records)
    clocks: dict[tuple[str, str], list[float]] = defaultdict(list)
    for record in kept:
        if record.host.gpu.sm_clock_mean_hz is not None:
            clocks[record.run_id, record.trial.cell_id].append(record.host.gpu.sm_clock_mean_hz)
    usual = {cell: median(each) for cell, each in clocks.items()}
    return [_judged(one, usual.get((one.run_id, one.trial.cell_id))) for one in kept]


def _judged(record: Record, usual_hz: float | None) -> Record:
    clock_hz = record.host.gpu.sm_clock_mean_hz
    capped = POWER_CAP in (record.host.gpu.throttle or "")
    if not capped or clock_hz is None or usual_hz is None or clock_hz >= FELL_BELOW * usual_hz:
        return record
    sentence = (
        f"the GPU's power limit lowered its clock to {clock_hz / 1e6:,.0f} MHz, of "
        f"{usual_hz / 1e6:,.0f} MHz in this cell's trials; see what else draws on its power, and "
        "repeat"
    )
    return record.model_copy(update={"disturbed": [*record.disturbed, sentence]})
