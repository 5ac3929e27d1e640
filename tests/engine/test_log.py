"""Reading llama.cpp's log; the lines are those of llama-cpp-python 0.3.36."""

from __future__ import annotations

import io

import pytest

from llm_latency.engine.log import (
    CONT,
    DEBUG,
    ERROR,
    INFO,
    WARN,
    LlamaLog,
    last_words,
    next_step,
)

MIB = 1024 * 1024


def log_of(*lines: tuple[int, str]) -> LlamaLog:
    log = LlamaLog()
    for level, text in lines:
        log.feed(level, text)
    return log


CPU = log_of(
    (INFO, "load_tensors: loading model tensors, this can take a while... (load_mode = mmap)\n"),
    (INFO, "load_tensors:   CPU_Mapped model buffer size =    12.24 MiB\n"),
    (CONT, "....\n"),
    (INFO, "llama_context: flash_attn            = disabled\n"),
    (INFO, "llama_context:        CPU  output buffer size =     0.03 MiB\n"),
    (INFO, "llama_kv_cache:        CPU KV buffer size =     4.00 MiB\n"),
    (
        INFO,
        "llama_kv_cache: size =    4.00 MiB (  1024 cells,   8 layers,  1/1 seqs), "
        "K (f16):    2.00 MiB, V (q8_0):    2.00 MiB\n",
    ),
    (INFO, "sched_reserve:        CPU compute buffer size =    17.50 MiB\n"),
    (INFO, "sched_reserve:        CPU compute buffer size =    18.00 MiB\n"),
)
GPU = log_of(
    (INFO, "load_tensors: offloaded 33/33 layers to GPU\n"),
    (INFO, "load_tensors:   CPU_Mapped model buffer size =    70.31 MiB\n"),
    (INFO, "load_tensors:        CUDA0 model buffer size =  3847.55 MiB\n"),
    (INFO, "llama_kv_cache:      CUDA0 KV buffer size =   512.00 MiB\n"),
    (INFO, "llama_kv_cache:      CUDA0 KV buffer size =    64.00 MiB\n"),
    (INFO, "llama_context: flash_attn            = enabled\n"),
    (INFO, "sched_reserve:      CUDA0 compute buffer size =   300.00 MiB\n"),
    (INFO, "sched_reserve:  CUDA_Host compute buffer size =    16.00 MiB\n"),
)


def test_buffers_by_purpose_and_device() -> None:
    cpu = CPU.buffers()
    assert cpu.weights_bytes == round(12.24 * MIB)
    assert cpu.kv_bytes == 4 * MIB
    assert cpu.compute_bytes == 18 * MIB  # announced anew, not added
    assert cpu.output_bytes == round(0.03 * MIB)
    gpu = GPU.buffers()
    assert gpu.weights_bytes == round(70.31 * MIB) + round(3847.55 * MIB)
    assert gpu.kv_bytes == 576 * MIB  # full and sliding-window cache are added
    assert gpu.compute_bytes == 316 * MIB
    assert gpu.by_device["CUDA_Host"] == {"compute_bytes": 16 * MIB}
    assert gpu.output_bytes is None


def test_what_is_in_force() -> None:
    assert CPU.kv_types() == ("f16", "q8_0")
    assert CPU.load_mode() == "mmap"
    assert CPU.flash_attn() is False
    assert GPU.flash_attn() is True
    assert (CPU.offloaded_layers(), GPU.offloaded_layers()) == (0, 33)
    assert (CPU.kv_on_gpu(), GPU.kv_on_gpu()) == (False, True)
    assert LlamaLog().flash_attn() is None
    assert LlamaLog().kv_types() is None


def test_what_was_left_to_llama_cpp_is_told_when_it_is_decided() -> None:
    auto = (INFO, "llama_context: flash_attn            = auto\n")
    assert log_of(auto).flash_attn() is None
    assert log_of(auto, (INFO, "resolve_fused_ops: Flash Attention enabled\n")).flash_attn() is True
    off = (WARN, "resolve_fused_ops: Flash Attention not supported, set to disabled\n")
    assert log_of(auto, off).flash_attn() is False


def test_sliding_windows_are_full_or_not() -> None:
    base = (INFO, "llama_kv_cache_iswa: creating non-SWA KV cache, size = 4096 cells\n")
    window = (INFO, "llama_kv_cache_iswa: creating     SWA KV cache, size = 1024 cells\n")
    full = (WARN, "llama_kv_cache_iswa: using full-size SWA cache (ref: https://x)\n")
    assert log_of(base).swa_full() is None
    assert log_of(base, window).swa_full() is False
    assert log_of(full, base, window).swa_full() is True


def test_experts_on_the_cpu_are_counted() -> None:
    line = "tensor blk.{}.ffn_up_exps.weight (9 MiB q4_0) buffer type overridden to CPU_REPACK\n"
    assert log_of((DEBUG, line.format(1)), (DEBUG, line.format(2))).experts_on_cpu() == 3
    assert CPU.experts_on_cpu() == 0


def test_the_reason_is_the_first_error_and_the_last() -> None:
    log = log_of(
        (DEBUG, "noise\n"),
        (ERROR, "llama_model_load: error loading model: tensor 'x' data is not within bounds\n"),
        (WARN, "a warning\n"),
        (ERROR, "llama_model_load_from_file_impl: failed to load model\n"),
    )
    assert log.reason() == (
        "llama_model_load: error loading model: tensor 'x' data is not within bounds … "
        "llama_model_load_from_file_impl: failed to load model; "
        "the file is damaged or cut short: fetch or convert it again"
    )
    assert not log.out_of_memory()
    assert LlamaLog().reason("none") == "none"


def test_running_out_of_memory_is_told_from_other_errors() -> None:
    for text in (
        "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 42\n",
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 100 MiB on device 0: "
        "cudaMalloc failed: out of memory\n",
    ):
        assert log_of((ERROR, text)).out_of_memory()
        assert not log_of((INFO, text)).out_of_memory()


def test_messages_that_go_on_are_one_line_and_debug_is_left_out() -> None:
    stream = io.StringIO()
    log = LlamaLog(stream)
    for level, text in [
        (DEBUG, "secret"),
        (CONT, " detail\n"),
        (WARN, "half a"),
        (CONT, " sentence\n"),
    ]:
        log.feed(level, text)
    assert log.lines == [(WARN, "half a sentence\n")]
    assert stream.getvalue() == "half a sentence\n"
    assert log.warnings() == ["half a sentence"]


def test_memory_that_does_no_harm_is_not_running_out_of_it() -> None:
    for text in (
        "warning: failed to mlock 42-byte buffer: Cannot allocate memory\n",
        "read: encountered bad_alloc error while reading key 3\n",
    ):
        assert not log_of((ERROR, text)).out_of_memory()


@pytest.mark.parametrize(
    ("reason", "step"),
    [
        ("quantized V cache requires flash_attn to be enabled", "flash_attn=true"),
        ("gguf: invalid magic characters: 'no m', expected 'GGUF'", "no GGUF file"),
        ("error loading model: unknown model architecture: 'x'", "a newer one"),
        ("error loading model: missing tensor 'x' … failed to load model", "made for this one"),
        ("tensor 'x' has invalid ggml type 99 … failed to load model", "a newer one"),
        ("unknown pre-tokenizer type: 'x' … failed to load model", "a newer one"),
        ("corrupted model: 3 tensors expected but 2 found", "fetch or convert it again"),
        ("failed to load GGUF split from x-00002-of-00003.gguf", "fetch them all"),
        ("OSError: [Errno 28] No space left on device", "make room"),
        ("ModuleNotFoundError: No module named 'psutil'", "bootstrap.py"),
        ("cudaMalloc failed: out of memory", "smaller n_ctx"),
    ],
)  # fmt: skip
def test_reasons_name_the_next_step_where_there_is_one(reason: str, step: str) -> None:
    assert next_step(reason).startswith("; ")
    assert step in next_step(reason)
    assert next_step("something new") == ""


def test_last_words_are_those_that_tell_why() -> None:
    ordinary = "".join(f"load_tensors: layer {n}\n" for n in range(30))
    assert last_words(ordinary) == ""
    assert last_words(f"{ordinary}/tmp/b/ggml.c:12: GGML_ASSERT(n > 0) failed\nmore\n") == (
        "ggml.c:12: GGML_ASSERT(n > 0) failed"
    )
    thrown = "terminate called after throwing an instance of 'std::out_of_range'\n  what():  at\n"
    assert last_words(ordinary + thrown) == (
        "terminate called after throwing an instance of 'std::out_of_range' … what(): at"
    )
    cuda = "CUDA error: out of memory\n  current device: 0\n/x/ggml-cuda.cu:96: CUDA error\n"
    assert last_words(ordinary + cuda) == "CUDA error: out of memory"
    assert last_words("Traceback\n  File x\nKeyError: 'x'\n") == "KeyError: 'x'"
    assert last_words(f"KeyError: 'x'\n{ordinary}") == ""  # long before the end
