"""The cold start: plan, answers on made-up starts, the ledger as a figure, the real notebook."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from llm_latency.errors import ParameterError
from llm_latency.plan import loading
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Start
from llm_latency.plan.workload import Workload
from llm_latency.questions import cold_start
from llm_latency.records.record import PageCacheState, ProcessMemory, Record
from llm_latency.report.page import Rows
from tests.support import factories
from tests.support.pages import CarriedOut, plain, words

MIB = factories.MIB
ROOT = Path(__file__).parents[2]
INFO = factories.info(size_bytes=13 * MIB)
WORK = Workload(prompt_tokens=12, max_tokens=40, repeats=1)
Costs = dict[tuple[str, str], float]
DISK: Costs = {
    ("evicted", "mmap"): 0.20, ("evicted", "read"): 0.30, ("evicted", "mlock"): 0.25,
    ("resident", "mmap"): 0.05, ("resident", "read"): 0.10, ("resident", "mlock"): 0.05,
}  # fmt: skip


def starts(
    costs: Costs = DISK,
    *,
    rounds: int = 6,
    between: float = 0.004,
    first: float = 1.0,
    repeats: int = 1,
    imported: float | None = 0.1,
    failed: dict[tuple[str, str], factories.Failure] | None = None,
    in_force: str | None = None,
    twins: bool = True,
    late_bytes: int = 0,
) -> list[Record]:
    """Return a run's records; the model file takes ``costs`` seconds in each kind of start."""
    rng = np.random.default_rng(1)
    kinds = [(kind, False) for kind in costs]
    kinds += [(kind, True) for kind in costs if kind[1] == "mmap"] * twins
    made = []
    for number in range(rounds):
        for kind, twin in kinds:
            state, way = kind
            file_s = costs[kind] * float(np.exp(rng.normal(0, between)))
            read = 13 * MIB if state == "evicted" else 0
            phases = {"before": 0, "after_load": read, "after_first": read + late_bytes}
            made.append(
                factories.record(
                    Settings(**loading.READING[way]),
                    workload=WORK.model_copy(update={"repeats": repeats}),
                    start=Start(page_cache=state),
                    round=number,
                    twin=twin,
                    rng=rng,
                    first=first,
                    failure=(failed or {}).get(kind),
                    load={"import_s": imported, "model_load_s": file_s, "load_s": 0.02 + file_s},
                    more={
                        "page_cache": PageCacheState(in_force=in_force or state),
                        "memory": {
                            phase: ProcessMemory(
                                rss_bytes=100 * MIB,
                                read_bytes=size,
                                locked_bytes=13 * MIB * (way == "mlock"),
                            )
                            for phase, size in phases.items()
                        },
                    },
                )
            )
    return made


def frame(*given: Any, **options: Any) -> pd.DataFrame:
    return factories.to_frame(starts(*given, **options))


def view(*given: Any, info: dict[str, Any] = INFO, **options: Any) -> cold_start.View:
    return cold_start.View(Rows(frame(*given, **options), info))


def verdicts(seen: cold_start.View) -> dict[str, str]:
    """Return, by way of reading, whether a start from the disk is slower than one from RAM."""
    return {
        evicted.way: seen.compare("first_token_s", resident, evicted).verdict
        for resident, evicted in seen.pairs()
    }


# ------------------------------------------------------------------------------- the plan


def test_six_starts_and_a_twin_for_each_state() -> None:
    plan = cold_start.plan()
    kinds = {
        (c.start.page_cache, loading.reading_of(c.settings.use_mmap, c.settings.use_mlock))
        for c in plan.cells
    }
    assert kinds == set(DISK) and len(plan.cells) == 8
    twins = [cell for cell in plan.cells if cell.twin]
    assert {(cell.start.page_cache, cell.settings.use_mmap) for cell in twins} == {
        ("evicted", True),
        ("resident", True),
    }
    assert plan.rounds == 6
    assert "use_mmap" not in plan.parameters, (
        "the page must not name a setting that is not in force"
    )
    assert {(c.workload.prompt_tokens, c.workload.max_tokens) for c in plan.cells} == {(12, 40)}


def test_one_way_and_one_state() -> None:
    plan = cold_start.plan(reading="read", page_cache="resident", n_ctx=512)
    assert len(plan.cells) == 2
    assert not plan.cells[0].settings.use_mmap and not plan.cells[0].settings.use_mlock
    assert plan.cells[0].settings.n_ctx == 512


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"reading": "nmap"}, ["reading='nmap'", "did you mean 'mmap'", "mmap, read, mlock"]),
        ({"reading": ["mmap", 3]}, ["reading=3"]),
        ({"page_cache": "cold"}, ["page_cache='cold'", "evicted"]),
        ({"use_mmap": False}, ["use_mmap=False", "give reading"]),
        ({"use_mlock": True}, ["use_mlock=True", "give reading"]),
        ({"prompt_tokens": 0}, ["prompt_tokens=0"]),
        ({"max_tokens": "many"}, ["max_tokens='many'"]),
        ({"rounds": 0}, ["rounds=0"]),
    ],
)
def test_wrong_values_are_one_sentence(given: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ParameterError) as caught:
        cold_start.plan(**given)
    assert "\n" not in str(caught.value)
    for word in expected:
        assert word in str(caught.value)


# ------------------------------------------------------------------------------- the answer


def test_the_disk_is_told_from_ram() -> None:
    seen = view()
    assert verdicts(seen) == dict.fromkeys(("mmap", "read", "mlock"), "slower")
    extra = seen.difference("first_token_s", *seen.pairs()[0])
    assert extra.median == pytest.approx(0.150, abs=0.002) and extra.kind == "interval"
    answer = cold_start.answer(seen)
    assert answer.verdict == "slower" and len(answer.sentences) <= 5
    assert re.search(r"1(49|50|51) ms", plain(answer.text))


def test_a_disk_that_costs_nothing_is_not_said_to_cost() -> None:
    seen = view(dict.fromkeys(DISK, 0.1), between=0.0005)
    assert set(verdicts(seen).values()) == {"same"}
    assert cold_start.answer(seen).verdict == "same"


def test_noise_is_undecided() -> None:
    seen = view(dict.fromkeys(DISK, 0.3), between=0.5)
    assert set(verdicts(seen).values()) == {"undecided"}
    assert cold_start.answer(seen).verdict == "undecided"


def test_the_soonest_way_is_the_one_in_the_data() -> None:
    seen = view({**DISK, ("evicted", "read"): 0.1, ("evicted", "mlock"): 0.4})
    best, *others = seen.soonest("evicted")
    assert best.way == "read"
    assert {seen.compare("first_token_s", best, o).verdict for o in others} == {"slower"}
    best, other, _ = seen.soonest("resident")
    assert seen.compare("first_token_s", best, other).verdict != "slower", (
        "mmap and mlock are equal"
    )


def test_the_first_generation_against_the_second() -> None:
    later = [view(first=1.5).beyond_later("ttft_s", s) for s in view(first=1.5).measured]
    assert all(value.low > 0 for value in later)
    sooner = [view(first=0.5).beyond_later("ttft_s", s) for s in view(first=0.5).measured]
    assert all(value.high < 0 for value in sooner)
    alone = view(repeats=0)
    assert alone.beyond_later("ttft_s", alone.measured[0]).n == 0


def test_pages_that_come_late_are_seen() -> None:
    rows = cold_start.table(view(late_bytes=5 * MIB)).set_index("")
    assert set(rows.loc["read in the first generation, MiB"]) == {"5.00"}
    assert rows.loc["read while loading, MiB"].tolist() == ["13.0"] * 3 + ["0"] * 3


@pytest.mark.parametrize(
    ("options", "part", "seconds"),
    [
        ({}, "to the last token", 0.242),
        ({"costs": dict.fromkeys(DISK, 2.0), "between": 0.001}, "model file", 2.0),
        ({"imported": 0.9}, "import", 0.9),
    ],
)
def test_the_largest_part_is_that_of_the_data(
    options: dict[str, Any], part: str, seconds: float
) -> None:
    seen = view(**options)
    name, size_s = seen.largest_part(seen.measured[0])
    assert name == part and size_s == pytest.approx(seconds, rel=0.02)
    assert f"**{part}**" in cold_start.answer(seen).text


def test_too_few_rounds_are_undecided_and_say_so() -> None:
    answer = cold_start.answer(view(rounds=2))
    assert answer.verdict == "undecided" and answer.sure.startswith("2 paired rounds; 6")
    assert "95 % interval" not in plain(answer.text)


def test_without_a_twin_there_is_no_verdict() -> None:
    assert set(verdicts(view(twins=False)).values()) == {"undecided"}


def test_a_page_cache_that_cannot_be_controlled_is_said() -> None:
    seen = view(in_force="as_is")
    assert seen.uncontrolled == 36
    answer = cold_start.answer(seen)
    assert answer.verdict == "measured" and "**undecided**" in answer.text


def test_failed_starts_are_named_and_the_rest_stands() -> None:
    lost: dict[tuple[str, str], factories.Failure] = {
        ("evicted", "mlock"): ("refused", "no <b>luck</b>")
    }
    seen = view(failed=lost)
    assert set(verdicts(seen)) == {"mmap", "read"}
    table = cold_start.table(seen)
    assert table["evicted, mlock"].iloc[0] == "refused 6"
    assert set(table["evicted, mlock"].iloc[1:]) == {"–"}


def test_nothing_and_all_failed() -> None:
    nothing = cold_start.View(Rows(factories.to_frame([]), INFO))
    assert cold_start.answer(nothing).verdict == "none" and cold_start.table(nothing).empty
    every: dict[tuple[str, str], factories.Failure] = dict.fromkeys(DISK, ("crashed", "<b>"))
    answer = cold_start.answer(view(failed=every, rounds=1))
    assert answer.verdict == "none" and "<b>" not in answer.text


def test_one_state_or_one_way_alone() -> None:
    ram = {kind: cost for kind, cost in DISK.items() if kind[0] == "resident"}
    assert view(ram).pairs() == [] and cold_start.answer(view(ram)).verdict == "measured"
    alone = {kind: cost for kind, cost in DISK.items() if kind[1] == "mmap"}
    assert verdicts(view(alone)) == {"mmap": "slower"}


def test_missing_parts_are_not_taken_for_zero() -> None:
    seen = view(imported=None)
    assert seen.estimate("start_s", seen.measured[0]).n == 0
    assert "not measured" in cold_start.answer(seen).text


def test_names_of_models_are_escaped() -> None:
    info = factories.info(name="<script>*x*", size_bytes=MIB)
    assert "<script>" not in cold_start.answer(view(rounds=1, info=info)).text


def test_the_table_holds_every_start() -> None:
    table = cold_start.table(view())
    assert list(table.columns[1:]) == [f"{state}, {way}" for state, way in DISK]
    rows = table.set_index("")
    assert float(rows.loc["model file, ms", "evicted, read"]) == pytest.approx(300, rel=0.02)
    assert set(rows.loc["n"]) == {"6"} and rows.loc["load and TTFT, ms"].str.contains("]").all()
    assert rows.loc["locked, MiB", "resident, mlock"] == "13.0"
    assert rows.loc["locked, MiB", "resident, read"] == "0"
    assert "slower" in rows.loc["against the file in RAM", "evicted, mmap"]
    assert "warm-up, ms" not in rows.index


# ------------------------------------------------------------------------------- the figure


def bars(ax: Any, part: str) -> list[float]:
    return [bar.get_width() for c in ax.containers if c.get_label() == f"_{part}" for bar in c]


def test_parts_follow_each_other_to_the_whole() -> None:
    df = frame(between=0.0)
    ax = cold_start.figure(cold_start.View(Rows(df, INFO)))
    assert bars(ax, "model file") == pytest.approx([cost * 1e3 for cost in DISK.values()])
    assert bars(ax, "import") == pytest.approx([100.0] * 6)
    ledger = cold_start.View(Rows(df, INFO))
    for row, start in enumerate(ledger.measured):
        ends = [bars(ax, part)[row] for part in ledger.parts]
        assert sum(ends) == pytest.approx(ledger.estimate("start_s", start).median * 1e3)
    assert ax.get_xlim()[0] == 0
    text = words(ax.figure)
    for name in ("file on the disk", "file in RAM", "mmap", "read", "mlock", "prefill", "import"):
        assert name in text
    points = [c for c in ax.collections if c.get_label() == "_processes"]
    assert [len(c.get_offsets()) for c in points] == [6] * 6


def test_failed_starts_are_hatched_and_partly_failed_ones_said() -> None:
    lost: dict[tuple[str, str], factories.Failure] = {("evicted", "read"): ("oom", "no room")}
    made = starts(failed=lost)
    bad = starts({("resident", "mmap"): 0.1}, rounds=1, twins=False,
                 failed={("resident", "mmap"): ("timeout", "late")})  # fmt: skip
    bad[0] = bad[0].model_copy(update={"trial": bad[0].trial.model_copy(update={"round": 9})})
    ax = cold_start.figure(cold_start.View(Rows(factories.to_frame([*made, *bad]), INFO)))
    hatched = [patch for patch in ax.patches if patch.get_hatch()]
    assert len(hatched) == 1
    text = words(ax.figure)
    assert "oom 6" in text and "timeout 1" in text


ALL_LOST = frame(rounds=1, failed=dict.fromkeys(DISK, ("oom", "")))


@pytest.mark.parametrize("df", [factories.to_frame([]), ALL_LOST])
def test_nothing_is_a_sentence(df: pd.DataFrame) -> None:
    assert "Nothing was measured" in words(
        cold_start.figure(cold_start.View(Rows(df, INFO))).figure
    )


def test_axes_of_others_are_used() -> None:
    _, ax = plt.subplots()
    assert cold_start.figure(view(rounds=1), ax=ax) is ax


# ------------------------------------------------------------------------------- for real


@pytest.mark.notebook
@pytest.mark.engine
def test_the_notebook_and_its_report(carried_out: CarriedOut) -> None:
    df, page = carried_out(
        "cold_start", rounds=1, reading='["mmap", "mlock"]', max_tokens=4, n_ctx=512, n_threads=1
    )
    assert set(df["status"]) == {"ok"}, df["reason"].unique()
    assert len(df) == (2 * 2 + 2) * 2
    assert set(df["reading"]) == {"mmap", "mlock"}
    if sys.platform == "linux":
        read = df.groupby("page_cache")["read_bytes"].median()
        assert read["evicted"] > 10 * MIB > read["resident"]
    assert "The disk" in page
