"""The largest context that truly works, by bisection, against trying them all."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llm_latency as lab
from llm_latency.errors import LabError, ParameterError
from llm_latency.machine import devices, memory_cap, vram_ballast
from llm_latency.measure.trial import carry_out
from llm_latency.memory import frontier
from llm_latency.memory.dry_run import foretelling
from llm_latency.model.header import read_header
from llm_latency.plan.settings import PADDING, Settings
from llm_latency.records.record import Status
from tests.measure.test_runner import another_run
from tests.support import factories, jobs
from tests.support.cuda_library import CONTEXT
from tests.support.factories import FakeWorker, SecondDevice


@given(st.integers(1, 400), st.integers(-5, 500), st.integers(0, 401))
def test_the_edge_is_found_with_few_questions(most: int, guess: int, edge: int) -> None:
    edge = min(edge, most)
    asked: list[int] = []

    def works(steps: int) -> bool:
        asked.append(steps)
        return steps <= edge

    assert frontier.search(works, guess, most) == (edge or None)
    assert len(set(asked)) == len(asked)
    assert set(asked) <= set(range(1, most + 1))
    assert len(asked) <= 2 * math.ceil(math.log2(most + 1)) + 2


@pytest.mark.parametrize("edge", [5, 40, 128])
def test_a_good_guess_needs_two_probes(edge: int) -> None:
    asked: list[int] = []

    def works(steps: int) -> bool:
        asked.append(steps)
        return steps <= edge

    frontier.search(works, edge, 128)
    assert len(asked) <= 2


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"most": 100}, "most=100"),
        ({"most": "many"}, "most='many'"),
        ({"memory_limit": "much"}, "memory_limit='much'"),
        ({"n_ubatch": -1}, "n_ubatch=-1"),
        ({"n_batch": [512, 2048], "most": 1024}, "n_batch=2048 is refused"),
    ],
)
def test_wrong_parameters_are_refused_at_once(given_: dict[str, object], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        frontier.plan(**given_)  # type: ignore[arg-type]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card of 24 GiB that is only counted."""
    found = devices.GpuCard(available=True, name="Test", total_bytes=24 << 30)
    monkeypatch.setattr(devices, "gpu_card", lambda: found)
    script = Path(__file__).parents[1] / "support" / "cuda_library.py"
    monkeypatch.setattr(vram_ballast, "COMMAND", (sys.executable, str(script), f"total={24 << 30}"))


@pytest.mark.usefixtures("outputs", "card")
def test_probes_on_a_gpu_run_under_a_ballast(fake_worker: FakeWorker) -> None:
    fake_worker("answers_up_to", n_ctx=1024, gpu_offload=True)
    plan = frontier.plan(leave_vram="6 GiB", most=2048, run_id="f")
    assert plan.parameters["leave_vram"] == "6 GiB"
    store = lab.run(plan, progress=False)
    (row,) = frontier.found(store.records()).to_dict("records")
    assert (row["n_ctx"], row["fails_at"]) == (1024, 1280)
    for record in store.records():
        assert record.trial.start.leave_vram_bytes == 6 << 30
        assert record.vram.ballast_bytes == (18 << 30) - CONTEXT
    assert set(store.frame()["leave_vram_bytes"]) == {6 << 30}
    assert set(store.frame()["vram_ballast_bytes"]) == {(18 << 30) - CONTEXT}
    assert not devices.OURS
    # What a card has is part of what is measured.
    other = frontier.plan(most=2048)
    assert other.cells[0].cell_id != plan.cells[0].cell_id


@pytest.mark.usefixtures("outputs")
def test_a_context_smaller_than_the_batch_is_not_tried(fake_worker: FakeWorker) -> None:
    fake_worker("answers_up_to", n_ctx=256)
    store = lab.run(frontier.plan(n_batch=512, most=2048, run_id="f"), progress=False)
    (row,) = frontier.found(store.records()).to_dict("records")
    assert row["n_ctx"] is None and (row["fails_at"], row["status"]) == (512, "oom")
    assert min(record.trial.settings.n_ctx for record in store.records()) == 512


@pytest.mark.parametrize(
    ("ends", "verdict", "n_ctx", "fails_at"),
    [
        ({512: "ok", 1024: "oom", 2048: "oom"}, "found", 512, 1024),
        ({512: "ok", 1024: "ok"}, "found", 1024, None),
        ({512: "oom", 1024: "crashed"}, "none", None, 512),
        ({512: "ok", 1024: "timeout", 2048: "oom"}, "undecided", 512, None),
        ({512: "invalid", 1024: "invalid"}, "undecided", None, None),
        ({512: "timeout", 1024: "oom"}, "undecided", None, None),
    ],
)
def test_what_was_not_proven_is_undecided_and_no_failure(
    ends: dict[int, Status], verdict: str, n_ctx: int | None, fails_at: int | None
) -> None:
    records = [
        factories.record(Settings(n_ctx=at), failure=None if end == "ok" else (end, "why"))
        for at, end in ends.items()
    ]
    (row,) = frontier.found(records).to_dict("records")
    assert (row["verdict"], row["n_ctx"], row["fails_at"]) == (verdict, n_ctx, fails_at)


@pytest.mark.usefixtures("outputs", "card")
def test_vram_is_not_left_to_an_engine_without_a_gpu(fake_worker: FakeWorker) -> None:
    fake_worker("answers_up_to", n_ctx=1024, gpu_offload=False)
    plan = frontier.plan(leave_vram="6 GiB", most=2048, run_id="f")
    with pytest.raises(LabError, match=r"CPU alone.*bootstrap\.py --engine cuda"):
        lab.run(plan, progress=False)


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"leave_vram": "6 GiB", "n_gpu_layers": 0}, r"n_gpu_layers=0.*leave_vram.*memory_limit"),
        ({"leave_vram": "some"}, r"leave_vram='some' is not a size"),
    ],
)
def test_vram_that_cannot_be_left_is_refused(given_: dict[str, object], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        frontier.plan(**given_)  # type: ignore[arg-type]


@pytest.mark.usefixtures("card")
def test_more_vram_than_the_card_has_is_refused_before_anything_is_loaded(outputs: Path) -> None:
    plan = frontier.plan(leave_vram="24 GiB")  # a plan looks at no machine
    with pytest.raises(ParameterError, match=r"'24 GiB'.*Test has 24,576 MiB in all"):
        lab.run(plan, progress=False)
    assert not outputs.exists()


def test_without_a_card_no_vram_is_left(monkeypatch: pytest.MonkeyPatch, outputs: Path) -> None:
    monkeypatch.setattr(
        devices, "gpu_card", lambda: devices.GpuCard(available=False, why="no card here")
    )
    with pytest.raises(ParameterError, match=r"leave_vram='6 GiB' is refused: no card here"):
        lab.run(frontier.plan(leave_vram="6 GiB"), progress=False)
    assert not outputs.exists()


@pytest.mark.usefixtures("card")
def test_the_search_begins_with_what_should_fit_into_vram(
    monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    (cell,) = frontier.plan(str(tiny), leave_vram="64 MiB", most=8192).cells
    (more,) = frontier.plan(str(tiny), leave_vram="80 MiB", most=8192).cells
    assert 256 < frontier.guess(cell) < frontier.guess(more) < 8192
    asked = cell.settings.model_copy(update={"n_ctx": frontier.guess(cell)})
    with foretelling(tiny, read_header(tiny), "gpu") as foretell:
        need = foretell(asked)
    assert need.gpu.total_bytes <= 64 << 20
    assert need.gpu.total_bytes + (2 << 20) > 64 << 20


@pytest.mark.engine
@pytest.mark.skipif(not memory_cap._places(2**28), reason="no cgroup can be made here")
def test_the_frontier_under_a_cap_is_that_of_trying_all(outputs: object) -> None:
    with memory_cap.limited(2**27) as limiter:
        if not limiter.join:
            pytest.skip("no cgroup can be made here")
    plan = frontier.plan(
        memory_limit="42 MiB", most=8192, n_batch=64, n_ubatch=64, n_threads=1, run_id="f",
        # A mapped file gives way when memory is short: slowly, and not at an edge.
        use_mmap=False, type_k="f32", type_v="f32",
    )  # fmt: skip
    store = lab.run(plan, progress=False)
    (row,) = frontier.found(store.records()).to_dict("records")
    assert row["n_ctx"] and row["fails_at"] == row["n_ctx"] + 256
    assert row["status"] == "oom"
    assert row["probes"] <= 0.25 * (8192 // 256)
    # Each was a process that filled its window.
    for record in store.records():
        assert record.trial.workload.prompt_tokens == record.trial.settings.n_ctx - 4
    # Again: nothing is tried twice.
    before = len(store.records())
    assert len(lab.run(plan, progress=False).records()) == before


@pytest.mark.engine
def test_the_frontier_on_a_device_is_that_of_trying_all(
    tmp_path: Path, outputs: Path, second_device: SecondDevice
) -> None:
    second_device(64 << 20)
    plan = frontier.plan(n_gpu_layers=-1, n_batch=768, n_ubatch=768, most=2304, run_id="f")
    records = lab.run(plan, progress=False).records()
    (row,) = frontier.found(records).to_dict("records")
    works = {record.trial.settings.n_ctx: record.status for record in records}
    for n_ctx in set(range(768, 2304 + 1, PADDING)) - set(works):  # the search went by them
        probe = frontier.probe(plan.cells[0], n_ctx)
        works[n_ctx] = carry_out(jobs.job(tmp_path, probe)).status
    assert set(works.values()) == {"ok", "oom"}
    assert row["n_ctx"] == max(n_ctx for n_ctx, status in works.items() if status == "ok")
    assert row["fails_at"] == min(n_ctx for n_ctx, status in works.items() if status == "oom")
    assert row["fails_at"] == row["n_ctx"] + PADDING


def test_a_frontier_waits_its_turn_and_a_known_one_is_only_drawn(
    tiny: Path, outputs: Path, fake_worker: FakeWorker
) -> None:
    fake_worker("answers")
    plan = frontier.plan(str(tiny), most=1024, run_id="f")
    with another_run(), pytest.raises(LabError, match="run 'theirs' is at work"):
        lab.run(plan, progress=False)
    assert not outputs.exists()
    made = lab.run(plan, progress=False)
    (row,) = frontier.found(made.records()).to_dict("records")
    assert row["n_ctx"] == 1024
    with another_run():
        assert lab.run(plan, progress=False).records() == made.records()
