"""What is not proven is not believed."""

from __future__ import annotations

from typing import Any

import pytest

from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Cores, PageCache, Start, Trial
from llm_latency.plan.workload import Workload
from llm_latency.records.generation import Generation, Timings
from llm_latency.records.proof import not_in_force, problem, proven, wrong_start
from llm_latency.records.record import Affinity, Effective, PageCacheState, Record
from llm_latency.records.rows import rows

IN_FORCE: dict[str, Any] = {
    "n_ctx": 512, "n_batch": 512, "n_ubatch": 512, "n_threads": 2, "n_threads_batch": 2,
    "n_gpu_layers": 0, "use_mmap": True, "use_mlock": False, "flash_attn": False,
    "offload_kqv": None, "type_k": "f16", "type_v": "f16",
}  # fmt: skip


def record(asked: dict[str, Any], real: dict[str, Any], trouble: str | None = None) -> Record:
    timings = Timings(
        ttft_s=1, prefill_s=1, decode_s=1, total_s=2, itl_s=[1, 1],
        engine_prefill_s=1, engine_decode_s=1,
    )  # fmt: skip
    generation = Generation(
        prompt_tokens=8, evaluated_tokens=8, generated_tokens=2, finish_reason="length",
        timings=timings, problem=trouble,
    )  # fmt: skip
    return Record(
        run_id="r",
        trial=Trial(
            experiment="t", model="m", settings=Settings(**{"n_ctx": 512} | asked),
            workload=Workload(prompt_tokens=8, max_tokens=2),
        ),
        status="ok",
        started_at="2026-01-01T00:00:00+00:00",
        child_s=1.0,
        effective=Effective(**(IN_FORCE | real)),
        generations=[generation],
    )  # fmt: skip


def test_a_generation_proves_that_everything_was_evaluated() -> None:
    def found(**changes: int | None) -> str:
        counts: dict[str, Any] = {"prompt": 500, "prefix": 0, "cached": 0, "evaluated": 500,
                                  "asked": 50, "generated": 50}  # fmt: skip
        return str(problem(**(counts | changes)))

    assert found() == "None"
    assert found(asked=None, generated=7) == "None"
    assert found(prefix=400, cached=400, evaluated=100) == "None"
    assert "cold was asked, but llama.cpp evaluated 1 of the 500" in found(evaluated=1)
    assert "50 tokens were to be generated, 7 came" in found(generated=7)
    assert "cold was asked, but 12 tokens were in the KV cache" in found(cached=12)
    assert "a prefix of 400 tokens was asked, but 0" in found(prefix=400, evaluated=100)
    assert "evaluated 500 of the 100" in found(prefix=400, cached=400)


@pytest.mark.parametrize(
    ("asked", "real", "sentence"),
    [
        ({"n_batch": 1024}, {}, "n_batch=1024 was asked, 512 is in force (n_batch is limited to"),
        ({"n_ubatch": 256}, {}, "n_ubatch=256 was asked, 512 is in force"),
        ({"use_mlock": True}, {}, "use_mlock=True was asked, False is in force (the system locked"),
        ({"n_gpu_layers": 20}, {}, "n_gpu_layers=20 was asked, 0 is in force"),
        ({"n_gpu_layers": 20}, {"all_layers": 21}, "n_gpu_layers=20 was asked, 0 is in force"),
        ({"n_cpu_moe": 3}, {"n_cpu_moe": 0}, "n_cpu_moe=3 was asked, 0 is in force (the model has"),
        ({"swa_full": False}, {"swa_full": True}, "swa_full=False was asked, True is in force"),
        ({"op_offload": False}, {"op_offload": True}, "op_offload=False was asked, True is in"),
        ({"type_k": "q8_0"}, {}, "type_k=q8_0 was asked, f16 is in force"),
        ({"n_ctx": 1024}, {}, "n_ctx=1024 was asked, 512 is in force"),
    ],
)
def test_a_setting_that_is_not_in_force_makes_the_record_invalid(
    asked: dict[str, Any], real: dict[str, Any], sentence: str
) -> None:
    found = proven(record(asked, real), 0)
    assert found.status == "invalid"
    assert found.reason is not None
    assert found.reason.startswith(sentence)
    assert found.generations  # measured, and kept


@pytest.mark.parametrize(
    ("asked", "real"),
    [
        ({}, {}),
        ({"n_ctx": 300}, {}),  # padded to 512
        ({"n_gpu_layers": -1}, {}),  # as many as there can be
        ({"n_gpu_layers": 99}, {"all_layers": 21, "n_gpu_layers": 21}),  # the same
        ({"n_gpu_layers": 21}, {"all_layers": 21}),  # as -1 where there is no GPU
        ({"n_threads": 2}, {}),
        ({"flash_attn": True}, {"flash_attn": None}),  # llama.cpp does not say
        ({"flash_attn": "auto"}, {"flash_attn": False}),
        ({"n_cpu_moe": 99}, {"n_cpu_moe": 4}),  # more than there are: all
        ({"swa_full": False}, {"swa_full": None}),  # no layer has a window
    ],
)
def test_what_the_engine_may_choose_is_no_failure(
    asked: dict[str, Any], real: dict[str, Any]
) -> None:
    assert not_in_force(record(asked, real)) == []
    assert proven(record(asked, real), 0).status == "ok"


def test_a_failed_proof_of_a_generation_marks_record_and_row() -> None:
    found = proven(record({}, {}, trouble="cold was asked, but …"), 0)
    assert (found.status, found.reason) == ("invalid", "cold was asked, but …")
    assert [row["status"] for row in rows(found)] == ["invalid"]


@pytest.mark.parametrize(
    ("wanted", "share", "read_mib", "word"),
    [
        ("evicted", 0.0, 100, None),
        ("evicted", 0.0, None, None),
        ("evicted", 0.3, 100, "30% of the model file stayed in RAM"),
        ("evicted", 0.0, 12, "loading read 12 MiB of 100 MiB"),
        ("resident", 1.0, 0, None),
        ("resident", 0.6, 40, "only 60%"),
        ("resident", 1.0, 90, "loading read 90 MiB from the disk"),
        ("as_is", 0.5, 50, None),
    ],
)
def test_a_start_that_was_not_as_asked_is_told(
    wanted: PageCache, share: float, read_mib: int | None, word: str | None
) -> None:
    state = PageCacheState(in_force=wanted, resident_before=share)
    read = None if read_mib is None else read_mib * 2**20
    cause = wrong_start(wanted, state, read, 100 * 2**20)
    assert (cause is None) if word is None else (word in str(cause))


@pytest.mark.parametrize(
    ("asked", "pinned", "last", "words"),
    [
        (None, None, {"0-63": 9}, None),
        ((0, 2), "0,2", {"0,2": 8, "2": 1}, None),
        ((0, 2), "0,2", {"0,2": 8, "0-3": 1}, "is 0,2, and 1 thread could run on 0-3 (after last)"),
        ("physical", "0,2", {"0,2": 9}, None),
        ("physical", "0,2", {"1": 9}, "9 threads could run on 1"),
        ((0,), None, {}, "was not told"),
    ],
)
def test_a_thread_on_other_cpus_than_asked_is_no_proof(
    asked: Cores | None, pinned: str | None, last: dict[str, int], words: str | None
) -> None:
    one = record({}, {})
    trial = one.trial.model_copy(update={"start": Start(cores=asked)})
    affinity = Affinity(pinned=pinned, threads={"after_last": last} if last else {})
    found = proven(one.model_copy(update={"trial": trial, "affinity": affinity}), 0)
    assert found.status == ("invalid" if words else "ok")
    assert (words or "") in (found.reason or "")
