"""GGUF files of unusual kinds: what people bring that is no model, or an odd one."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter

from llm_latency.model.vocabulary import build_vocabulary

KINDS = {
    str: GGUFValueType.STRING,
    bool: GGUFValueType.BOOL,
    int: GGUFValueType.UINT32,
    float: GGUFValueType.FLOAT32,
    np.uint16: GGUFValueType.UINT16,
    np.int32: GGUFValueType.INT32,
}


def header_only(path: Path, architecture: str, values: Mapping[str, Any]) -> Path:
    """Write a file with a header and next to no weights."""
    writer = GGUFWriter(path, architecture)
    for key, value in values.items():
        writer.add_key_value(key, value, KINDS[type(value)])
    writer.add_tensor("any.weight", np.zeros((32, 32), np.float32))
    return _written(writer, path)


def changed(
    source: Path,
    path: Path,
    values: Mapping[str, Any],
    keeps: Callable[[int], bool] = lambda number: True,
) -> Path:
    """Write a model once more, with other values in its header and some of its tensors."""
    reader = GGUFReader(source)
    writer = GGUFWriter(path, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or name in values:
            continue
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], inner)
    for name, value in values.items():
        writer.add_key_value(name, value, KINDS[type(value)])
    for number, tensor in enumerate(reader.tensors):
        if keeps(number):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    return _written(writer, path)


def of_format(source: Path, path: Path, number: int) -> Path:
    """Write a model whose first tensor is said to be in a number format."""
    content = bytearray(source.read_bytes())
    at = content.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 2 * 8
    content[at : at + 4] = struct.pack("<I", number)
    path.write_bytes(content)
    return path


def split(source: Path, folder: Path, stem: str, count: int) -> list[Path]:
    """Write a model in several files, as llama.cpp's ``llama-gguf-split`` names and marks them."""
    tensors = len(GGUFReader(source).tensors)
    return [
        changed(
            source,
            folder / f"{stem}-{number + 1:05d}-of-{count:05d}.gguf",
            {
                "split.no": np.uint16(number),
                "split.count": np.uint16(count),
                "split.tensors.count": np.int32(tensors),
            },
            lambda tensor, number=number: tensor * count // tensors == number,  # type: ignore[misc]
        )
        for number in range(count)
    ]


def recurrent(path: Path) -> Path:
    """Write a small Mamba with random weights: one state of all its tokens, and no KV cache."""
    n_layer, width, inner, state, kernel, rank = 2, 64, 128, 16, 4, 4
    draw = np.random.default_rng(1)
    words = build_vocabulary(1024)
    writer = GGUFWriter(path, "mamba")
    writer.add_context_length(4096)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(n_layer)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words.tokens)
    writer.add_token_scores(words.scores)
    writer.add_token_types(words.types)
    shapes = {"token_embd.weight": (1024, width), "output_norm.weight": (width,)}
    for layer in range(n_layer):
        shapes |= {
            f"blk.{layer}.{name}": shape
            for name, shape in {
                "attn_norm.weight": (width,),
                "ssm_in.weight": (2 * inner, width),
                "ssm_conv1d.weight": (inner, kernel),
                "ssm_conv1d.bias": (inner,),
                "ssm_x.weight": (rank + 2 * state, inner),
                "ssm_dt.weight": (inner, rank),
                "ssm_dt.bias": (inner,),
                "ssm_a": (inner, state),
                "ssm_d": (inner,),
                "ssm_out.weight": (width, inner),
            }.items()
        }
    for name, shape in shapes.items():
        values = draw.normal(0, 0.05, shape).astype(np.float32)
        writer.add_tensor(name, -np.abs(values) if name.endswith("ssm_a") else values)
    return _written(writer, path)


def _written(writer: GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
