"""What a model will take, by llama.cpp's own arithmetic where it can be asked.

llama.cpp lays the model out without allocating (:mod:`llm_latency.engine.dry_run`): caches,
state, graph and the weights of each device are its own sums, for every architecture that it
knows. Two things it leaves open: of a mapped file the host holds a stretch, and not tensors; and
the row of logits is no part of its account.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_latency.engine.dry_run import Allocation, DryRun, NotForetoldError, Side
from llm_latency.memory.predict import Parts, Prediction, layers_on_device, place_weights, predict
from llm_latency.model.header import Header
from llm_latency.plan.settings import Settings

Foretell = Callable[[Settings], Prediction]
"""What a model will take under some settings; raises NotForetoldError where nobody knows."""


@contextlib.contextmanager
def foretelling(
    path: Path | None, header: Header, on: Side, overhead_bytes: int = 0
) -> Iterator[Foretell]:
    """Yield what foretells a model's memory, while the context lasts.

    Parameters
    ----------
    path
        Its file, of which the header is enough; ``None`` where it is not here.
    header
        The file's header.
    on
        Whether layers may be on a device; where the engine sees none, a stand-in is planned on.
    overhead_bytes
        What the device's backend takes for itself, from measurements.
    """
    with DryRun(path) if path else contextlib.nullcontext() as engine:

        def foretell(settings: Settings) -> Prediction:
            if engine is not None:
                with contextlib.suppress(NotForetoldError):
                    plan = engine.ask(settings, on)
                    return prediction(plan, header, settings, on, overhead_bytes)
            return predict(header, settings, gpu=on == "gpu", overhead_bytes=overhead_bytes)

        yield foretell


def stored(info: Mapping[str, Any], header: Header, on: Side) -> Foretell:
    """Return what was foretold when a run was made; for other settings, the formula.

    Parameters
    ----------
    info
        The content of ``run.json``.
    header, on
        As for :func:`foretelling`.
    """
    kept: dict[Settings, Allocation] = {
        Settings.model_validate(one["settings"]): Allocation.model_validate(one["allocation"])
        for one in info.get("foretold") or []
        if one["on"] == on
    }

    def foretell(settings: Settings) -> Prediction:
        if settings in kept:
            return prediction(kept[settings], header, settings, on)
        return predict(header, settings, gpu=on == "gpu")

    return foretell


def prediction(
    plan: Allocation, header: Header, settings: Settings, on: Side, overhead_bytes: int = 0
) -> Prediction:
    """Return both sides' parts out of llama.cpp's plan."""
    layers, _ = layers_on_device(header, settings, on == "gpu")
    placed = place_weights(header, settings, layers)
    host, device = (
        {
            "weights_bytes": sum(buffer.weights_bytes for buffer in side),
            "kv_bytes": sum(buffer.context_bytes for buffer in side),
            "compute_bytes": sum(buffer.compute_bytes for buffer in side),
        }
        for side in (
            [buffer for buffer in plan.buffers.values() if buffer.in_host_memory == in_host]
            for in_host in (True, False)
        )
    )
    host["weights_bytes"] += placed.read_bytes - placed.plain_bytes
    return Prediction(
        host=Parts(**host, output_bytes=4 * header.n_vocab),
        gpu=Parts(**device, overhead_bytes=overhead_bytes if layers else 0),
        gpu_layers=layers,
    )
