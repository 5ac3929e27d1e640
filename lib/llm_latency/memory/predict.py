"""How much memory a model will take: the formula, from its file's header and the settings.

*Weights* are the file's tensors; those that the CPU backend repacks for its instructions are
held a second time where the file is mapped. The *KV cache* is exact: layers x padded context x
(width of K x its bytes + width of V x its bytes). *Output* is one row of logits. *Compute* is
the most that any part of llama.cpp's graph needs at once for a batch of T = ``n_ubatch`` tokens
over K = padded ``n_ctx`` cells: in attention (without flash attention K x T x heads scores in
f32, and the mask), in the feed-forward block, or at the end, T rows of logits. What each of
these peaks holds beside was fitted to what llama.cpp said it allocated: :data:`PEAKS`.

It was fitted to llama's own architecture, and serves where the engine or the model's file is not
at hand; where they are, llama.cpp's own arithmetic does: :mod:`llm_latency.memory.dry_run`.
"""

from __future__ import annotations

import platform
from typing import NamedTuple

from pydantic import Field

from llm_latency.base import Part
from llm_latency.engine.dry_run import NotForetoldError, check_placed
from llm_latency.engine.facts import REPACKED, sizes_in_force
from llm_latency.model.header import Header
from llm_latency.plan.settings import Settings, padded


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


FITTED = frozenset({"llama"})
"""Architectures that the formula was fitted to."""


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
    flash = bool(settings.flash_attn)
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

    Raises
    ------
    NotForetoldError
        If the formula was not fitted to the model's architecture, or to these settings.
    """
    check_placed(settings, "gpu" if gpu else "cpu")
    if header.architecture not in FITTED or header.has_experts:
        what = header.architecture + (" with experts" if header.has_experts else "")
        raise NotForetoldError(
            f"what a model takes is not foretold for {what} by the header alone; measure it, or "
            "ask where its file and the engine are"
        )
    layers, first = layers_on_device(header, settings, gpu)
    kv = kv_bytes(header, settings)
    kv_gpu = sum(kv[first:])
    placed = place_weights(header, settings, layers, machine)
    compute = compute_bytes(header, settings)
    return Prediction(
        host=Parts(
            weights_bytes=placed.repacked_bytes + placed.read_bytes,
            kv_bytes=sum(kv) - kv_gpu,
            # With all layers on the device the embeddings of a batch and its mask are left.
            compute_bytes=_input_bytes(header, settings)
            if layers == header.n_layer + 1
            else compute,
            output_bytes=4 * header.n_vocab,
        ),
        gpu=Parts(
            weights_bytes=placed.device_bytes,
            kv_bytes=kv_gpu,
            compute_bytes=compute if layers else 0,
            overhead_bytes=overhead_bytes if layers else 0,
        ),
        gpu_layers=layers,
    )


def layers_on_device(header: Header, settings: Settings, gpu: bool) -> tuple[int, int]:
    """Return how many layers are on the device, and the first block of them.

    The output layer is one of them and goes first; then the blocks, from the last.
    """
    most, asked = header.n_layer + 1, settings.n_gpu_layers
    layers = (most if asked < 0 else min(asked, most)) if gpu else 0
    return layers, most - max(layers, 1)


class Placed(NamedTuple):
    """Bytes of the weights, by where they lie.

    ``read_bytes`` the host reads as they are in the file: of a mapped file from the first such
    tensor to the last, over whatever lies between. ``plain_bytes`` are those tensors alone.
    """

    device_bytes: int
    repacked_bytes: int
    read_bytes: int
    plain_bytes: int


def place_weights(
    header: Header, settings: Settings, layers: int, machine: str | None = None
) -> Placed:
    """Return where the weights lie with so many layers on the device."""
    machine = (machine or platform.machine()).lower().replace("amd64", "x86_64")
    kinds = REPACKED.get(machine.replace("arm64", "aarch64"), frozenset())
    first = header.n_layer + 1 - max(layers, 1)
    on_device = repacked = at = 0
    places: list[tuple[int, int]] = []  # in the file, of what the host reads where it lies
    for tensor in header.tensors:
        start, at = at, at + tensor.bytes
        repackable = tensor.kind in kinds and len(tensor.dims) > 1 and tensor.dims[1] % 8 == 0
        embeddings, block = tensor.name.startswith("token_embd"), tensor.layer
        if tensor.is_experts and (block or 0) < (settings.n_cpu_moe or 0):
            places.append((start, at))
        elif layers and (block >= first if block is not None else tensor.name.startswith("output")):
            on_device += tensor.bytes
        elif repackable and not embeddings:
            repacked += tensor.bytes
        else:
            places.append((start, at))
        if embeddings and header.is_tied:  # held again as the output layer, where that differs
            on_device += tensor.bytes if layers else 0
            repacked += tensor.bytes if repackable and not layers else 0
    plain = sum(end - start for start, end in places)
    span = places[-1][1] - places[0][0] if places else 0
    return Placed(on_device, repacked, span if settings.use_mmap else plain, plain)


def _input_bytes(header: Header, settings: Settings) -> int:
    """Return what is computed on the host where all layers are on the device."""
    n_ctx, _, rows = sizes_in_force(settings)
    mask = n_ctx * rows * (2 if settings.flash_attn else 4)
    return mask + 4 * rows * header.n_embd * (2 if settings.flash_attn else 3)
