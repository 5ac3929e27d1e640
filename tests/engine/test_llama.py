"""The real llama.cpp on the smallest synthetic model."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import llm_latency as lab
from llm_latency.engine import beyond, library, prompts, timed
from llm_latency.engine import warm_up as warming
from llm_latency.engine.timed import TimedModel as Model
from llm_latency.errors import EngineError, ParameterError
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Start
from llm_latency.plan.workload import Via, Workload
from tests.support.odd_models import changed, header_only

pytestmark = pytest.mark.engine
MIB = 1024 * 1024
TOKENS: tuple[Via, ...] = ("engine", "generate", "stream")
"""Ways that take a prompt as it is."""
WORKLOAD = Workload(prompt_tokens=8)


@pytest.fixture(scope="module")
def model(tiny: Path) -> Iterator[Model]:
    with Model(tiny, Settings(n_ctx=1024, n_batch=256)) as loaded:
        yield loaded


def test_one_model_by_hand() -> None:
    with lab.load("synthetic:tiny", n_ctx=512) as model:
        answer = model.generate("Bonjour", max_tokens=5)
    assert 0 < answer.timings.ttft_s <= answer.timings.total_s
    assert answer.text


def test_a_wrong_setting_stops_before_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timed, "TimedModel", None)  # loading would fail in another way
    with pytest.raises(lab.ParameterError, match="n_bacth"):
        lab.load("synthetic:tiny", n_bacth=512)
    with pytest.raises(lab.ParameterError, match=r"nosuch\.gguf"):
        lab.load("nosuch.gguf")


def test_a_device_that_says_nothing_of_its_memory_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [  # name, kind, free, total
        ("CPU", 0, 8, 8), ("CUDA0", 1, 3, 8), ("Vulkan0", 2, 8, 8), ("RPC0", 1, 0, 0),
        ("BLAS", 3, 2, 4), ("Metal", 1, 0, 8),
    ]  # fmt: skip

    def memory(device: int, free: Any, total: Any) -> None:
        free._obj.value, total._obj.value = told[device][2:]

    answers = {
        "count": lambda: len(told),
        "get": lambda number: number,
        "name": lambda device: told[device][0].encode(),
        "description": lambda device: b"a card",
        "type": lambda device: told[device][1],
        "memory": memory,
    }
    fake = SimpleNamespace(**{f"ggml_backend_dev_{name}": call for name, call in answers.items()})
    monkeypatch.setattr(library.C, "_lib", fake)
    found = {device.name: device for device in library.devices()}
    kinds = {name: device.kind for name, device in found.items()}
    assert kinds == {name: library.KINDS[kind] for name, kind, *_ in told}
    assert [n for n, d in found.items() if not d.holds_layers] == ["CPU", "BLAS"]
    assert (found["CUDA0"].free_bytes, found["CUDA0"].total_bytes) == (3, 8)
    assert (found["CPU"].free_bytes, found["CPU"].total_bytes) == (None, 8)
    used = {n: (m.used_bytes, m.total_bytes) for n, m in library.device_memory().items()}
    assert used == {
        "CUDA0": (5, 8), "Vulkan0": (None, 8), "RPC0": (None, None), "Metal": (None, 8)
    }  # fmt: skip


def test_stamps_lie_on_one_clock(model: Model) -> None:
    generation = model.generate(prompts.passage(model, 300), max_tokens=12, length="fixed")
    t = generation.timings
    assert generation.problem is None
    assert (generation.prompt_tokens, generation.evaluated_tokens) == (300, 300)
    assert (generation.generated_tokens, generation.finish_reason) == (12, "length")
    assert len(t.itl_s) == 12
    assert t.itl_s[0] == pytest.approx(t.ttft_s)
    assert sum(t.itl_s) == pytest.approx(t.total_s)
    assert t.ttft_s + t.decode_s == pytest.approx(t.total_s)
    assert 0 < t.prefill_s < t.ttft_s
    # llama.cpp's own clock runs inside ours.
    assert 0 < t.engine_prefill_s <= t.prefill_s
    assert 0 < t.engine_decode_s <= t.decode_s
    assert 0 <= t.binding_overhead_s < t.total_s


def test_the_same_prompt_again_is_evaluated_again(model: Model) -> None:
    prompt = prompts.passage(model, 500)
    first, second = (model.generate(prompt, max_tokens=2) for _ in range(2))
    assert first.evaluated_tokens == second.evaluated_tokens == 500
    assert first.text == second.text


def test_a_prompt_cache_hit_under_cold_is_caught(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = prompts.passage(model, 64)
    model.generate(prompt, max_tokens=1)
    monkeypatch.setattr(model.kv_cache, "forget", lambda: None)
    caught = model.generate(prompt, max_tokens=1, via="generate")
    assert "cold was asked" in str(caught.problem)
    assert "in the KV cache" in str(caught.problem)


def test_a_prefix_is_found_in_the_cache_and_the_rest_evaluated(model: Model) -> None:
    prompt = prompts.passage(model, 500)
    cold = model.generate(prompt, max_tokens=4)
    for _ in range(2):
        warm = model.generate(prompt, max_tokens=4, prefix_tokens=400)
        assert (warm.problem, warm.evaluated_tokens) == (None, 100)
        assert warm.text == cold.text  # the same answer, sooner
    last = model.generate(prompt, max_tokens=4, prefix_tokens=499)
    assert (last.problem, last.evaluated_tokens, last.text) == (None, 1, cold.text)


@pytest.mark.parametrize("prefix", [0, 90, 99])
def test_every_way_through_the_binding_gives_the_same_answer(model: Model, prefix: int) -> None:
    prompt = prompts.passage(model, 100)
    answers = {
        via: model.generate(prompt, max_tokens=6, length="fixed", prefix_tokens=prefix, via=via)
        for via in TOKENS
    }
    for via, answer in answers.items():
        assert answer.problem is None, via
        assert answer.text.strip() == answers["engine"].text.strip(), via
        assert answer.generated_tokens == 6
        assert answer.evaluated_tokens == 100 - prefix
        t = answer.timings
        assert 0 < t.engine_prefill_s <= t.ttft_s
        assert t.binding_overhead_s >= 0
        assert sum(t.itl_s) <= t.total_s + 1e-9
        assert (t.prefill_s is None) == (via != "engine")
        assert answer.prefill_tps > 0


def test_one_token_by_every_way(model: Model) -> None:
    for via in TOKENS:
        for length in (1, 5):
            answer = model.generate(prompts.passage(model, length), 1, length="fixed", via=via)
            assert (answer.problem, answer.generated_tokens) == (None, 1), (via, length)


def test_prompts_of_one_token_and_at_the_edges_of_a_batch(model: Model) -> None:
    for length in (1, 2, 255, 256, 257, 512, 513):
        generation = model.generate(prompts.passage(model, length), max_tokens=2, length="fixed")
        assert generation.evaluated_tokens == length
        assert generation.problem is None


def test_what_does_not_fit_the_context_is_one_sentence(model: Model) -> None:
    with pytest.raises(EngineError, match=r"prompt of 1000 tokens .* n_ctx in force is 1024"):
        model.generate(prompts.passage(model, 1000), max_tokens=25)
    assert (
        model.generate(prompts.passage(model, 1000), max_tokens=24, length="fixed").problem is None
    )
    with pytest.raises(EngineError, match="no token"):
        model.generate([])


def test_natural_length_stops_at_end_of_generation(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = itertools.chain([False, False, True], itertools.repeat(True))
    monkeypatch.setattr(library.C, "llama_vocab_is_eog", lambda *_: next(ends))
    natural = model.generate("Bonjour", max_tokens=20)
    assert (natural.generated_tokens, natural.finish_reason) == (2, "stop")
    assert natural.problem is None
    fixed = model.generate("Bonjour", max_tokens=20, length="fixed")
    assert (fixed.generated_tokens, fixed.finish_reason) == (20, "length")


def test_an_early_end_under_fixed_length_is_caught(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A streamed completion stops at end-of-generation whatever was asked.
    ends = itertools.chain([False] * 3, itertools.repeat(True))
    monkeypatch.setattr(library.C, "llama_vocab_is_eog", lambda *_: next(ends))
    early = model.generate(prompts.passage(model, 20), max_tokens=20, length="fixed", via="stream")
    assert early.finish_reason == "stop"
    assert early.problem is not None
    assert early.problem.startswith("20 tokens were to be generated, ")


def test_an_answer_that_ends_at_once_has_no_speed(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library.C, "llama_vocab_is_eog", lambda *_: True)
    nothing = model.generate("Bonjour", max_tokens=20)
    assert (nothing.generated_tokens, nothing.finish_reason) == (0, "stop")
    assert nothing.timings.itl_s == []
    assert nothing.decode_tps != nothing.decode_tps  # NaN


def test_the_passage_has_exactly_the_tokens_asked_for(model: Model) -> None:
    whole = prompts.passage(model, 3000)
    assert len(whole) == 3000
    assert whole[:100] == prompts.passage(model, 100)
    begin = model.beginning
    assert whole[0] == begin
    assert begin not in whole[1:]


def test_what_is_in_force_is_read_back(tiny: Path) -> None:
    asked = Settings(n_ctx=300, n_batch=1024, n_threads=1, type_k="q8_0", use_mmap=False)
    with Model(tiny, asked) as model:
        real = model.effective
    assert real.n_ctx == 512  # padded
    assert real.n_batch == 300  # clamped
    assert real.n_ubatch == 300
    assert (real.n_threads, real.n_threads_batch) == (1, 1)
    assert (real.type_k, real.type_v) == ("q8_0", "f16")
    assert (real.use_mmap, real.use_mlock, real.flash_attn) == (False, False, False)
    assert real.all_layers == 8 + 1  # the output counts as one


def test_buffers_follow_the_settings(tiny: Path) -> None:
    sizes = {}
    for n_ctx in (512, 2048):
        with Model(tiny, Settings(n_ctx=n_ctx)) as model:
            sizes[n_ctx] = model.buffers
    # 8 layers x (2 KV heads x 64 wide) x (K + V) x 2 bytes a token: 4096 bytes.
    assert sizes[512].kv_bytes == 512 * 4096
    assert sizes[2048].kv_bytes == 2048 * 4096
    assert sizes[512].weights_bytes == sizes[2048].weights_bytes
    assert (sizes[512].weights_bytes or 0) > 10 * MIB
    assert (sizes[512].compute_bytes or 0) > MIB


def test_loading_time_has_parts_that_add_up(tiny: Path) -> None:
    with Model(tiny, Settings(n_ctx=256)) as model:
        before = model.load
        parts = before.backend_init_s + before.model_load_s + before.context_s
        assert 0 < before.model_load_s < parts <= before.load_s
        warming.warm_up(model, Start(), WORKLOAD, Path())
        assert model.load == before
        warming.warm_up(model, Start(warm_up="batch"), WORKLOAD, Path())
        after = model.load
    assert after.warm_up_s > 0
    assert after.load_s == pytest.approx(before.load_s + after.warm_up_s)


def test_a_warm_up_leaves_nothing_in_the_cache(tiny: Path) -> None:
    with Model(tiny, Settings(n_ctx=512)) as model:
        warming.warm_up(model, Start(warm_up="tokens"), WORKLOAD, Path())
        generation = model.generate(prompts.passage(model, 100), max_tokens=1)
    assert (generation.evaluated_tokens, generation.problem) == (100, None)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda content: content[: len(content) // 2], "tensor"),
        (lambda content: b"", "failed to read magic"),
        (lambda content: b"not a model at all" * 100, "magic .* this is no GGUF file"),
    ],
)
def test_a_broken_file_gives_llama_cpps_own_reason(
    tiny: Path,
    tmp_path: Path,
    damage: object,
    word: str,
) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(damage(tiny.read_bytes()))  # type: ignore[operator]
    with pytest.raises(EngineError, match=word) as caught:
        Model(file, Settings())
    assert not caught.value.out_of_memory


def test_the_engines_card() -> None:
    card = library.engine_card()
    assert card.devices
    assert "CPU" in card.system_info
    assert card.version


def test_the_wrapped_calls_are_put_back(tiny: Path) -> None:
    before = library.C.llama_model_load_from_file
    with Model(tiny, Settings(n_ctx=256)):
        assert library.C.llama_model_load_from_file is before


def test_devices_are_hidden_from_one_load_only(tiny: Path) -> None:
    before = library.C.llama_model_default_params
    assert before().devices is None
    with library.without_devices():
        hidden = library.C.llama_model_default_params().devices
        assert ctypes.cast(hidden, ctypes.POINTER(ctypes.c_void_p))[0] is None
    with Model(tiny, Settings(n_ctx=256, n_gpu_layers=0)):
        assert library.C.llama_model_default_params is before


def test_what_is_no_model_ends_no_process(tmp_path: Path) -> None:
    bert = header_only(tmp_path / "bert.gguf", "bert", {"bert.attention.causal": False})
    with pytest.raises(ParameterError, match="encoder"):
        lab.load(bert)


def test_a_chat_template_that_does_not_compile_is_one_warning(tiny: Path, tmp_path: Path) -> None:
    broken = {"tokenizer.chat_template": "{{ messages | from_json }}"}
    with lab.load(changed(tiny, tmp_path / "odd.gguf", broken), n_ctx=256) as model:
        assert model.generate("Bonjour", max_tokens=3).generated_tokens == 3
        (said,) = model.log.warnings()
    assert "does not compile" in said and "from_json" in said
    with lab.load(tiny, n_ctx=256) as model:
        assert model.log.warnings() == []


def test_flash_attention_may_be_left_to_llama_cpp(tiny: Path) -> None:
    with Model(tiny, Settings(n_ctx=256, flash_attn="auto", type_v="q8_0")) as model:
        assert model.effective.flash_attn is True
        assert model.effective.type_v == "q8_0"
        assert (model.effective.swa_full, model.effective.n_cpu_moe) == (None, 0)


@pytest.mark.parametrize(("asked", "handed"), [(None, True), (True, True), (False, False)])
def test_whether_a_device_may_compute_for_the_host_is_handed_over(
    tiny: Path, asked: bool | None, handed: bool
) -> None:
    with Model(tiny, Settings(n_ctx=256, op_offload=asked)) as model:
        assert model.effective.op_offload is handed


def test_experts_stay_on_the_cpu_as_asked() -> None:
    """Patterns are those of llama.cpp's own option."""
    asked = library.C.llama_model_default_params()
    with beyond.experts_on_cpu(asked, 2):
        entries = ctypes.cast(asked.tensor_buft_overrides, ctypes.POINTER(beyond._Override))
        patterns = [entries[at].pattern for at in range(3)]
        assert entries[0].buffer_type and entries[2].buffer_type is None
    assert patterns == [
        rb"blk\.0\.ffn_(up|down|gate|gate_up)_(ch|)exps",
        rb"blk\.1\.ffn_(up|down|gate|gate_up)_(ch|)exps",
        None,
    ]
    assert asked.tensor_buft_overrides is None
