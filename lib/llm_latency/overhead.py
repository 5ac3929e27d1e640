"""What a GPU's backend takes for itself, from measurements: a part that no header tells.

The CUDA context, its libraries' workspace and the driver's share differ from card to card and
from release to release. What NVML saw of a process, or of the whole card around it, minus what
llama.cpp says that it allocated there, is the rest.
"""

from __future__ import annotations

from collections.abc import Iterable

from llm_latency.record import Record
from llm_latency.stats import Estimate, estimate

ON_HOST = ("CPU", "Host", "AMX", "BLAS")
"""Parts of the names of devices whose memory is the machine's, not the card's."""


def gpu_overhead(records: Iterable[Record]) -> Estimate:
    """Return the VRAM beyond what llama.cpp allocated, in bytes, over processes.

    Give its ``high`` to :func:`llm_latency.fits` as ``overhead``. ``n`` is 0 where no process
    kept layers on a card whose memory could be seen.

    Parameters
    ----------
    records
        Of any run, ``run.records()``.
    """
    return estimate(
        rest for record in records if record.status == "ok" and (rest := _rest(record)) is not None
    )


def _rest(record: Record) -> float | None:
    seen = record.vram.process_bytes
    if seen is None and record.vram.peak_bytes is not None:
        # Right only while nothing else uses the card.
        seen = record.vram.peak_bytes - (record.vram.before_bytes or 0)
    cards = {
        device: parts
        for device, parts in record.buffers.by_device.items()
        if not any(word in device for word in ON_HOST)
    }
    if seen is None or not cards:
        return None
    return float(seen - sum(size for parts in cards.values() for size in parts.values()))
