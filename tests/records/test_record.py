"""The one schema of all data: its columns are a contract with users and reports."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from llm_latency.plan.settings import Settings
from llm_latency.records.record import Record
from llm_latency.records.rows import rows, to_frame
from tests.support import factories

CONTRACT = """
run_id trial_id round order status reason model experiment
n_ctx n_batch n_ubatch n_gpu_layers n_threads n_threads_batch use_mmap use_mlock flash_attn
type_k type_v offload_kqv effective_n_ctx effective_n_batch effective_n_ubatch
effective_n_threads effective_n_gpu_layers effective_use_mmap effective_use_mlock
effective_flash_attn effective_type_k effective_type_v
page_cache warm_up cache_mode repeat prompt_tokens evaluated_tokens generated_tokens finish_reason
backend_init_s model_load_s context_s warm_up_s load_s ttft_s prefill_s decode_s total_s itl_s
prefill_tps decode_tps binding_overhead_s
weights_bytes kv_bytes compute_bytes output_bytes
rss_anon_bytes rss_file_bytes locked_bytes rss_peak_bytes
rss_anon_after_load_bytes rss_anon_after_first_bytes rss_anon_after_last_bytes
vram_before_bytes vram_peak_bytes vram_process_bytes vram_delta_bytes vram_total_bytes
vram_source
resident_before read_bytes major_faults minor_faults cpu_other_fraction cpu_steal_fraction
gpu_temperature_c gpu_sm_clock_hz gpu_power_w gpu_throttle warnings
"""


def test_the_frame_has_every_column_of_the_contract() -> None:
    frame = to_frame(factories.records(rounds=1))
    assert [name for name in CONTRACT.split() if name not in frame] == []


def test_a_failed_trial_is_one_row_of_its_state_without_a_number_in_place_of_failure() -> None:
    (row,) = rows(factories.record(Settings(), failure=("oom", "no room")))
    assert (row["status"], row["reason"], row["prompt_tokens"]) == ("oom", "no room", 192)
    assert "ttft_s" not in row
    assert row["kv_bytes"] is None
    assert row["effective_n_ctx"] is None


def test_a_record_survives_json_and_refuses_unknown_names() -> None:
    before = factories.record(Settings(), repeats=2, gpu=True)
    assert Record.model_validate_json(before.model_dump_json()) == before
    assert rows(before)[0]["vram_delta_bytes"] == before.vram.process_bytes
    with pytest.raises(ValidationError, match="surprise"):
        Record.model_validate(before.model_dump() | {"surprise": 1})


def test_growth_between_phases_is_missing_where_a_phase_is() -> None:
    record = factories.record(Settings())
    assert record.between("before", "after_last", "rss_bytes") is None
    assert record.between("after_last", "after_last", "rss_bytes") == 0
