"""Where is the memory, and does it fit?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import llm_latency as lab
from llm_latency.errors import ParameterError
from llm_latency.memory.predict import Prediction, predict
from llm_latency.model.header import read_header
from llm_latency.plan.settings import Settings
from llm_latency.questions import memory_ledger
from llm_latency.questions.memory_ledger import View
from llm_latency.records.record import Buffers, ProcessMemory, Record
from llm_latency.report.page import Rows
from tests.support import factories
from tests.support.pages import CarriedOut, plain, words

MIB = 2**20
LOADED = {"model_file": 100, "engine": 40, "heap": 10, "python": 20, "code": 30}
TOUCHED = {"engine": 20, "heap": 1}


@pytest.fixture
def header(tiny: Path) -> dict[str, Any]:
    return read_header(tiny).model_dump(mode="json")


def settings(n_ctx: int = 1024, n_ubatch: int = 512) -> Settings:
    return Settings(n_ctx=n_ctx, n_batch=512, n_ubatch=n_ubatch, n_gpu_layers=0)


def phases(grown: dict[str, int], told: bool = True) -> dict[str, ProcessMemory]:
    """Return a process that grows in some places during its first generation, and no more."""
    memory = {}
    for phase in ("after_load", "after_first", "after_last"):
        more = {} if phase == "after_load" else grown
        places = {k: (LOADED.get(k, 0) + more.get(k, 0)) * MIB for k in {*LOADED, *more}}
        memory[phase] = ProcessMemory(rss_bytes=sum(places.values()), places=places if told else {})
    return memory


def record(
    grown: dict[str, int],
    asked: Settings | None = None,
    predicted: Prediction | None = None,
    error: float = 1.0,
    told: bool = True,
    **options: Any,
) -> Record:
    """Return a process whose buffers, all but the KV cache, were predicted with some error."""
    more: dict[str, Any] = {"memory": phases(grown, told), "buffers": Buffers()}
    if predicted is not None:
        sizes = predicted.host.model_dump(exclude={"overhead_bytes"})
        exact = {"kv_bytes": sizes.pop("kv_bytes")}
        more["buffers"] = Buffers(**exact, **{k: round(v / error) for k, v in sizes.items()})
    return factories.record(asked or settings(), more=more, **options)


def view(records: list[Record], header: dict[str, Any] | None = None, budget: str = "") -> View:
    info = factories.info() | {"header": header}
    info["plan"]["parameters"]["budget"] = budget
    return View(Rows(factories.to_frame(records), info))


def said(made: View) -> str:
    return plain(memory_ledger.answer(made).text).replace("**", "")


def test_the_plan() -> None:
    plan = memory_ledger.plan(budget="+20 MiB")
    cells = [cell for cell in plan.cells if not cell.twin]
    assert [(c.settings.n_ctx, c.settings.n_ubatch) for c in cells] == [
        (1024, 128), (1024, 512), (4096, 128), (4096, 512),
    ]  # fmt: skip
    assert {(c.workload.prompt_tokens, c.start.page_cache) for c in cells} == {(600, "resident")}


@pytest.mark.parametrize("budget", ["much", "-3", ["6 GiB", "8 GiB"]])
def test_a_budget_that_is_no_size_is_refused(budget: Any) -> None:
    with pytest.raises(ParameterError, match="budget="):
        memory_ledger.plan(budget=budget)


@pytest.mark.parametrize("error", [1.0, 1.25, 0.8])
def test_the_prediction_is_held_against_what_was_allocated(
    header: dict[str, Any], tiny: Path, error: float
) -> None:
    right = predict(read_header(tiny), settings())
    (one,) = view([record(TOUCHED, predicted=right, error=error)], header).ledgers
    kv = right.host.kv_bytes
    assert one.predicted["KV cache"] == one.allocated["KV cache"] == kv
    others = right.host.total_bytes - kv
    assert one.ratio == pytest.approx((others + kv) / (others / error + kv), rel=1e-6)


def test_the_answer_names_the_furthest_prediction(header: dict[str, Any], tiny: Path) -> None:
    right = {n: predict(read_header(tiny), settings(n)) for n in (1024, 4096)}
    cells = [record(TOUCHED, settings(n), right[n], {1024: 1.0, 4096: 0.8}[n]) for n in right]
    made = view(cells, header)
    furthest = max(abs(one.ratio - 1) for one in made.ledgers)
    assert 0.1 < furthest < 0.2
    text = said(made)
    assert f"within {furthest * 100:.0f} %" in text and "the KV cache exactly" in text


def test_without_a_header_nothing_is_foretold(header: dict[str, Any]) -> None:
    cell = [record(TOUCHED)]
    for made in (
        view(cell, None, "6 GiB"),
        view(cell, header | {"architecture": "mamba"}, "6 GiB"),
    ):
        assert made.ledgers[0].predicted == {} and made.fits == {}
        assert "is not foretold" in said(made)
        table = memory_ledger.table(made).set_index("")[made.ledgers[0].cell]
        assert table["KV cache, MiB"] == "not foretold / –"
        assert table["largest n_ctx that fits"] == "not foretold"


def test_what_the_first_generation_adds_is_told_where_it_is(header: dict[str, Any]) -> None:
    made = view([record(TOUCHED, round=round) for round in range(6)], header)
    (one,) = made.ledgers
    assert one.growth().median == 21 * MIB and one.growth().n == 6
    assert [one.growth(place).median for place in ("engine", "heap")] == [20 * MIB, MIB]
    assert one.growth(first="after_first").median == 0
    assert one.resident("after_first")["engine"] == 60 * MIB
    assert one.resident("after_last")["work_space"] == 0
    assert "20.0 MiB in the engine's buffers and 1.00 MiB in small pieces (heap)" in said(made)
    assert made.beside() == [61 * MIB]


def test_the_cell_that_grows_most_is_told(header: dict[str, Any]) -> None:
    cells = [record({"engine": 4}, settings(1024)), record({"model_file": 433}, settings(4096))]
    text = said(view(cells, header))
    assert "433 MiB in pages of the model's file" in text and "n_ctx 4096" in text


def test_a_first_generation_may_add_nothing(header: dict[str, Any]) -> None:
    assert "adds nothing" in said(view([record({})], header))


def test_a_system_that_tells_no_places_still_tells_the_whole(header: dict[str, Any]) -> None:
    made = view([record(TOUCHED, told=False)], header)
    (one,) = made.ledgers
    assert one.resident("after_first") == {} and one.growth().median == 21 * MIB
    assert "the system does not tell" in said(made)
    drawn = memory_ledger.figure(made)
    assert [label.get_text() for label in drawn.get_yticklabels()] == ["predicted"]


def test_a_budget_bears_python_too(header: dict[str, Any], tiny: Path) -> None:
    cells = [record(TOUCHED, settings(n)) for n in (1024, 4096)]
    assert view(cells, header).fits == {}
    needs = [predict(read_header(tiny), settings(n)).total_bytes for n in (1024, 4096)]
    between = 61 + (needs[0] + needs[1]) // 2 // MIB
    made = view(cells, header, f"{between} MiB")
    small, large = (made.fits[one.cell] for one in made.ledgers)
    assert small.fits and not large.fits
    assert small.margin_bytes == (between - 61) * MIB - needs[0]
    assert small.largest_n_ctx is not None and 1024 <= small.largest_n_ctx < 4096
    assert "1 of 2 cells fit" in said(made)
    # A share is of the model's file, whose size the run knows.
    (fit,) = view(cells[:1], header, "150 %").fits.values()
    assert fit.budget_bytes == (150 - 61) * MIB


def test_on_a_gpu_the_budget_is_its_own(header: dict[str, Any], tiny: Path) -> None:
    asked = Settings(n_ctx=1024, n_batch=512, n_ubatch=512)
    made = view([record(TOUCHED, asked, gpu=True)], header, "1 GiB")
    (fit,) = made.fits.values()
    assert (fit.on, fit.budget_bytes) == ("gpu", 1024 * MIB)
    assert fit.parts == predict(read_header(tiny), asked, gpu=True).gpu
    assert "1,024 MiB of VRAM" in said(made)


def test_nothing_measured_and_all_failed(header: dict[str, Any]) -> None:
    nothing = View(Rows(factories.to_frame([]), {}))
    failed = view([record({}, failure=("oom", "no room"))], header, "6 GiB")
    for made in (nothing, failed):
        assert memory_ledger.answer(made).verdict == "none"
        assert "Nothing was measured" in words(memory_ledger.figure(made))
    assert len(memory_ledger.table(nothing)) == 0
    (fit,) = failed.fits.values()
    assert fit.fits


def test_a_cell_that_failed_is_still_predicted(header: dict[str, Any], tiny: Path) -> None:
    right = predict(read_header(tiny), settings())
    oom = record({}, settings(4096), failure=("oom", "no room"))
    made = view([record(TOUCHED, predicted=right), oom], header)
    assert [len(one.processes) for one in made.ledgers] == [1, 0]
    assert made.ledgers[1].predicted["KV cache"] == 4 * right.host.kv_bytes
    drawn = memory_ledger.figure(made)
    labels = [label.get_text() for label in drawn.get_yticklabels()]
    assert labels == [
        "predicted", "allocated", "resident, loaded", "resident, first answer",
        "resident, last answer", "predicted", "measured",
    ]  # fmt: skip
    assert {"200", "221", "oom 1"} <= {text.get_text() for text in drawn.texts}


def test_of_many_cells_the_first_and_the_last_are_drawn(header: dict[str, Any]) -> None:
    made = view([record(TOUCHED, settings(n)) for n in (512, 1024, 2048, 3072, 4096)], header)
    text = words(memory_ledger.figure(made))
    assert "n_ctx 512" in text and "n_ctx 4096" in text and "n_ctx 2048" not in text
    assert "in the table: 3" in text


@pytest.mark.engine
def test_a_real_run_is_predicted(outputs: Path) -> None:
    plan = memory_ledger.plan(n_ctx=1024, n_ubatch=[64, 512], prompt_tokens=520, rounds=1)
    made = View(lab.run(plan, progress=False))
    assert len(made.measured) == 2
    for one in made.measured:
        assert 0.97 < one.ratio < 1.03
        assert one.predicted["KV cache"] == pytest.approx(one.allocated["KV cache"], abs=6000)
    small, large = made.measured
    assert large.growth("engine").median > 2 * small.growth("engine").median


@pytest.mark.engine
def test_the_notebook(carried_out: CarriedOut) -> None:
    rows, page = carried_out("memory_ledger", n_ctx=512, n_ubatch=128, prompt_tokens=200, rounds=1)
    assert set(rows["status"]) == {"ok"}
    assert "the KV cache exactly" in page
