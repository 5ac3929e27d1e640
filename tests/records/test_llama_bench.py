"""llama-bench's lines: today's names and those of years ago, into frames and back."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from llm_latency.errors import ParameterError
from llm_latency.plan.settings import Settings
from llm_latency.plan.workload import Workload
from llm_latency.records import bench_text, llama_bench
from tests.support import factories

# As llama.cpp of commit 0c1e570 printed it.
NEW: dict[str, Any] = {
    "build_commit": "0c1e570", "build_number": 1, "cpu_info": "AMD EPYC", "gpu_info": "",
    "backends": "CPU", "model_filename": "m.gguf", "model_type": "llama ?B Q8_0",
    "model_size": 132516864, "model_n_params": 124668672, "n_batch": 512, "n_ubatch": 256,
    "n_threads": 2, "cpu_mask": "0x0", "cpu_strict": False, "poll": 50, "type_k": "f16",
    "type_v": "q8_0", "n_gpu_layers": -1, "n_cpu_moe": 0, "split_mode": "layer", "main_gpu": 0,
    "no_kv_offload": False, "flash_attn": 0, "devices": "auto", "tensor_split": "0.00",
    "tensor_buft_overrides": "none", "load_mode": "mmap", "lazy_mode": "auto",
    "embeddings": False, "no_op_offload": 0, "no_host": False, "repack": True, "fit_target": 0,
    "fit_min_ctx": 0, "n_prompt": 128, "n_gen": 0, "n_depth": 0,
    "test_time": "2026-01-02T03:04:05Z", "avg_ns": 200000000, "stddev_ns": 100000000,
    "avg_ts": 800.0, "stddev_ts": 400.0, "samples_ns": [100000000, 300000000],
    "samples_ts": [1280.0, 426.6],
}  # fmt: skip
# As in the autumn of 2023: one flag per library, one for the KV cache, bools.
OLD: dict[str, Any] = {
    "build_commit": "1191b67", "build_number": 1500, "cuda": True, "opencl": False,
    "metal": False, "gpu_blas": True, "blas": True, "cpu_info": "i7", "gpu_info": "RTX 3060",
    "model_filename": "m.gguf", "model_type": "7B", "model_size": 1, "model_n_params": 1,
    "n_batch": 512, "n_threads": 8, "f16_kv": True, "n_gpu_layers": 99, "main_gpu": 0,
    "mul_mat_q": True, "tensor_split": "0.00", "n_prompt": 0, "n_gen": 64,
    "test_time": "2023-10-01T00:00:00Z", "avg_ns": 1, "stddev_ns": 0, "avg_ts": 1, "stddev_ts": 0,
    "samples_ns": [1000000000], "samples_ts": [64.0],
}  # fmt: skip


def read(*lines: dict[str, Any]) -> list[dict[str, Any]]:
    frame = llama_bench.read([json.dumps(line) for line in lines])
    assert list(frame.columns[: len(llama_bench.COLUMNS)]) == list(llama_bench.COLUMNS)
    return [
        {str(k): None if v is None or v != v else v for k, v in row.items()}
        for row in frame.to_dict("records")
    ]


def test_todays_fields_become_one_row_per_sample() -> None:
    first, second = read(NEW)
    assert (first["prefill_s"], second["prefill_s"]) == (0.1, 0.3)
    assert (first["repeat"], second["repeat"]) == (1, 2)
    assert first["prefill_tps"] == pytest.approx(1280)
    assert first["decode_s"] is None and first["decode_tps"] is None
    assert first["test"] == "pp128"
    assert (first["prompt_tokens"], first["generated_tokens"], first["n_ctx"]) == (128, 0, 128)
    assert (first["use_mmap"], first["use_mlock"]) == (True, False)
    assert (first["flash_attn"], first["offload_kqv"]) == (False, True)
    assert (first["type_k"], first["type_v"], first["n_ubatch"]) == ("f16", "q8_0", 256)
    assert first["n_threads"] == first["n_threads_batch"] == 2
    assert (first["model"], first["backends"]) == ("m.gguf", "CPU")
    assert first["started_at"] == "2026-01-02T03:04:05Z"
    assert first["cpu_info"] == "AMD EPYC"  # no name of ours: kept
    assert not {"samples_ns", "n_prompt", "model_filename"} & first.keys()


def test_fields_of_years_ago_mean_the_same() -> None:
    (row,) = read(OLD)
    assert row["test"] == "tg64"
    assert (row["decode_s"], row["decode_tps"]) == (1.0, 64.0)
    assert row["prefill_s"] is None
    assert (row["type_k"], row["type_v"]) == ("f16", "f16")
    assert row["backends"] == "CUDA,GPU_BLAS,BLAS"
    assert row["use_mmap"] is None and row["flash_attn"] is None and row["n_ubatch"] is None
    assert row["gpu_info"] == "RTX 3060"


@pytest.mark.parametrize(
    ("given", "use_mmap", "use_mlock"),
    [
        ({"load_mode": "none"}, False, False),
        ({"load_mode": "mmap+mlock"}, True, True),
        ({"load_mode": "auto"}, None, None),
        ({"use_mmap": False}, False, None),
        ({"use_mmap": 1}, True, None),
    ],
)
def test_how_the_file_was_loaded(
    given: dict[str, Any], use_mmap: bool | None, use_mlock: bool | None
) -> None:
    line = {key: value for key, value in NEW.items() if key != "load_mode"}
    row = read(line | given)[0]
    assert (row["use_mmap"], row["use_mlock"]) == (use_mmap, use_mlock)


@pytest.mark.parametrize(
    ("given", "meant"), [(True, True), (False, False), (1, True), (0, False), (-1, None)]
)
def test_flash_attention_as_bool_and_as_number(given: Any, meant: bool | None) -> None:
    assert read(NEW | {"flash_attn": given})[0]["flash_attn"] is meant


def test_an_average_alone_is_one_row_without_a_repeat() -> None:
    line = {key: value for key, value in NEW.items() if not key.startswith("samples")}
    (row,) = read(line)
    assert row["repeat"] is None
    assert row["prefill_s"] == 0.2


def test_prompt_and_generation_together_are_neither_prefill_nor_decode() -> None:
    row = read(NEW | {"n_gen": 16, "n_depth": 32})[0]
    assert row["test"] == "pp128+tg16 @ d32"
    assert row["n_ctx"] == 128 + 16 + 32
    assert (row["prefill_s"], row["decode_s"], row["total_s"]) == (None, None, 0.1)


def test_unknown_fields_are_kept_and_blank_lines_skipped() -> None:
    frame = llama_bench.read(["", json.dumps(NEW | {"in_ten_years": 7}), "  "])
    assert set(frame["in_ten_years"]) == {7}
    assert set(frame["trial_id"]) == {"llama-bench-1"}


def test_nothing_is_an_empty_frame_with_columns() -> None:
    assert list(llama_bench.read([]).columns) == list(llama_bench.COLUMNS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ('{"n_prompt": 1', "is not JSON"),
        (json.dumps(NEW | {"n_prompt": None}), "n_prompt"),
        (json.dumps(NEW | {"n_gen": "64"}), "n_gen"),
        (json.dumps(NEW | {"n_prompt": 0}), "tests no token"),
        (json.dumps(NEW | {"samples_ns": [1, 0]}), "samples_ns"),
        (json.dumps(NEW | {"samples_ns": "fast"}), "samples_ns"),
        (json.dumps({"n_prompt": 1, "n_gen": 0}), "avg_ns"),
    ],
)
def test_a_bad_result_is_named_in_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "bench.jsonl"
    file.write_text(f"{json.dumps(NEW)}\n{text}\n", encoding="utf-8")
    with pytest.raises(ParameterError) as refused:
        llama_bench.read(file)
    said = str(refused.value)
    assert said.startswith(f"line 2 of {file}")
    assert words in said
    assert said.endswith("'llama-bench -o jsonl'.")


BACKEND = "ggml_cuda_init: found 1 CUDA devices:\n  Device 0: NVIDIA [GPU], 8 GiB\n[SYCL] ready\n"
LINES = "".join(json.dumps(line) + "\n" for line in (NEW, OLD))


@pytest.mark.parametrize(
    ("content", "stray"),
    [
        pytest.param(LINES.encode(), 0, id="jsonl"),
        pytest.param(LINES.replace("\n", "\r\n").encode("utf-16"), 0, id="PowerShell 5"),
        pytest.param(b"\xfe\xff" + LINES.encode("utf-16-be"), 0, id="UTF-16, big end first"),
        pytest.param(LINES.encode("utf-8-sig"), 0, id="UTF-8 with BOM"),
        pytest.param((BACKEND + LINES).encode(), 3, id="backend lines"),
        pytest.param((BACKEND + LINES).encode("utf-16"), 3, id="backend lines, PowerShell 5"),
        pytest.param((LINES + "\nbuild: 0c1e570 (1)\n").encode(), 1, id="build at the end"),
        pytest.param(json.dumps([NEW, OLD], indent=2).encode(), 0, id="array"),
        pytest.param(json.dumps([NEW, OLD]).encode(), 0, id="array on one line"),
        pytest.param((BACKEND + json.dumps([NEW, OLD], indent=2)).encode(), 3, id="both"),
    ],
)
def test_files_as_people_have_them(tmp_path: Path, content: bytes, stray: int) -> None:
    file = tmp_path / "bench"
    file.write_bytes(content)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        frame = llama_bench.read(file)
    assert list(frame["total_s"]) == [0.1, 0.3, 1.0]
    assert list(frame["trial_id"]) == ["llama-bench-1", "llama-bench-1", "llama-bench-2"]
    assert frame.attrs["stray_lines"] == stray
    assert [str(one.message).count(f"holds {stray} line") for one in told] == [1] * bool(stray)


def test_the_place_of_a_bad_result_counts_all_lines(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    file.write_text(f"{BACKEND}{json.dumps([NEW], indent=1)}\n{{}}\n", encoding="utf-8")
    lines = file.read_text(encoding="utf-8").splitlines()
    with pytest.raises(ParameterError, match=rf"^line {lines.index('{}') + 1} of "):
        llama_bench.read(file)


def test_a_file_without_a_result_is_no_empty_frame(tmp_path: Path) -> None:
    file = tmp_path / "bench.md"
    file.write_text("| model | size |\n| --- | --- |\n", encoding="utf-8")
    with pytest.raises(ParameterError, match=r"2 lines of other text.*'llama-bench -o jsonl'"):
        llama_bench.read(file)


@pytest.mark.parametrize(
    ("text", "words"), [("[", "is not JSON"), ("[1]", "is not one JSON object")]
)
def test_one_line_is_one_result(text: str, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        bench_text.parse(text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="cannot be read"):
        llama_bench.read(tmp_path / "none.jsonl")


def test_a_run_is_written_and_read_again(tmp_path: Path) -> None:
    settings = Settings(n_ctx=1024, n_batch=256, n_threads=2)
    run = factories.to_frame(
        [
            factories.record(settings, 192, max_tokens=17, repeats=3, within=0.1),
            factories.record(settings, 192, round=1, failure=("oom", "too large")),
            factories.record(settings, 192, round=2, failure=("invalid", "cached")),
        ]
    )
    file = tmp_path / "lab.jsonl"
    assert llama_bench.write(run, file, cpu_info="a CPU") == 2  # pp and tg of the one that is ok
    frame = llama_bench.read(file)
    assert list(frame["test"].unique()) == ["pp192", "tg16 @ d192"]
    good = run[(run["status"] == "ok") & (run["repeat"] > 0)]
    for phase in ("prefill", "decode"):
        back = frame[f"{phase}_s"].dropna()
        assert list(back) == pytest.approx(list(good[f"{phase}_s"]), abs=1e-9)
        tps = frame[f"{phase}_tps"].dropna()
        assert list(tps) == pytest.approx(list(good[f"{phase}_tps"]), rel=1e-6)
    for name in ("model", "n_batch", "n_ubatch", "n_threads", "type_k", "use_mmap"):
        asked = good[f"effective_{name}" if f"effective_{name}" in good else name]
        assert set(frame[name]) == set(asked), name
    assert set(frame["source"]) == {llama_bench.SOURCE}
    assert set(frame["cpu_info"]) == {"a CPU"}


def test_written_lines_have_every_field_of_llama_bench(tmp_path: Path) -> None:
    run = factories.to_frame([factories.record(Settings(), 64)])
    file = tmp_path / "lab.jsonl"
    llama_bench.write(run, file)
    for text in file.read_text(encoding="utf-8").splitlines():
        assert NEW.keys() <= json.loads(text).keys()


def test_llama_cpps_own_script_can_join_what_was_written(tmp_path: Path) -> None:
    """As ``compare-llama-bench.py`` does: what is empty would be equal to nothing in SQLite."""
    run = factories.to_frame([factories.record(Settings(), 64)])
    file = tmp_path / "lab.jsonl"
    llama_bench.write(run, file)
    lines = [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()]
    keys = NEW.keys() - {
        "build_commit", "build_number", "model_size", "model_n_params", "test_time", "samples_ns",
        "samples_ts", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts",
    }  # fmt: skip
    for line in lines:
        assert [key for key in keys if line[key] is None] == []
        for key in keys - {"model_filename", "model_type"}:
            assert type(line[key]) is type(NEW[key]), key


def test_a_single_generation_is_not_taken_for_a_warm_up() -> None:
    run = factories.to_frame([factories.record(Settings(), 64, repeats=0)])
    made = list(llama_bench.lines(run))
    assert [len(line["samples_ns"]) for line in made] == [1, 1]


def test_nothing_to_write(tmp_path: Path) -> None:
    failed = factories.to_frame([factories.record(Settings(), failure=("oom", "too large"))])
    with pytest.raises(ParameterError, match="no generation with status ok"):
        llama_bench.write(failed, tmp_path / "x.jsonl")
    good = factories.to_frame([factories.record(Settings())])
    with pytest.raises(ParameterError, match="has no column 'repeat'"):
        llama_bench.write(good.drop(columns="repeat"), tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()


SWEPT = """main: n_kv_max = 2048, n_batch = 2048, n_ubatch = 512, flash_attn = 1, n_gpu_layers = 9

|    PP |     TG |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |
|-------|--------|--------|----------|----------|----------|----------|
|   512 |    128 |      0 |    1.100 |   465.51 |    2.560 |    50.00 |
|   512 |    128 |    512 |    1.280 |   400.00 |    3.200 |    40.00 |
"""
SWEPT_JSON = (
    '{"n_kv_max": 2048, "n_batch": 2048, "n_ubatch": 512, "flash_attn": 1, "n_gpu_layers": 9, '
    '"pp": 512, "tg": 128, "n_kv": 512, "t_pp": 1.28, "speed_pp": 400.0, "t_tg": 3.2, '
    '"speed_tg": 40.0 }'
)


def test_sweep_bench_is_read_as_two_tests_at_each_depth() -> None:
    frame = llama_bench.read(SWEPT.splitlines())
    assert list(frame["test"]) == ["pp512", "tg128", "pp512 @ d512", "tg128 @ d512"]
    assert set(frame["experiment"]) == {"sweep-bench"} and frame.attrs["stray_lines"] == 0
    assert list(frame["decode_tps"].dropna()) == pytest.approx([50, 40])
    assert frame["prefill_tps"].iloc[2] == pytest.approx(400)
    assert set(frame["flash_attn"]) == {True} and set(frame["n_batch"]) == {2048}
    (pp, tg) = llama_bench.read([SWEPT_JSON]).to_dict("records")
    assert (pp["n_depth"], pp["prefill_s"], tg["decode_s"]) == (512, 1.28, 3.2)


def test_rows_of_many_sequences_at_once_are_none_of_one() -> None:
    batched = "|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |"
    with pytest.raises(ParameterError, match="no result"):
        llama_bench.read([batched, "|   512 |    128 |    2 |   1280 |    0.1 |  1 |    1 |   1 |"])
    with pytest.raises(ParameterError, match="n_prompt"):
        llama_bench.read([SWEPT_JSON.replace('"n_kv": 512', '"n_kv": 512, "pl": 2')])


def test_each_step_of_a_walk_is_written_as_a_test_at_its_depth() -> None:
    walk = Workload(prompt_tokens=32, max_tokens=5, depths=(0, 512), cache_mode="kept", repeats=1)
    frame = factories.to_frame([factories.record(Settings(), workload=walk)])
    sizes = [(x["n_prompt"], x["n_gen"], x["n_depth"]) for x in llama_bench.lines(frame)]
    assert sizes == [(32, 0, 0), (0, 4, 32), (32, 0, 512), (0, 4, 544)]
