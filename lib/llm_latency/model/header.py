"""What a GGUF file's header says of a model's memory: shapes, types and sizes, before loading.

A header is all that is read: a few MB at the head of a file of any size. What readers are told of
a model and what its memory is foretold from come from the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from llm_latency.base import Part
from llm_latency.errors import ParameterError
from llm_latency.model import kinds, parts
from llm_latency.model.gguf import FORMATS, Outline, outline
from llm_latency.plan.settings import Settings


class Tensor(Part):
    """One tensor of the file: its name, number format, dimensions and bytes."""

    name: str
    kind: str = Field(description="ggml's name of the number format, in lower case")
    dims: tuple[int, ...]
    bytes: int

    @property
    def layer(self) -> int | None:
        """Number of the block it belongs to; ``None`` for embeddings and output."""
        parts = self.name.split(".")
        return int(parts[1]) if parts[0] == "blk" and parts[1].isdigit() else None

    @property
    def is_experts(self) -> bool:
        """Whether it holds the experts of a layer, of which a token reads some."""
        return "_exps." in self.name


class Header(Part):
    """The sizes that a model's memory follows from. Lists hold one value per layer."""

    architecture: str
    n_layer: int
    n_embd: int
    n_head: int = Field(description="Of the layer that has most")
    n_head_kv: tuple[int, ...] = Field(description="0 in a layer that has no attention")
    key_width: int
    value_width: int
    n_ff: int
    n_vocab: int
    n_ctx_train: int | None = None
    sliding_window: int | None = None
    n_expert: int = Field(0, description="Experts of a layer; 0 where it has none")
    n_expert_used: int = Field(0, description="How many of them a token goes through")
    recurrent: bool = Field(False, description="Keeps a state that does not grow with the context")
    tensors: tuple[Tensor, ...]

    @property
    def file_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def is_tied(self) -> bool:
        """Whether the table of embeddings is the output layer too."""
        return not any(tensor.name == "output.weight" for tensor in self.tensors)

    @property
    def has_experts(self) -> bool:
        """Whether a router chooses which weights a token reads."""
        return any(tensor.is_experts for tensor in self.tensors)

    def kv_bytes(self, type_k: str, type_v: str) -> list[float]:
        """Return the bytes that one token of context takes in each layer's KV cache."""
        key = self.key_width * FORMATS[type_k].value_bytes
        value = self.value_width * FORMATS[type_v].value_bytes
        return [heads * (key + value) for heads in self.n_head_kv]

    def check_cache(self, settings: Settings) -> None:
        """Refuse formats of the KV cache whose blocks do not fill a head.

        llama.cpp refuses them with flash attention, and writes nonsense without.

        Raises
        ------
        ParameterError
            One sentence with what to give instead.
        """
        for name, width in (("type_k", self.key_width), ("type_v", self.value_width)):
            kind = getattr(settings, name)
            if width % (size := FORMATS[kind].block_values):
                raise ParameterError(
                    f"{name}={kind!r} is refused: a head of this model is {width} wide, and "
                    f"blocks of {size} values do not fill it; give {name}='f16'."
                )

    def holds_cache(self, settings: Settings) -> bool:
        """Return whether the formats of a KV cache fit its heads, see :meth:`check_cache`."""
        try:
            self.check_cache(settings)
        except ParameterError:
            return False
        return True


def read_header(path: Path, known_bytes: int | None = None) -> Header:
    """Return the header of a GGUF file.

    Parameters
    ----------
    path
        The file.
    known_bytes
        How many of its bytes are there, from the head; the rest is a hole. All by default.

    Raises
    ------
    ParameterError
        If it is not one, is no model that writes text, or does not say what is needed.
    """
    kinds.check(path, known_bytes)
    try:
        return _header(_Metadata(outline(path, known_bytes), path))
    except Exception as error:  # a broken file can fail anywhere in the reader
        raise ParameterError(
            f"model={path.name!r} has no header that could be read ({type(error).__name__}: "
            f"{error}); give a whole GGUF file"
        ) from None


def describe(path: Path) -> tuple[dict[str, Any], Header | None]:
    """Return what a file says of itself, under the names of a model's card, and its header.

    Nothing is refused: ``why`` says what is wrong with a header that cannot be read, and one that
    does not say what memory follows from is ``None``.
    """
    try:
        metadata = _Metadata(outline(path), path)
        card = metadata.card()
    except Exception as error:  # a broken file can fail anywhere in the reader
        return {"why": f"the header cannot be read: {type(error).__name__}: {error}"}, None
    try:
        header = _header(metadata)
    except Exception:
        return card, None
    per_token = round(sum(header.kv_bytes("f16", "f16")))
    return card | {"n_head_kv": max(header.n_head_kv), "kv_bytes_per_token": per_token}, header


class _Metadata:
    """What a header holds, by its keys; sizes are under the name of the architecture.

    Of a model in several files the first has the keys, and each its own tensors.
    """

    def __init__(self, found: Outline, path: Path) -> None:
        self._found = found
        self.architecture = self.text("general.architecture")
        others = [(part, outline(part)) for part in parts.of(path)[1:]]
        self.tensors = tuple(
            tensor for part, one in [(path, found), *others] for tensor in _tensors(part, one)
        )

    def value(self, key: str) -> Any:
        """Return what is under a key; ``None`` where it is not there."""
        return self._found.values.get(key)

    def text(self, key: str) -> str | None:
        """Return what is under a key as text."""
        value = self.value(key)
        return None if value is None else str(value)

    def size(self, key: str) -> Any:
        """Return a size of the architecture: a number, or one per layer."""
        return self.value(f"{self.architecture}.{key}")

    def number(self, key: str) -> int | None:
        """Return a size of the architecture, of the layer that has most of it."""
        size = self.size(key)
        if isinstance(size, list):
            size = max(size, default=None)
        return None if size is None else int(size)

    def n_vocab(self) -> int | None:
        """Return the size of the vocabulary, of which the embeddings are the best witness."""
        rows = next((t.dims[-1] for t in self.tensors if t.name == "token_embd.weight"), None)
        words = self._found.lengths.get("tokenizer.ggml.tokens")
        return rows or self.number("vocab_size") or words

    def card(self) -> dict[str, Any]:
        """Return what a reader is told, as far as it is there."""
        bytes_of: dict[str, int] = {}
        for tensor in self.tensors:
            bytes_of[tensor.kind] = bytes_of.get(tensor.kind, 0) + tensor.bytes
        return {
            "architecture": self.architecture,
            "title": self.text("general.name"),
            "quantisation": max(bytes_of, key=lambda kind: bytes_of[kind]).upper()
            if bytes_of
            else None,
            "parameters": sum(math.prod(tensor.dims) for tensor in self.tensors),
            "n_layer": self.number("block_count"),
            "n_embd": self.number("embedding_length"),
            "n_head": self.number("attention.head_count"),
            "n_ff": self.number("feed_forward_length"),
            "n_vocab": self.n_vocab(),
            "n_ctx_train": self.number("context_length"),
        }


def _tensors(path: Path, found: Outline) -> Iterator[Tensor]:
    """Yield the tensors of one file; each must lie in it."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    end = path.stat().st_size
    for name, dims, number, offset in found.tensors:
        kind = GGMLQuantizationType(number)
        block_values, block_bytes = GGML_QUANT_SIZES[kind]
        size = math.prod(dims) // block_values * block_bytes
        if found.data_offset + offset + size > end:
            raise ValueError(f"it says that a tensor lies behind its end ({name})")
        yield Tensor(name=name, kind=kind.name.lower(), dims=dims, bytes=size)


def _header(metadata: _Metadata) -> Header:
    n_layer, n_embd = metadata.number("block_count"), metadata.number("embedding_length")
    if not (n_layer and n_embd and 0 < n_layer <= len(metadata.tensors) and n_embd > 0):
        count = len(metadata.tensors)
        raise ValueError(f"{n_layer} layers of width {n_embd}, and {count} tensors")
    n_head = metadata.number("attention.head_count") or 0
    width = n_embd // n_head if n_head else 0
    return Header(
        architecture=str(metadata.architecture),
        n_layer=n_layer,
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=_heads_kv(metadata, n_layer),
        key_width=metadata.number("attention.key_length") or width,
        value_width=metadata.number("attention.value_length") or width,
        n_ff=metadata.number("feed_forward_length") or 0,
        n_vocab=metadata.n_vocab() or 0,
        n_ctx_train=metadata.number("context_length"),
        sliding_window=metadata.number("attention.sliding_window"),
        n_expert=metadata.number("expert_count") or 0,
        n_expert_used=metadata.number("expert_used_count") or 0,
        recurrent=metadata.number("ssm.state_size") is not None
        or str(metadata.architecture).startswith("rwkv"),
        tensors=metadata.tensors,
    )


def _heads_kv(metadata: _Metadata, n_layer: int) -> tuple[int, ...]:
    """Return how many heads of each layer have keys and values of their own, as llama.cpp does."""
    heads = metadata.size("attention.head_count_kv")
    if heads is None:
        heads = metadata.size("attention.head_count") or 0
    per_layer = [int(n) for n in (heads if isinstance(heads, list) else [heads] * n_layer)]
    if len(per_layer) != n_layer:
        raise ValueError(f"{n_layer} layers, and heads of {len(per_layer)}")
    # Of so many layers only the last has attention; the others keep a state.
    interval = metadata.number("full_attention_interval") or 1
    return tuple(n if not (at + 1) % interval else 0 for at, n in enumerate(per_layer))
