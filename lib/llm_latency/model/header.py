"""What a GGUF file's header says of a model's memory: shapes, types and sizes, before loading.

A header is all that is read: a few MB at the head of a file of any size, so that a model that
is still on the Hugging Face Hub can be judged before it is fetched.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from pydantic import Field

from llm_latency.errors import LabError, ParameterError
from llm_latency.model import hub, names
from llm_latency.model.gguf import open_header
from llm_latency.records.record import Part

FIRST_BYTES = 4 << 20
"""How much of a remote file is asked for first; a vocabulary of 150,000 tokens needs as much."""
LAST_BYTES = 1 << 28
"""How much is asked for at most."""


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


class Header(Part):
    """The sizes that a model's memory follows from. Lists hold one value per layer."""

    architecture: str
    n_layer: int
    n_embd: int
    n_head: int = Field(description="Of the layer that has most")
    n_head_kv: tuple[int, ...]
    key_width: int
    value_width: int
    n_ff: int
    n_vocab: int
    n_ctx_train: int | None = None
    sliding_window: int | None = None
    recurrent: bool = Field(False, description="Keeps a state that does not grow with the context")
    tensors: tuple[Tensor, ...]

    @property
    def file_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.bytes for tensor in self.tensors)


def header_of(model: str) -> Header:
    """Return the header of a model by its name, without fetching the model.

    Parameters
    ----------
    model
        A path, ``synthetic:<shape>`` (written if it is not there) or
        ``hf:owner/repo/file.gguf@revision`` (its first few MB are read over the network).

    Raises
    ------
    ParameterError
        If the name or the file cannot be right.
    LabError
        If the Hub cannot be reached.
    """
    name = names.check(model)
    if not name.startswith("hf:"):
        return read_header(names.resolve(name))
    place = hub.find(hub.parse_name(name))
    if place.path is not None:
        return read_header(place.path)
    with tempfile.TemporaryDirectory() as folder:
        return _read_remote(place, Path(folder) / place.name.file.rpartition("/")[2])


def _read_remote(place: hub.Place, copy: Path) -> Header:
    """Read as much of a file on the Hub as its header needs."""
    address = place.name.at(place.commit)
    if place.size is None:
        raise LabError(f"the Hub does not say how large {address} is; fetch it and give its path")
    have, wanted = 0, FIRST_BYTES
    while True:
        try:
            with copy.open("ab") as file:
                file.seek(file.truncate(have))
                for chunk in hub.stream(place, have, min(wanted, place.size)):
                    file.write(chunk)
                have = file.tell()
                # The header and a hole: the reader asks for tensors' places, not their content.
                file.truncate(place.size)
        except hub.Broken as broken:
            raise LabError(
                f"the header of {address} cannot be read: {broken}; check the network and call "
                "again, or give the path of a file that you have"
            ) from None
        try:
            return read_header(copy, known_bytes=have)
        except ParameterError:
            if have >= min(place.size, LAST_BYTES):
                raise
            wanted *= 2


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
        If it is not one, or does not say what is needed.
    """
    try:
        reader = open_header(path, known_bytes)
        if known_bytes is not None and reader.data_offset > known_bytes:
            raise ValueError("the header is longer than what is there of it")
        return _header(reader)
    except Exception as error:  # a broken file can fail anywhere in the reader
        raise ParameterError(
            f"model={path.name!r} has no header that could be read ({type(error).__name__}: "
            f"{error}); give a whole GGUF file"
        ) from None


def _header(reader: Any) -> Header:
    def value(key: str, default: Any = None) -> Any:
        field = reader.get_field(key)
        return default if field is None else field.contents()

    arch = str(value("general.architecture"))

    def number(key: str, default: int | None = None) -> int | None:
        found = value(f"{arch}.{key}", default)
        return None if found is None else int(max(found) if isinstance(found, list) else found)

    tensors = tuple(
        Tensor(
            name=str(tensor.name),
            kind=tensor.tensor_type.name.lower(),
            dims=tuple(int(n) for n in tensor.shape),
            bytes=int(tensor.n_bytes),
        )
        for tensor in reader.tensors
    )
    n_layer, n_embd = int(value(f"{arch}.block_count")), int(value(f"{arch}.embedding_length"))
    if not (0 < n_layer <= len(tensors) and n_embd > 0):
        raise ValueError(f"{n_layer} layers of width {n_embd}, and {len(tensors)} tensors")
    n_head = number("attention.head_count") or 1
    kv = value(f"{arch}.attention.head_count_kv", n_head)
    per_layer = tuple(int(n) for n in (kv if isinstance(kv, list) else [kv] * n_layer))
    width = n_embd // n_head
    embedding = next((t for t in tensors if t.name == "token_embd.weight"), None)
    return Header(
        architecture=arch,
        n_layer=n_layer,
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=per_layer,
        key_width=number("attention.key_length", width) or width,
        value_width=number("attention.value_length", width) or width,
        n_ff=number("feed_forward_length", 0) or 0,
        n_vocab=embedding.dims[-1] if embedding else number("vocab_size", 0) or 0,
        n_ctx_train=number("context_length"),
        sliding_window=number("attention.sliding_window"),
        recurrent=number("ssm.state_size") is not None or arch.startswith("rwkv"),
        tensors=tensors,
    )
