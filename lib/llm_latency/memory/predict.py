"""How much memory a model will take: from its file's header and the settings, before loading.

*Weights* are the file's tensors; those that the CPU backend repacks for its instructions are
held a second time where the file is mapped. The *KV cache* is exact: layers x padded context x
(width of K x its bytes + width of V x its bytes). *Output* is one row of logits. *Compute* is
the most that any part of llama.cpp's graph needs at once for a batch of T = ``n_ubatch`` tokens
over K = padded ``n_ctx`` cells: in attention (without flash attention K x T x heads scores in
f32, and the mask), in the feed-forward block, or at the end, T rows of logits. What each of
these peaks holds beside was fitted to what llama.cpp said it allocated: :data:`PEAKS`.
"""

from __future__ import annotations

import platform
from typing import NamedTuple

from pydantic import Field

from llm_latency.base import Part
from llm_latency.engine.facts import REPACKED, sizes_in_force
from llm_latency.model.header import Header, Tensor
from llm_latency.plan.spec import Settings, padded


class Peaks(NamedTuple):
    """What a graph holds at its three peaks, in multiples of a batch's rows.

    ``embd``: T rows of ``n_embd`` in f32; ``kv``: of the K and V widths; ``ff``: of ``n_ff``.
    """

    attention_embd: float
    attention_kv: float
    ff_ff: float
    ff_embd: float
    ff_kv: float
    ff_mask: float
    logits_embd: float
    logits_kv: float


PEAKS = {
    False: Peaks(4.91, 1.34, 2.73, 3.74, 3.12, 0.18, 3.16, 0.0),
    True: Peaks(4.61, 0.32, 3.0, 4.07, 0.06, 0.94, 2.26, 0.78),
}
"""By flash attention, for llama.cpp in llama-cpp-python 0.3.36 (least squares on the logarithm of
the ratio, 197 random shapes and settings of llama's architecture on a CPU)."""


class Parts(Part):
    """Bytes on one side, host or GPU."""

    weights_bytes: int = 0
    kv_bytes: int = 0
    compute_bytes: int = 0
    output_bytes: int = 0
    overhead_bytes: int = Field(0, description="What the backend takes for itself")

    @property
    def total_bytes(self) -> int:
        """All parts."""
        return sum(self.model_dump().values())


class Prediction(Part):
    """What a model is predicted to take, on the host and on the GPU."""

    host: Parts
    gpu: Parts
    gpu_layers: int = Field(description="Layers on the GPU, the output counted as one")

    @property
    def total_bytes(self) -> int:
        """Host and GPU."""
        return self.host.total_bytes + self.gpu.total_bytes


def kv_bytes(header: Header, settings: Settings) -> list[int]:
    """Return the KV cache's bytes, layer by layer.

    Also with a sliding window: llama-cpp-python asks llama.cpp for the whole cache.
    """
    n_ctx = padded(settings.n_ctx)
    return [round(n_ctx * each) for each in header.kv_bytes(settings.type_k, settings.type_v)]


def compute_bytes(header: Header, settings: Settings) -> int:
    """Return the bytes of the compute buffer, predicted."""
    n_ctx, _, rows = sizes_in_force(settings)
    flash = settings.flash_attn
    fitted = PEAKS[flash]
    heads_kv = max(header.n_head_kv)
    embd, ff = 4 * rows * header.n_embd, 4 * rows * header.n_ff
    kv = 4 * rows * heads_kv * (header.key_width + header.value_width) / 2
    mask = n_ctx * rows * (2 if flash else 4)
    attention = mask + fitted.attention_embd * embd + fitted.attention_kv * kv
    if flash:
        # Flash attention reads a cache in f32 through a copy in f16.
        wide = [(settings.type_k, header.key_width), (settings.type_v, header.value_width)]
        attention += sum(2 * n_ctx * heads_kv * w for kind, w in wide if kind == "f32")
    else:
        attention += 4 * n_ctx * rows * header.n_head
    feed = fitted.ff_ff * ff + fitted.ff_embd * embd + fitted.ff_kv * kv + fitted.ff_mask * mask
    logits = 4 * rows * header.n_vocab + fitted.logits_embd * embd + fitted.logits_kv * kv
    return round(max(attention, feed, logits))


def predict(
    header: Header,
    settings: Settings,
    *,
    gpu: bool = False,
    overhead_bytes: int = 0,
    machine: str | None = None,
) -> Prediction:
    """Return what a model will take under some settings.

    Parameters
    ----------
    header
        Of the model's file.
    settings
        As it is to be loaded.
    gpu
        Whether the engine can use a GPU; without one all is on the host.
    overhead_bytes
        What the GPU's backend takes for itself, from measurements.
    machine
        The CPU's architecture, by default this one's: it decides what is repacked.
    """
    asked = settings.n_gpu_layers
    most = header.n_layer + 1
    layers = (most if asked < 0 else min(asked, most)) if gpu else 0
    # llama.cpp puts the last layers on the GPU first, and the output after all of them.
    first = header.n_layer - min(layers, header.n_layer)
    kv = kv_bytes(header, settings)
    kv_gpu = sum(kv[first:]) if settings.offload_kqv and layers else 0
    weights_host, weights_gpu = _weights(header, settings, first, layers == most, machine)
    compute = compute_bytes(header, settings)
    output = 4 * header.n_vocab
    return Prediction(
        host=Parts(
            weights_bytes=weights_host,
            kv_bytes=sum(kv) - kv_gpu,
            compute_bytes=0 if layers == most else compute,
            output_bytes=output,
        ),
        gpu=Parts(
            weights_bytes=weights_gpu,
            kv_bytes=kv_gpu,
            compute_bytes=compute if layers else 0,
            overhead_bytes=overhead_bytes if layers else 0,
        ),
        gpu_layers=layers,
    )


def _weights(
    header: Header, settings: Settings, first: int, output_too: bool, machine: str | None
) -> tuple[int, int]:
    """Return the bytes of the weights on the host, copies included, and on the GPU."""
    machine = (machine or platform.machine()).lower().replace("amd64", "x86_64")
    kinds = REPACKED.get(machine.replace("arm64", "aarch64"), frozenset())
    on_gpu = repacked = 0
    places: list[tuple[int, int]] = []  # in the file, of what the host reads where it lies
    at = 0
    for tensor in header.tensors:
        start, at = at, at + tensor.bytes
        by_rows = len(tensor.dims) == 2 and tensor.dims[1] % 8 == 0
        layer = tensor.layer
        if (layer is not None and layer >= first) or (output_too and _ends(tensor)):
            on_gpu += tensor.bytes
        elif tensor.kind in kinds and by_rows and not tensor.name.startswith("token_embd"):
            repacked += tensor.bytes
        else:
            places.append((start, at))
    if not places:
        return repacked, on_gpu
    # A mapping reaches from the first such tensor to the last, over whatever lies between.
    mapped = places[-1][1] - places[0][0] if settings.use_mmap else sum(b - a for a, b in places)
    return repacked + mapped, on_gpu


def _ends(tensor: Tensor) -> bool:
    return tensor.name.startswith("output")
