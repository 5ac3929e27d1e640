"""The tensors of a llama model of a given shape, and random bytes to fill them with.

Every weight is drawn afresh from the raw bit stream of a seeded generator: no block is used
twice, and no floating-point distribution is involved, whose results might differ between
releases of numpy. Quantised blocks are drawn directly: a scale of fixed size and random sign,
then random integers. Scales follow the lengths of rows, so activations stay finite and logits
vary from token to token.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_latency.errors import ParameterError, did_you_mean
from llm_latency.model.gguf import FORMATS, Format
from llm_latency.model.vocabulary import END, MIN_SIZE, N_UNWRITTEN

_CHUNK_VALUES = 1 << 22  # a multiple of every block; a few chunks are all the memory needed
_LOGIT_SPREAD = 4.0  # standard deviation of logits: neither uniform nor a single certain token

LOUD = 3
"""How many times the others' scale the row of ``</s>`` has, of a model whose answers end."""
EXPERTS_USED = 2
"""Experts that compute each token, of a layer that has some."""

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Quantisation:
    """How weights are stored: blocks of an F16 scale and small integers, or plain F16.

    Attributes
    ----------
    stored
        The number format of a matrix.
    spread
        Standard deviation of the stored numbers, before the scale.
    file_type
        GGUF's number for a file of this kind.
    """

    stored: Format
    spread: float
    file_type: int

    def n_bytes(self, n_values: int) -> int:
        """Bytes that `n_values` weights take."""
        return n_values // self.stored.block_values * self.stored.block_bytes


QUANTISATIONS: dict[str, Quantisation] = {
    "q8_0": Quantisation(FORMATS["q8_0"], math.sqrt((256**2 - 1) / 12 + 0.25), file_type=7),
    "q4_0": Quantisation(FORMATS["q4_0"], math.sqrt((16**2 - 1) / 12 + 0.25), file_type=2),
    "f16": Quantisation(FORMATS["f16"], 1.0, file_type=1),
}
"""Allowed quantisations; the first is the default."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model: of a llama, or of its kin.

    Attributes
    ----------
    n_layer
        Transformer blocks.
    n_embd, n_ff
        Widths of the residual stream and of the feed-forward part; multiples of 32.
    n_head, n_head_kv
        Attention heads, and those that have keys and values of their own.
    n_vocab
        Tokens of the vocabulary, at least ``vocabulary.MIN_SIZE``; the share of ordinary words
        that are one token is true to life from about 8000.
    n_ctx_train
        Context length in tokens that the header states.
    n_expert
        Feed-forward parts of each layer, of which ``EXPERTS_USED`` compute a token; 0: there is
        one, for every token.
    window
        Tokens that every second layer looks back on, in the way of Gemma 2; 0: on all of them.
    tied
        Whether the embeddings are the output matrix too, as Gemma's are.
    ends
        Whether ``</s>`` is likely, so that answers end by themselves.

    Raises
    ------
    ParameterError
        If llama.cpp could not run such a model.
    """

    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_ff: int
    n_vocab: int
    n_ctx_train: int
    n_expert: int = 0
    window: int = 0
    tied: bool = False
    ends: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < getattr(type(self), name, 1):  # what has a default may have none of it
                raise ParameterError(f"{name}={value} is not a size: give a number from 1 on.")
        for name in ("n_embd", "n_ff"):
            if getattr(self, name) % 32:
                raise ParameterError(
                    f"{name}={getattr(self, name)} does not divide into quantisation blocks: "
                    "give a multiple of 32."
                )
        if self.n_embd % (2 * self.n_head):
            raise ParameterError(
                f"n_embd={self.n_embd} does not give each of n_head={self.n_head} heads the same "
                "even width: give a number of heads that divides half of n_embd."
            )
        if self.n_head % self.n_head_kv:
            raise ParameterError(
                f"n_head_kv={self.n_head_kv} does not divide n_head={self.n_head}: "
                "give a divisor of n_head."
            )
        if 0 < self.n_expert < EXPERTS_USED:
            raise ParameterError(
                f"n_expert={self.n_expert} is fewer than compute each token: give {EXPERTS_USED} "
                "or more, or 0."
            )
        if self.window and not self.tied:
            raise ParameterError(
                "a window without tied embeddings is no model that llama.cpp has: give tied=True."
            )
        if self.n_vocab < MIN_SIZE:
            raise ParameterError(
                f"n_vocab={self.n_vocab} has no room for bytes and letters: "
                f"give at least {MIN_SIZE}."
            )

    @property
    def architecture(self) -> str:
        """The name that llama.cpp has for a model with these tensors."""
        return "gemma2" if self.window else "llama"

    @property
    def n_embd_kv(self) -> int:
        """Width of the keys, and of the values, of one token in one layer."""
        return self.n_embd // self.n_head * self.n_head_kv

    @property
    def n_parameters(self) -> int:
        """Number of weights, norms included."""
        return sum(math.prod(tensor.dims) for tensor in tensors(self))


@dataclass(frozen=True)
class Tensor:
    """One tensor: its GGUF name, its dimensions (rows, columns) and what to draw."""

    name: str
    dims: tuple[int, ...]
    deviation: float = 0.0
    silent_rows: int = 0
    loud_row: int | None = None

    @property
    def is_norm(self) -> bool:
        """Whether it is a vector of ones."""
        return len(self.dims) == 1


def tensors(shape: Shape) -> Iterator[Tensor]:
    """List the tensors of a model in the order of the file."""
    wide, kv, ff = shape.n_embd, shape.n_embd_kv, shape.n_ff
    experts = (shape.n_expert,) if shape.n_expert else ()
    suffix = "_exps" if experts else ""

    def matrix(name: str, *dims: int) -> Tensor:
        # With rows of unit length in expectation, outputs are about as large as inputs.
        return Tensor(f"{name}.weight", dims, dims[-1] ** -0.5)

    def vocabulary(name: str, *drawn: Any) -> Tensor:
        return Tensor(f"{name}.weight", (shape.n_vocab, wide), *drawn)

    logits = (_LOGIT_SPREAD * wide**-0.5, N_UNWRITTEN, END if shape.ends else None)
    yield vocabulary("token_embd", *(logits if shape.tied else (1.0,)))
    for layer in range(shape.n_layer):
        block = f"blk.{layer}"
        yield Tensor(f"{block}.attn_norm.weight", (wide,))
        yield matrix(f"{block}.attn_q", wide, wide)
        yield matrix(f"{block}.attn_k", kv, wide)
        yield matrix(f"{block}.attn_v", kv, wide)
        yield matrix(f"{block}.attn_output", wide, wide)
        if shape.window:
            yield Tensor(f"{block}.post_attention_norm.weight", (wide,))
        yield Tensor(f"{block}.ffn_norm.weight", (wide,))
        if experts:
            yield matrix(f"{block}.ffn_gate_inp", *experts, wide)
        yield matrix(f"{block}.ffn_gate{suffix}", *experts, ff, wide)
        yield matrix(f"{block}.ffn_up{suffix}", *experts, ff, wide)
        yield matrix(f"{block}.ffn_down{suffix}", *experts, wide, ff)
        if shape.window:
            yield Tensor(f"{block}.post_ffw_norm.weight", (wide,))
    yield Tensor("output_norm.weight", (wide,))
    if not shape.tied:
        yield vocabulary("output", *logits)


def stored_bytes(tensor: Tensor, kind: Quantisation) -> int:
    """Return the bytes that a tensor takes in the file; norms are F32 whatever the kind."""
    n_values = math.prod(tensor.dims)
    return 4 * n_values if tensor.is_norm else kind.n_bytes(n_values)


def draw(tensor: Tensor, kind: Quantisation, seed: int) -> Iterator[Bytes]:
    """Draw a tensor as stored bytes, in chunks.

    Each tensor has a stream of its own, seeded by its name, so its weights do not depend on
    the tensors before it.
    """
    if tensor.is_norm:
        yield np.ones(tensor.dims, dtype="<f4").view(np.uint8)
        return
    stream = np.random.SFC64(np.random.SeedSequence([seed, zlib.crc32(tensor.name.encode())]))
    silent = tensor.silent_rows * tensor.dims[-1]
    n_values = math.prod(tensor.dims)
    for start in range(0, n_values, _CHUNK_VALUES):
        n_bytes = kind.n_bytes(min(_CHUNK_VALUES, n_values - start))
        words = stream.random_raw(-(-n_bytes // 8))
        drawn: Bytes = words.astype("<u8", copy=False).view(np.uint8)[:n_bytes]
        if kind.stored.block_values == 1:
            drawn = _f16_levels(tensor.deviation)[drawn.view("<u2")].view(np.uint8)
        else:
            # Of each block's random scale only the sign is kept. Without it the weights would
            # have a mean of minus half a step, which grows from layer to layer.
            size = np.array([tensor.deviation / kind.spread], dtype="<f2").view("<u2")[0]
            values_bytes = kind.stored.block_bytes - 2
            scales = drawn.view([("scale", "<u2"), ("values", "u1", values_bytes)])["scale"]
            scales &= np.uint16(0x8000)
            scales |= size
        loud = _loud_row(tensor, kind, drawn) if start == 0 else {}
        drawn[: kind.n_bytes(max(0, silent - start))] = 0
        for place, row in loud.items():
            drawn[place : place + len(row)] = row
        yield drawn


def _loud_row(tensor: Tensor, kind: Quantisation, drawn: Bytes) -> dict[int, Bytes]:
    """Return the row that is to be loud, by its place; empty: there is none."""
    if tensor.loud_row is None:
        return {}
    length = kind.n_bytes(tensor.dims[-1])
    place = tensor.loud_row * length
    row = drawn[place : place + length].copy()
    # A block begins with its scale; where there are no blocks, each value is its own.
    scales = row.view([("scale", "<f2"), ("values", "u1", kind.stored.block_bytes - 2)])["scale"]
    scales *= LOUD
    return {place: row}


@lru_cache(maxsize=4)
def _f16_levels(deviation: float) -> npt.NDArray[np.float16]:
    """Evenly spaced F16 weights of mean 0 and this deviation, one for each 16-bit number."""
    levels = (np.arange(65536) - 32767.5) * (deviation * math.sqrt(12) / 65536)
    return levels.astype("<f2")


def check_quantisation(name: str) -> Quantisation:
    """Return the quantisation of this name, or raise ``ParameterError`` with those allowed."""
    kind = QUANTISATIONS.get(name.lower())
    if kind is None:
        raise ParameterError(
            f"{name!r} is not a quantisation of synthetic models (allowed: "
            f"{', '.join(QUANTISATIONS)}{did_you_mean(name, QUANTISATIONS, '')}): write one of "
            "these, for example 'synthetic:tiny:q8_0'."
        )
    return kind
