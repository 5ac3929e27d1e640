"""The cold start: plan, answers on made-up starts, the ledger as a figure, the real notebook."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from llm_latency import answers, experiments, plots
from llm_latency.errors import ParameterError
from llm_latency.plan import loading
from llm_latency.plan.spec import Settings, Start, Workload
from llm_latency.records.record import PageCacheState, ProcessMemory, Record
from llm_latency.views.start_ledger import StartLedger
from tests.support import factories
from tests.support.pages import CarriedOut, words

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
                    Settings(**loading.WAYS[way]),
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


def said(df: pd.DataFrame, info: dict[str, Any] = INFO) -> str:
    text = str(answers.cold_start(df, info).data)
    return html.unescape(text).replace("\N{NO-BREAK SPACE}", " ")


# ------------------------------------------------------------------------------- the plan


def test_six_starts_and_a_twin_for_each_state() -> None:
    plan = experiments.cold_start()
    kinds = {
        (c.start.page_cache, loading.name_of(c.settings.use_mmap, c.settings.use_mlock))
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
    plan = experiments.cold_start(reading="read", page_cache="resident", n_ctx=512)
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
        experiments.cold_start(**given)
    assert "\n" not in str(caught.value)
    for word in expected:
        assert word in str(caught.value)


# ------------------------------------------------------------------------------- the answer


def test_the_disk_is_told_from_ram() -> None:
    text = said(frame())
    assert re.search(r"\*\*mmap\*\*: the disk's part is 1(49|50|51) ms \(95 % interval", text)
    assert text.count(": **slower**") >= 6, "loading, and loading with TTFT, three ways"
    assert "With the file on the disk a start takes **57" in text
    assert re.search(r"largest part is \*\*to the last token\*\*, 24\d ms", text)
    assert "with the file on the disk 13.0 MiB while loading and nothing in the first" in text
    assert "with the file in RAM nothing while loading" in text


def test_a_disk_that_costs_nothing_is_not_said_to_cost() -> None:
    same = dict.fromkeys(DISK, 0.1)
    text = said(frame(same, between=0.0005))
    assert "**slower**" not in text and "**faster**" not in text
    assert text.count(": **same**") >= 6
    assert "None is sooner than the others" in text


def test_noise_is_undecided() -> None:
    text = said(frame(dict.fromkeys(DISK, 0.3), between=0.5))
    assert "**undecided**" in text and "Whether it is the soonest is undecided" in text
    assert ": **slower**" not in text


def test_the_soonest_way_is_the_one_in_the_data() -> None:
    turned = {**DISK, ("evicted", "read"): 0.1, ("evicted", "mlock"): 0.4}
    text = said(frame(turned))
    assert re.search(r"file on the disk: \*\*read\*\*, first token 1\d\d ms", text)
    line = next(line for line in text.splitlines() if line.startswith("- file on the disk"))
    assert "**It is the soonest.**" in line and line.count("**slower**") == 2
    line = next(line for line in text.splitlines() if line.startswith("- file in RAM"))
    assert "soonest.**" not in line, "mmap and mlock are equal there"


def test_the_first_generation_against_the_second() -> None:
    text = said(frame(first=1.5))
    assert re.search(r"first generation\*\* waits for its first token \S+ ms longer than", text)
    assert "it waits **longer in 6 of 6 starts**" in text
    quick = said(frame(first=0.5))
    assert "shorter than the next ones" in quick and "shorter in 6" in quick
    assert "longer in 0 of 6 starts" in quick
    assert "Each process generated once" in said(frame(repeats=0))


def test_pages_that_come_late_are_seen() -> None:
    assert "nothing while loading and 5.00 MiB in the first" in said(frame(late_bytes=5 * MIB))


def test_the_largest_part_is_that_of_the_data() -> None:
    heavy = dict.fromkeys(DISK, 2.0)
    assert "largest part is **model file**, 2,0" in said(frame(heavy, between=0.001))
    assert "largest part is **import**, 900 ms" in said(frame(imported=0.9))
    assert "**import** in 6 of 6 starts" in str(
        answers.cold_start_reading(frame(imported=0.9)).data
    )


def test_too_few_rounds_are_undecided_and_say_so() -> None:
    text = said(frame(rounds=2))
    assert "2 paired rounds; 6 are the fewest for a verdict" in text
    assert "With fewer than six processes this is **undecided**" in text
    assert ": **slower**" not in text and "95 % interval" not in text


def test_without_a_twin_there_is_no_verdict() -> None:
    text = said(frame(twins=False))
    assert "no cell was measured twice" in text and ": **slower**" not in text


def test_a_page_cache_that_cannot_be_controlled_is_said() -> None:
    text = said(frame(in_force="as_is"))
    assert "What the disk does is undecided" in text and "36 of 36 processes" in text
    assert "the disk's part is" not in text


def test_failed_starts_are_named_and_the_rest_stands() -> None:
    lost: dict[tuple[str, str], factories.Failure] = {
        ("evicted", "mlock"): ("refused", "no <b>luck</b>")
    }
    df = frame(failed=lost)
    text = said(df)
    assert "1 of 6 cells failed" in text and "refused 6" in text
    assert "- **mlock**: the disk's part" not in text and "- **mmap**: the disk's part" in text
    table = answers.cold_start_table(df)
    assert table["evicted, mlock"].iloc[0] == "refused 6"
    assert set(table["evicted, mlock"].iloc[1:]) == {"–"}


def test_nothing_and_all_failed() -> None:
    assert "Nothing has been measured yet" in said(pd.DataFrame())
    every: dict[tuple[str, str], factories.Failure] = dict.fromkeys(DISK, ("crashed", "<b>"))
    df = frame(failed=every, rounds=1)
    assert "No cell could be measured" in said(df)
    assert "<b>" not in str(answers.cold_start(df, INFO).data)
    assert not re.search(r"\d", str(answers.cold_start_reading(df).data))
    assert answers.cold_start_table(pd.DataFrame()).empty


def test_one_state_or_one_way_alone() -> None:
    ram = {kind: cost for kind, cost in DISK.items() if kind[0] == "resident"}
    text = said(frame(ram))
    assert "What of it is the disk is **undecided**" in text and "on the disk a start" not in text
    alone = {kind: cost for kind, cost in DISK.items() if kind[1] == "mmap"}
    assert said(frame(alone)).count("no other way was measured") == 2


def test_missing_parts_are_not_taken_for_zero() -> None:
    df = frame(imported=None)
    assert "not every part of a start could be measured" in said(df)
    assert "nothing to read here" in str(answers.cold_start_reading(df).data)


def test_names_of_models_are_escaped() -> None:
    info = factories.info(name="<script>*x*", size_bytes=MIB)
    assert "<script>" not in str(answers.cold_start(frame(rounds=1), info).data)


def test_the_table_holds_every_start() -> None:
    table = answers.cold_start_table(frame())
    assert list(table.columns[1:]) == [f"{state}, {way}" for state, way in DISK]
    rows = table.set_index("")
    assert float(rows.loc["model file, ms", "evicted, read"]) == pytest.approx(300, rel=0.02)
    assert rows.loc["read while loading, MiB", "evicted, mmap"] == "13.0"
    assert set(rows.loc["n"]) == {"6"} and rows.loc["load and TTFT, ms"].str.endswith("]").all()
    assert rows.loc["locked, MiB", "resident, mlock"] == "13.0"
    assert rows.loc["locked, MiB", "resident, read"] == "0"
    assert "warm-up, ms" not in rows.index


# ------------------------------------------------------------------------------- the figure


def bars(ax: Any, part: str) -> list[float]:
    return [bar.get_width() for c in ax.containers if c.get_label() == f"_{part}" for bar in c]


def test_parts_follow_each_other_to_the_whole() -> None:
    df = frame(between=0.0)
    ax = plots.cold_start(df)
    assert bars(ax, "model file") == pytest.approx([cost * 1e3 for cost in DISK.values()])
    assert bars(ax, "import") == pytest.approx([100.0] * 6)
    ledger = StartLedger(df)
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
    ax = plots.cold_start(factories.to_frame([*made, *bad]))
    hatched = [patch for patch in ax.patches if patch.get_hatch()]
    assert len(hatched) == 1
    text = words(ax.figure)
    assert "oom 6" in text and "resident, mmap (ok 6, timeout 1)" in text.replace("\n", " ")


ALL_LOST = frame(rounds=1, failed=dict.fromkeys(DISK, ("oom", "")))


@pytest.mark.parametrize("df", [pd.DataFrame(), ALL_LOST])
def test_nothing_is_a_sentence(df: pd.DataFrame) -> None:
    assert "Nothing was measured" in words(plots.cold_start(df).figure)


def test_axes_of_others_are_used() -> None:
    _, ax = plt.subplots()
    assert plots.cold_start(frame(rounds=1), ax=ax) is ax


# ------------------------------------------------------------------------------- for real


@pytest.mark.notebook
@pytest.mark.engine
def test_the_notebook_and_its_report(carried_out: CarriedOut) -> None:
    df, page = carried_out(
        "cold_start", rounds=1, reading='["mmap", "mlock"]', max_tokens=4, n_ctx=512, n_threads=1
    )
    assert set(df["status"]) == {"ok"}, df["reason"].unique()
    assert len(df) == (2 * 2 + 2) * 2
    assert set(loading.names(df)) == {"mmap", "mlock"}
    if sys.platform == "linux":
        read = df.groupby("page_cache")["read_bytes"].median()
        assert read["evicted"] > 10 * MIB > read["resident"]
    assert "The disk" in page
