"""Memory predicted from the header, against what the real llama.cpp allocates."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from llm_latency.engine.dry_run import NotForetoldError
from llm_latency.engine.llama import Model
from llm_latency.memory import predict
from llm_latency.model import names
from llm_latency.model.header import Header, Tensor, read_header
from llm_latency.model.synthetic import write_model
from llm_latency.model.weights import Shape
from llm_latency.plan.settings import Settings
from llm_latency.records.record import Buffers

MIB = 2**20
LOGGED = 0.0051 * MIB
"""llama.cpp prints MiB with two decimals."""

BLOCKS = ["f32", "f16", "bf16", "q8_0", "q5_1", "q4_0"]


def allocated(path: Path, settings: Settings) -> Buffers:
    with open(os.devnull, "w") as nowhere, Model(path, settings, nowhere) as model:
        return model.log.buffers()


def total(buffers: Buffers) -> int:
    return sum(v or 0 for k, v in buffers.model_dump(exclude={"by_device"}).items())


@pytest.mark.engine
def test_the_kv_cache_is_exact_for_200_random_combinations(tmp_path: Path) -> None:
    chance = random.Random(5)
    file, seen = tmp_path / "m.gguf", 0
    for _ in range(40):
        heads, width = chance.choice([2, 3, 4, 6, 8]), chance.choice([32, 64, 128])
        kv = chance.choice([n for n in range(1, heads + 1) if heads % n == 0])
        layers = chance.choice([1, 2, 3, 5])
        write_model(
            file, Shape(layers, heads * width, heads, kv, heads * width, 4096, 8192), "q8_0"
        )
        header = read_header(file)
        for _ in range(5):
            flash = chance.random() < 0.5
            settings = Settings(
                n_ctx=chance.choice([256, 300, 512, 1000, 2048, 4096, 9000]),
                n_batch=chance.choice([32, 128]),
                type_k=chance.choice(BLOCKS),  # type: ignore[arg-type]
                type_v=chance.choice(BLOCKS if flash else BLOCKS[:3]),  # type: ignore[arg-type]
                flash_attn=flash,
            )
            real = allocated(file, settings).kv_bytes
            assert real is not None
            predicted = sum(predict.kv_bytes(header, settings))
            assert abs(predicted - real) <= LOGGED, (
                header.model_dump(exclude={"tensors"}),
                settings,
            )
            seen += 1
    assert seen == 200


@pytest.mark.engine
@pytest.mark.parametrize("name", ["synthetic:tiny", "synthetic:tiny:q4_0", "synthetic:125m"])
@pytest.mark.parametrize("flash", [False, True])
def test_the_total_is_within_three_percent(name: str, flash: bool) -> None:
    path = names.resolve(name)
    header = read_header(path)
    for n_ctx, n_ubatch in ((512, 64), (2048, 512), (4096, 2048), (16384, 256)):
        for use_mmap in (False, True):
            settings = Settings(
                n_ctx=n_ctx, n_batch=2048, n_ubatch=n_ubatch, flash_attn=flash, use_mmap=use_mmap
            )
            real = allocated(path, settings)
            ratio = predict.predict(header, settings).total_bytes / total(real)
            assert 0.97 < ratio < 1.03, (settings, ratio)


def header(**more: object) -> Header:
    tensors = [Tensor(name="token_embd.weight", kind="q8_0", dims=(64, 1000), bytes=68_000)]
    tensors += [
        Tensor(name=f"blk.{n}.ffn_up.weight", kind="q8_0", dims=(64, 64), bytes=10_000)
        for n in range(4)
    ]
    tensors.append(Tensor(name="output.weight", kind="q8_0", dims=(64, 1000), bytes=68_000))
    sizes = {"n_layer": 4, "n_embd": 64, "n_head": 4, "n_head_kv": (2, 2, 2, 2), "key_width": 16,
             "value_width": 16, "n_ff": 128, "n_vocab": 1000}  # fmt: skip
    return Header(architecture="llama", tensors=tuple(tensors), **{**sizes, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "layers", "gpu_weights", "gpu_kv"),
    [(0, 0, 0, 0), (1, 1, 68_000, 0), (4, 4, 98_000, 3), (5, 5, 108_000, 4), (99, 5, 108_000, 4)],
)
def test_the_output_goes_to_the_gpu_first_then_blocks_from_the_last_with_their_cache(
    asked: int, layers: int, gpu_weights: int, gpu_kv: int
) -> None:
    found = predict.predict(
        header(),
        Settings(n_ctx=256, n_gpu_layers=asked, use_mmap=False),
        gpu=True,
        overhead_bytes=7,
        machine="x86_64",
    )
    per_layer = 256 * 2 * (16 + 16) * 2
    assert found.gpu_layers == layers
    assert found.gpu.weights_bytes == gpu_weights
    assert found.gpu.kv_bytes == gpu_kv * per_layer
    assert found.host.kv_bytes == (4 - gpu_kv) * per_layer
    assert found.host.weights_bytes + gpu_weights == header().file_bytes
    assert found.gpu.overhead_bytes == (7 if layers else 0)


def test_a_tied_vocabulary_is_held_on_both_sides() -> None:
    tied = header().model_copy(update={"tensors": header().tensors[:-1]})
    asked = Settings(n_ctx=256, n_gpu_layers=1, use_mmap=False)
    found = predict.predict(tied, asked, gpu=True, machine="x86_64")
    assert found.gpu.weights_bytes == 68_000
    assert found.host.weights_bytes == tied.file_bytes == 108_000


def test_what_the_formula_was_not_fitted_to_is_not_foretold() -> None:
    expert = Tensor(name="blk.0.ffn_up_exps.weight", kind="q4_0", dims=(64, 64, 8), bytes=1)
    for other in (
        header().model_copy(update={"architecture": "mamba"}),
        header().model_copy(update={"tensors": (*header().tensors, expert)}),
    ):
        with pytest.raises(NotForetoldError, match="measure it"):
            predict.predict(other, Settings())


def test_a_cache_on_the_host_beside_layers_on_a_device_is_not_foretold() -> None:
    asked = Settings(n_ctx=256, n_gpu_layers=-1, offload_kqv=False)
    with pytest.raises(NotForetoldError, match="offload_kqv=false"):
        predict.predict(header(), asked, gpu=True)
    assert predict.predict(header(), asked).host.kv_bytes > 0


def test_without_a_gpu_all_is_on_the_host() -> None:
    found = predict.predict(header(), Settings(n_ctx=256, n_gpu_layers=-1))
    assert found.gpu.total_bytes == 0 == found.gpu_layers


def test_layers_may_differ_in_heads() -> None:
    found = predict.kv_bytes(header(n_head_kv=(4, 0, 2, 2)), Settings(n_ctx=256, type_k="q8_0"))
    assert found == [round(256 * n * (16 * 34 / 32 + 16 * 2)) for n in (4, 0, 2, 2)]


def test_repacked_weights_are_held_twice_under_mmap_only() -> None:
    tensors = tuple(t.model_copy(update={"kind": "q4_0"}) for t in header().tensors)
    q4 = header().model_copy(update={"tensors": tensors})
    sizes = {
        (mapped, machine): predict.predict(
            q4, Settings(use_mmap=mapped), machine=machine
        ).host.weights_bytes
        for mapped in (True, False)
        for machine in ("x86_64", "unknown")
    }
    # Only the embedding is read where it lies in the file, and it stands first.
    assert sizes[True, "x86_64"] == sizes[False, "x86_64"] == q4.file_bytes
    assert sizes[True, "unknown"] == sizes[False, "unknown"] == q4.file_bytes
    late = Tensor(name="output_norm.weight", kind="f32", dims=(64,), bytes=256)
    with_norm = q4.model_copy(update={"tensors": (*tensors[:-1], late, tensors[-1])})
    mapped = predict.predict(with_norm, Settings(), machine="x86_64").host.weights_bytes
    read = predict.predict(with_norm, Settings(use_mmap=False), machine="x86_64").host.weights_bytes
    assert mapped - read == 40_000  # the blocks between them stay mapped
