"""Models of a named shape with random weights: true speed and memory, meaningless text.

llama.cpp does the same work, and holds the same bytes, whatever the numbers in a model are (of
experts, as many compute each token). A GGUF file of the right shape and quantisation with random
weights is therefore enough to measure latency and memory, and needs no download; what such a model
writes means nothing.

The same name gives the same bytes on every machine. All matrices, ``token_embd`` and ``output``
among them, have the one type that was asked for; the norms are one and in F32. (Files that
others quantise as Q4_0 usually keep ``output`` in Q6_K.)

The output rows of control and byte tokens are zero: what is written is printable, and
generation practically always goes on to ``max_tokens`` because ``</s>`` is never likely. Of
``synthetic:ends`` it is, and answers end by themselves.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from llm_latency.errors import LabError, ParameterError, did_you_mean
from llm_latency.model.recipe import is_whole, write_gguf
from llm_latency.model.weights import (
    QUANTISATIONS,
    Shape,
    check_quantisation,
    stored_bytes,
    tensors,
)

RANDOM_WEIGHTS_NOTICE = (
    "This model has random weights: its speed and memory are true, its text is meaningless."
)
CACHE_VARIABLE = "LLM_LATENCY_CACHE"
"""Environment variable that names the folder for written models."""

RECIPE_VERSION = 1
"""Part of cached file names: a change of the recipe makes new files."""

PREFIX = "synthetic:"
_SEED = 20_240_229
_DAY_S = 86_400.0

SHAPES: dict[str, Shape] = {
    # 13 million weights, 14 MB as q8_0; the vocabulary has room for every listed word.
    "tiny": Shape(8, 256, 4, 2, 1024, 10240, 8192),
    # 125 million: the width and depth of the small GPT-2 class, with grouped keys and values.
    "125m": Shape(12, 768, 12, 4, 2048, 32000, 32768),
    # 1.1 billion: TinyLlama's sizes, with a longer context so that context can be swept.
    "1b": Shape(22, 2048, 32, 4, 5632, 32000, 32768),
    # 7.2 billion: exactly the sizes of Mistral 7B and Zephyr 7B.
    "7b": Shape(32, 4096, 32, 8, 14336, 32000, 32768),
    # As tiny, but with eight experts in each layer, of which two compute each token.
    "moe": Shape(8, 256, 4, 2, 512, 10240, 8192, n_expert=8),
    # As tiny, but every second layer looks back on 512 tokens only.
    "swa": Shape(8, 256, 4, 2, 1024, 10240, 8192, window=512, tied=True),
    # As tiny, but its embeddings are its output matrix too.
    "tied": Shape(8, 256, 4, 2, 1024, 10240, 8192, tied=True),
    # As tiny, but its answers end by themselves.
    "ends": Shape(8, 256, 4, 2, 1024, 10240, 8192, ends=True),
}


@dataclass(frozen=True)
class SyntheticName:
    """A synthetic model's name, taken apart and checked."""

    shape_name: str
    quantisation: str

    @property
    def shape(self) -> Shape:
        """The sizes that the name stands for."""
        return SHAPES[self.shape_name]

    @property
    def canonical(self) -> str:
        """The name in full and in lower case, for example ``synthetic:tiny:q8_0``."""
        return f"{PREFIX}{self.shape_name}:{self.quantisation}"

    @property
    def file_name(self) -> str:
        """Name of the model's file in the cache folder."""
        return f"synthetic-{self.shape_name}-{self.quantisation}-v{RECIPE_VERSION}.gguf"


def is_synthetic(name: str) -> bool:
    """Say whether `name` asks for a synthetic model (it may still be an unknown one)."""
    return name.strip().lower().startswith(PREFIX)


def parse_name(name: str) -> SyntheticName:
    """Take apart ``synthetic:SHAPE`` or ``synthetic:SHAPE:QUANTISATION``, in any case.

    Raises
    ------
    ParameterError
        (a ``ValueError``) If the name is not of this form, or asks for an unknown shape or
        quantisation.
    """
    match = re.fullmatch(rf"{PREFIX}([^:]*)(?::([^:]*))?", name.strip().lower())
    if match is None:
        raise ParameterError(
            f"{name!r} is not the name of a synthetic model: write synthetic:SHAPE or "
            "synthetic:SHAPE:QUANTISATION, for example 'synthetic:tiny:q4_0'."
        )
    shape_name, quantisation = match[1], match[2]
    if shape_name not in SHAPES:
        raise ParameterError(
            f"{shape_name!r} is not a shape of synthetic model (allowed: {', '.join(SHAPES)}"
            f"{did_you_mean(shape_name, SHAPES, '')}): write one of these, for example "
            "'synthetic:tiny'."
        )
    if quantisation is None:
        quantisation = next(iter(QUANTISATIONS))
    check_quantisation(quantisation)
    return SyntheticName(shape_name, quantisation)


def model_path(name: str, *, cache_dir: Path | None = None, progress: bool = False) -> Path:
    """Return the file of the model called `name`, writing it first if it is not there.

    Parameters
    ----------
    name
        For example ``synthetic:tiny`` or ``synthetic:7b:q4_0``.
    cache_dir
        Folder of written models. None: the one named by ``LLM_LATENCY_CACHE``, else the
        user's cache folder.
    progress
        Show a bar (in bytes) while writing.

    Raises
    ------
    ParameterError
        If the name is unknown.
    LabError
        If the disk has not enough room.
    """
    parsed = parse_name(name)
    if cache_dir is None:
        configured = os.environ.get(CACHE_VARIABLE)
        cache_dir = Path(configured or platformdirs.user_cache_dir("llm-latency-lab"))
    path = cache_dir.expanduser() / parsed.file_name
    if not is_whole(path):
        write_model(
            path, parsed.shape, parsed.quantisation, name=parsed.shape_name, progress=progress
        )
    return path


def write_model(
    path: Path,
    shape: Shape,
    quantisation: str,
    *,
    name: str = "custom",
    seed: int = _SEED,
    progress: bool = False,
) -> None:
    """Write a model of any shape to `path`, replacing what was there in one step.

    The file appears whole or not at all, also when several processes write it at once: each
    writes a file of its own and renames it. Memory stays at some 100 MB whatever the size.

    Parameters
    ----------
    path
        Where the GGUF goes; its folder is made if it is missing.
    shape, quantisation
        What to write; a quantisation is one of ``QUANTISATIONS``.
    name
        Goes into the header as ``synthetic-NAME (random weights)``.
    seed
        The same seed, shape, quantisation and name give the same bytes.
    progress
        Show a bar (in bytes) while writing.

    Raises
    ------
    ParameterError
        If the quantisation is unknown.
    LabError
        If the disk has not enough room.
    """
    kind = check_quantisation(quantisation)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    # Header and alignment take less than 64 bytes a token and 4 kB a layer.
    needed = sum(stored_bytes(tensor, kind) for tensor in tensors(shape))
    needed += 64 * shape.n_vocab + 4096 * shape.n_layer
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise LabError(
            f"The model needs {needed / 1e9:.2f} GB in {path.parent}, which has {free / 1e9:.2f} "
            f"GB free: free some space, choose a smaller model, or set {CACHE_VARIABLE} to a "
            "folder on another disk."
        )
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        write_gguf(partial, shape, kind, name, seed, progress)
        try:
            os.replace(partial, path)
        except PermissionError:
            # Windows does not replace a file that is in use; if another process has just
            # written it, it is the same file.
            if not is_whole(path):
                raise
    finally:
        partial.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Delete unfinished files of this model that a killed process left more than a day ago."""
    for partial in path.parent.glob(f".{path.name}.*.part"):
        try:
            if time.time() - partial.stat().st_mtime > _DAY_S:
                partial.unlink()
        except OSError:
            continue  # another process was quicker, or still holds it
