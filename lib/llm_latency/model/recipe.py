"""What stands in a synthetic model's file, from its header to its last tensor.

A change here is a change of the recipe: it raises ``RECIPE_VERSION`` of
:mod:`llm_latency.model.synthetic`, so that the same name stays the same bytes.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from llm_latency.model.gguf import FORMATS
from llm_latency.model.vocabulary import BEGIN, END, UNKNOWN, build_vocabulary
from llm_latency.model.weights import EXPERTS_USED, Quantisation, Shape, draw, stored_bytes, tensors

_BYTES_KEY = "llm_latency.file_bytes"
_ROPE_THETA = 10_000.0
_NORM_EPSILON = 1e-5

# Zephyr's way of marking roles, ordinary text that needs no tokens of its own.
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def write_gguf(
    path: Path, shape: Shape, kind: Quantisation, name: str, seed: int, progress: bool
) -> None:
    """Write the whole file, from header to last tensor, a chunk at a time.

    Parameters
    ----------
    path
        A new file.
    shape, kind
        What to write.
    name
        Goes into the header as ``synthetic-NAME (random weights)``.
    seed
        Of the weights.
    progress
        Show a bar, in bytes.
    """
    import gguf  # here, because measuring processes import this and never write
    from tqdm import tqdm

    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_uint64(_BYTES_KEY, 0)  # set at the end, when it is known
    _add_metadata(writer, shape, kind, name)
    layout = list(tensors(shape))
    for tensor in layout:
        stored = FORMATS["f32"] if tensor.is_norm else kind.stored
        n_bytes = stored_bytes(tensor, kind)
        writer.add_tensor_info(
            tensor.name,
            tensor.dims,
            np.dtype(np.float32),
            n_bytes,
            raw_dtype=gguf.GGMLQuantizationType(stored.number),
        )
    total = sum(stored_bytes(tensor, kind) for tensor in layout)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        file = writer.fout[0]
        writer.write_padding(file, file.tell())
        with tqdm(
            total=total, unit="B", unit_scale=True, desc=f"Writing {name}", disable=not progress
        ) as bar:
            for tensor in layout:
                for chunk in draw(tensor, kind, seed):
                    file.write(chunk.data)
                    bar.update(chunk.nbytes)
                writer.write_padding(file, stored_bytes(tensor, kind))
    finally:
        writer.close()
    with path.open("r+b") as whole:
        whole.seek(_bytes_position(whole.read(256)))
        whole.write(struct.pack("<Q", path.stat().st_size))
        whole.flush()
        os.fsync(whole.fileno())  # before the rename: a power cut must not leave a hollow file


def _add_metadata(writer: Any, shape: Shape, kind: Quantisation, name: str) -> None:
    """State what the model is, its sizes and its tokenizer."""
    writer.add_type("model")
    writer.add_name(f"synthetic-{name} (random weights)")
    writer.add_description("Random weights: true speed and memory, meaningless text")
    writer.add_file_type(kind.file_type)
    writer.add_quantization_version(2)
    writer.add_vocab_size(shape.n_vocab)
    writer.add_context_length(shape.n_ctx_train)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_rope_dimension_count(shape.n_embd // shape.n_head)
    writer.add_rope_freq_base(_ROPE_THETA)
    writer.add_layer_norm_rms_eps(_NORM_EPSILON)
    if shape.n_expert:
        writer.add_expert_count(shape.n_expert)
        writer.add_expert_used_count(EXPERTS_USED)
    if shape.window:
        writer.add_sliding_window(shape.window)
    vocabulary = build_vocabulary(shape.n_vocab)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)
    writer.add_chat_template(_CHAT_TEMPLATE)


def _bytes_position(head: bytes) -> int:
    """Where, in the first bytes of a file, the header states the size of the whole file."""
    return head.index(_BYTES_KEY.encode()) + len(_BYTES_KEY) + 4  # 4: the value's type


def is_whole(path: Path) -> bool:
    """Return whether a file is there and as long as its own header says."""
    try:
        with path.open("rb") as file:
            head = file.read(256)
        (stated,) = struct.unpack_from("<Q", head, _bytes_position(head))
        return bool(path.stat().st_size == stated)
    except (FileNotFoundError, ValueError, struct.error):
        return False
