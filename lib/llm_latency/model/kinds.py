"""Whether a GGUF file is a model that writes text token by token, by what its header says it is.

A file may hold something else: the part of a model that sees images, an adapter, an encoder. What
llama.cpp does with those is no measurement: it refuses them in words about damage, writes nothing,
or ends the process that asks them for text. A file whose header cannot be read is not judged here:
llama.cpp says why it refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_latency.errors import ParameterError
from llm_latency.model.gguf import END_OF_FORMATS, Outline, outline
from llm_latency.model.parts import PART, part_name

DIFFUSION = frozenset({"dream", "llada", "llada-moe", "rnd1"})
"""Architectures that write all tokens of an answer at once, again and again."""
ENCODERS = re.compile(r".*bert.*|t5encoder|gemma-embedding|llama-embed")
ENCODER_DECODERS = frozenset({"t5"})
DRAFTERS = frozenset({"eagle3", "dflash", "gemma4-assistant"})
"""Heads that guess tokens for another model, and are none alone."""


def check(path: Path, known_bytes: int | None = None) -> None:
    """Refuse a file that is no model which writes text token by token.

    Parameters
    ----------
    path
        The file.
    known_bytes
        How many of its bytes are there, from the head. All by default.

    Raises
    ------
    ParameterError
        One sentence that says what it is, and what to give instead.
    """
    try:
        found = outline(path, known_bytes)
    except Exception:  # a broken file can fail anywhere
        return
    if said := _other_kind(found) or _other_name(path.name, found.values):
        raise ParameterError(f"model={path.name!r} is {said}.")


def _other_kind(found: Outline) -> str:
    """Return what a file is and what to give instead; empty where it is a model."""
    kind = found.values.get("general.type")
    architecture = str(found.values.get("general.architecture", ""))
    if kind == "mmproj" or architecture == "clip":
        return (
            "the part of a model that sees or hears (mmproj) and writes no text; give the model's "
            "own GGUF file, which is published beside it"
        )
    if kind == "adapter" or "adapter.type" in found.values:
        return (
            "an adapter to a model and no model; give the model's own GGUF file, or both merged by "
            "llama.cpp's 'llama-export-lora'"
        )
    if kind == "imatrix":
        return "a table of importances and no model; give the GGUF file that was made with it"
    if architecture in DIFFUSION:
        return (
            f"a diffusion model ({architecture}), which writes no token after the other; give a "
            "model that does"
        )
    if ENCODERS.fullmatch(architecture) or not found.values.get(
        f"{architecture}.attention.causal", True
    ):
        return (
            f"an encoder ({architecture}), which makes embeddings and writes no text; give a model "
            "that generates text"
        )
    if architecture in ENCODER_DECODERS:
        return (
            f"an encoder and a decoder ({architecture}), of which llama-cpp-python runs "
            "the decoder alone; give a model that is a decoder only"
        )
    if architecture in DRAFTERS:
        return f"a head that drafts for another model ({architecture}); give that model"
    if (format_ := max(found.formats, default=0)) >= END_OF_FORMATS:
        return (
            f"in a number format that this llama.cpp does not know (ggml type {format_}), of a "
            "fork or a newer one; give the model in another format, such as Q4_K_M"
        )
    return ""


def _other_name(name: str, values: Mapping[str, Any]) -> str:
    """Return which part of a model a file is that has not the name of one; empty where it is none.

    llama.cpp finds the other parts by the name of the first.
    """
    count, number = values.get("split.count", 1), values.get("split.no", 0) + 1
    part = PART.fullmatch(name)
    if count < 2 or (part and (int(part[2]), int(part[3])) == (number, count)):
        return ""
    right = part_name(name.removesuffix(".gguf"), number, count)
    return (
        f"part {number} of {count} of a model under another name; rename it to {right!r}, and the "
        "other parts alike"
    )
