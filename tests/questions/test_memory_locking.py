"""Locking: plan and limits in words, answers on made-up processes, figure, the real notebook."""

from __future__ import annotations

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
from llm_latency.questions import memory_locking
from llm_latency.questions.memory_locking import Kind
from llm_latency.records.record import Buffers, MemoryLimit, ProcessMemory, Record
from llm_latency.report.page import Rows
from tests.support import factories
from tests.support.pages import CarriedOut, words

MIB = factories.MIB
INFO = factories.info(size_bytes=13 * MIB)
WORK = Workload(prompt_tokens=64, max_tokens=32, repeats=3)
KILLED = "killed by the system: it needed more than its limit of 34 MiB, in phase '{}'; log: x.log"
Where = tuple[int | None, str]
KINDS: tuple[Where, ...] = tuple((limit, way) for limit in (None, 34) for way in loading.READING)
OOM: dict[Where, factories.Failure] = {
    (34, "read"): ("oom", KILLED.format("load")),
    (34, "mlock"): ("oom", KILLED.format("generation 0")),
}


def processes(
    kinds: tuple[Where, ...] = KINDS,
    *,
    rounds: int = 6,
    between: float = 0.004,
    factors: dict[Where, float] | None = None,
    spreads: dict[Where, float] | None = None,
    failed: dict[Where, factories.Failure] | None = None,
    locked: int | None = 100 * MIB,
    faults: dict[Where, int] | None = None,
    by: str | None = "cgroup",
    twin: bool = True,
    repeats: int = 3,
    busy: float = 0.0,
    seed: int = 1,
) -> list[Record]:
    """Return a run's records; ``factors`` slow a kind down, ``spreads`` scatter its tokens."""
    rng = np.random.default_rng(seed)
    made = []
    every = [(kind, False) for kind in kinds] + [(kinds[0], True)] * twin
    for number in range(rounds):
        for kind, again in every:
            limit, way = kind
            held = {"rss_bytes": 100 * MIB, "locked_bytes": (locked if way == "mlock" else 0)}
            failure = (failed or {}).get(kind)
            told = {} if failure and "'load'" in failure[1] else {
                "before": ProcessMemory(**held, major_faults=0),
                "after_load": ProcessMemory(**held, major_faults=0),
                "after_last": ProcessMemory(**held, major_faults=(faults or {}).get(kind, 0)),
            }  # fmt: skip
            size = limit * MIB if limit else None
            held_by = MemoryLimit(asked_bytes=size, by=by, peak_bytes=size) if size else None  # type: ignore[arg-type]
            more = {
                "memory": told,
                "memory_limit": held_by,
                "buffers": Buffers(weights_bytes=100 * MIB) if told else Buffers(),
            }
            record = factories.record(
                Settings(**loading.READING[way]),
                workload=WORK.model_copy(update={"repeats": repeats}),
                start=Start(page_cache="evicted" if limit else "resident", memory_limit_bytes=size),
                round=number,
                twin=again,
                rng=rng,
                factor=(factors or {}).get(kind, 1.0) * float(np.exp(rng.normal(0, between))),
                within=(spreads or {}).get(kind, 0.01),
                failure=failure,
                other=busy if limit is None else 0.9,
            )
            made.append(record.model_copy(update=more))
    return made


def frame(*given: Any, **options: Any) -> pd.DataFrame:
    return factories.to_frame(processes(*given, **options))


def seen_in(df: pd.DataFrame) -> memory_locking.View:
    return memory_locking.View(Rows(df, INFO))


def view(*given: Any, **options: Any) -> memory_locking.View:
    return seen_in(frame(*given, **options))


ENOUGH = {way: Kind("no limit", way) for way in loading.READING}
SHORT = {way: Kind("34 MiB", way) for way in loading.READING}


def verdict(seen: memory_locking.View, column: str) -> str:
    return seen.compare(column, ENOUGH["mmap"], ENOUGH["mlock"]).verdict


# ------------------------------------------------------------------------------- the plan


def test_three_ways_with_and_without_a_limit(tiny: Path) -> None:
    plan = memory_locking.plan()
    assert len(plan.cells) == 3 * 2 + 1 and plan.rounds == 6
    for cell in plan.cells:
        limited = cell.start.memory_limit_bytes is not None
        assert cell.start.page_cache == ("evicted" if limited else "resident")
    (limit,) = {c.start.memory_limit_bytes for c in plan.cells} - {None}
    size = tiny.stat().st_size
    assert 0.97 * size < limit - 20 * MIB <= size
    (twin,) = [cell for cell in plan.cells if cell.twin]
    assert twin.start.memory_limit_bytes is None and twin.settings.use_mmap
    assert plan.timeout_s == 60, "a process that thrashes must end"
    assert plan.parameters["memory_limit"] == ["none", "+20 MiB"]


def test_the_twin_has_the_most_memory_of_all() -> None:
    plan = memory_locking.plan(memory_limit=["64 MiB", "1 GiB"], reading=["read", "mmap"])
    (twin,) = [cell for cell in plan.cells if cell.twin]
    assert twin.start.memory_limit_bytes == 2**30 and not twin.settings.use_mmap


def test_equal_limits_in_other_words_are_one() -> None:
    plan = memory_locking.plan(memory_limit=["65536 KiB", "64 MiB"], reading="mmap")
    assert len(plan.cells) == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"memory_limit": "64"}, ["memory_limit=64", "16 MiB at least"]),
        ({"memory_limit": "little"}, ["memory_limit='little'", "'110 %'"]),
        ({"memory_limit": ["none", "1 MiB"]}, ["memory_limit='1 MiB'", "16 MiB at least"]),
        ({"memory_limit": "100 %"}, ["memory_limit='100 %'", "13", "16 MiB at least"]),
        ({"memory_limit": "50 %", "model": "hf:a/b/c.gguf"}, ["before it is fetched", "'4 GiB'"]),
        ({"memory_limit": []}, ["memory_limit=[]"]),
        ({"reading": "lock"}, ["reading='lock'", "mlock"]),
        ({"use_mlock": True}, ["use_mlock=True", "give reading"]),
        ({"timeout_s": 0}, ["timeout_s=0"]),
    ],
)
def test_wrong_values_are_one_sentence(given: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ParameterError) as caught:
        memory_locking.plan(**given)
    assert "\n" not in str(caught.value)
    for word in expected:
        assert word in str(caught.value)


# ------------------------------------------------------------------------------- the answer


@pytest.mark.parametrize(
    ("locked", "whole", "known"),
    [(100 * MIB, 12, 12), (0, 0, 12), (40 * MIB, 0, 12), (None, 0, 0)],
)
def test_locked_weights_are_honoured_and_others_not(
    locked: int | None, whole: int, known: int
) -> None:
    seen = view(locked=locked)
    assert seen.locked() == (whole, known)
    word = {12: "**mlock is honoured**", 0: "not"}[whole]
    assert word in memory_locking.answer(seen).sentences[0]


def test_no_difference_is_no_difference() -> None:
    seen = view(between=0.0005, spreads=dict.fromkeys(KINDS, 0.0002), rounds=8)
    assert [verdict(seen, column) for column in ("load_s", "ttft_s", "total_s")] == ["same"] * 3
    answer = memory_locking.answer(seen)
    assert answer.verdict == "same" and len(answer.sentences) <= 5


def test_steadier_and_less_steady_follow_the_data() -> None:
    steady = dict.fromkeys(KINDS, 0.10)
    calm = view(spreads={**steady, (None, "mlock"): 0.005}, rounds=12)
    assert verdict(calm, "itl_mad_s") == "faster"
    assert memory_locking.answer(calm).line.endswith("] steadier")
    wild = view(spreads={**dict.fromkeys(KINDS, 0.005), (None, "mlock"): 0.1}, rounds=12)
    assert verdict(wild, "itl_mad_s") == "slower"


@pytest.mark.parametrize(("factor", "expected"), [(1.5, "slower"), (0.5, "faster")])
def test_times_of_locking_follow_the_data(factor: float, expected: str) -> None:
    seen = view(factors={(None, "mlock"): factor})
    assert {verdict(seen, column) for column in ("load_s", "ttft_s", "total_s")} == {expected}
    assert memory_locking.answer(seen).verdict == expected


def test_short_memory_is_told_way_by_way() -> None:
    seen = view(failed=OOM, factors={(34, "mmap"): 5.0}, faults={(34, "mmap"): 200})
    assert seen.plenty(SHORT["mmap"]) == ENOUGH["mmap"]
    slower = seen.compare("total_s", ENOUGH["mmap"], SHORT["mmap"])
    assert slower.verdict == "slower" and slower.change == pytest.approx(4, abs=0.05)
    text = memory_locking.answer(seen).text
    assert "With 34 MiB (page cache included)" in text
    assert "read oom 6 while loading" in text and "mlock oom 6 in the first generation" in text
    assert seen.locked() == (12, 12), "a process that died after loading told its locks"


def test_a_limit_that_does_no_harm_is_not_said_to() -> None:
    seen = view(between=0.0005, spreads=dict.fromkeys(KINDS, 0.0002), rounds=8)
    found = [seen.compare("total_s", ENOUGH[way], SHORT[way]).verdict for way in loading.READING]
    assert found == ["same"] * 3


def test_some_processes_of_a_kind_may_fail() -> None:
    made = processes(rounds=6)
    made += processes(((34, "mlock"),), failed=OOM, rounds=1, twin=False)
    trial = made[-1].trial.model_copy(update={"round": 6})
    made[-1] = made[-1].model_copy(update={"trial": trial})
    seen = seen_in(factories.to_frame(made))
    assert len(seen.good(SHORT["mlock"])) == 6 and len(seen.of(SHORT["mlock"])) == 7
    assert "oom 1" in words(memory_locking.figure(seen)[0].figure)


def test_what_held_the_limit_is_said() -> None:
    assert "mapped files not counted" in memory_locking.answer(view(by="rlimit")).text
    assert "**not in force**" in memory_locking.answer(view(by=None)).text


@pytest.mark.parametrize("options", [{"rounds": 2}, {"twin": False}])
def test_few_rounds_and_no_twin_are_undecided(options: dict[str, Any]) -> None:
    seen = view(factors={(None, "mlock"): 3.0}, **options)
    assert memory_locking.answer(seen).verdict == verdict(seen, "total_s") == "undecided"


def test_one_generation_has_no_range() -> None:
    table = memory_locking.table(view(repeats=0))
    assert set(table["TTFT range, ms"]) == {"–"} and "–" not in set(table["ITL MAD, ms"])


def test_ways_that_are_missing_are_said() -> None:
    for kinds in (((None, "read"), (None, "mlock")), ((None, "mmap"), (None, "read"))):
        answer = memory_locking.answer(view(kinds))
        assert answer.verdict == "undecided" and "not both measured" in answer.line


def test_only_limits() -> None:
    kinds = ((64, "mmap"), (64, "mlock"), (34, "mmap"))
    seen = view(kinds, factors={(34, "mmap"): 3.0})
    assert seen.memories == ["64 MiB", "34 MiB"]
    assert seen.compare("total_s", Kind("64 MiB", "mmap"), SHORT["mmap"]).change > 1.9


def test_nothing_and_all_failed() -> None:
    nothing = seen_in(factories.to_frame([]))
    assert memory_locking.answer(nothing).verdict == "none"
    assert memory_locking.table(nothing).empty and memory_locking.sizes(nothing).empty
    lost: dict[Where, factories.Failure] = dict.fromkeys(KINDS, ("refused", "<b>no"))
    answer = memory_locking.answer(view(failed=lost, rounds=1))
    assert answer.verdict == "none" and "<b>" not in answer.text


def test_the_tables_have_a_row_per_kind() -> None:
    seen = view(failed=OOM, faults={(34, "mmap"): 7})
    times, sizes = memory_locking.table(seen), memory_locking.sizes(seen)
    for table in (times, sizes):
        assert list(zip(table["memory"], table["reading"], strict=True)) == [
            (f"{limit} MiB" if limit else "no limit", way) for limit, way in KINDS
        ]
    times, sizes = (t.set_index(["memory", "reading"]) for t in (times, sizes))
    assert times.loc[("34 MiB", "mmap"), "trials"] == "ok 6"
    assert times.loc[("34 MiB", "mlock"), "trials"] == "oom 6"
    assert times.loc[("34 MiB", "mlock"), "TTFT, ms"] == "–"
    assert times.loc[("no limit", "mlock"), "TTFT, ms"].endswith("n 6")
    assert float(sizes.loc[("34 MiB", "mmap"), "major faults"]) == 7
    assert sizes.loc[("34 MiB", "mlock"), "locked, MiB"] == "100"
    assert sizes.loc[("34 MiB", "read"), "locked, MiB"] == "–", "it died while loading"
    assert sizes.loc[("34 MiB", "read"), "counted against the limit, MiB"] == "34.0"


def test_spreads_are_those_of_the_tokens() -> None:
    seen = view(spreads=dict.fromkeys(KINDS, 0.05), rounds=12)
    kind = ENOUGH["mmap"]
    # Normal noise: the median absolute deviation is 0.6745 standard deviations.
    assert seen.estimate("itl_mad_s", kind).median == pytest.approx(0.0063 * 0.05 * 0.67, rel=0.2)
    assert seen.estimate("ttft_range_s", kind).median > 0
    assert seen.good(kind)["ttft_off_s"].max() < seen.good(kind)["ttft_s"].median()


# ------------------------------------------------------------------------------- the figure


def test_points_are_processes_and_failures_are_boxes() -> None:
    df = frame(failed=OOM, faults={(34, "mmap"): 200})
    left, right = memory_locking.figure(seen_in(df))
    for ax in (left, right):
        assert ax.get_ylim()[0] == 0
        assert len([patch for patch in ax.patches if patch.get_hatch()]) == 2
        drawn = {c.get_label(): len(c.get_offsets()) for c in ax.collections
                 if c.get_label().startswith(("_no limit", "_34 MiB"))}  # fmt: skip
        assert drawn == {"_no limit mmap": 6, "_no limit read": 6, "_no limit mlock": 6,
                         "_34 MiB mmap": 6}  # fmt: skip
        assert [tick.get_text() for tick in ax.get_xticklabels()] == [*loading.READING] * 2
    text = words(left.figure)
    assert text.count("oom 6") == 4 and "no limit" in text and "34 MiB" in text
    assert text.count("200\nmajor faults") == 1, "in the left panel only"
    medians = [line.get_ydata()[0] for line in left.lines if line.get_label() == "_median"]
    known = df[df["memory_limit_bytes"].isna()]["total_s"].median() * 1e3
    assert medians[0] == pytest.approx(known, rel=0.05)


def test_nothing_is_a_sentence_and_two_axes_or_none() -> None:
    for df in (factories.to_frame([]), frame(rounds=1, failed=dict.fromkeys(KINDS, ("oom", "")))):
        assert "Nothing was measured" in words(memory_locking.figure(seen_in(df))[0].figure)
    _, axes = plt.subplots(1, 2)
    assert list(memory_locking.figure(view(rounds=1), axes=axes)) == list(axes)
    with pytest.raises(ParameterError, match="give two"):
        memory_locking.figure(view(rounds=1), axes=[axes[0]])


# ------------------------------------------------------------------------------- for real


@pytest.mark.notebook
@pytest.mark.engine
def test_the_notebook_and_its_report(carried_out: CarriedOut) -> None:
    df, page = carried_out(
        "memory_locking", rounds=1, repeats=1, max_tokens=4, n_threads=1, prompt_tokens=16,
        reading='["mmap", "mlock"]', memory_limit='["none", "24 MiB", "1 GiB"]', timeout_s=20,
    )  # fmt: skip
    plenty = df[df["memory_limit_bytes"].isna()]
    # Where the system refuses to lock, that is what the record says.
    for _, row in plenty[plenty["status"] != "ok"].iterrows():
        assert row["use_mlock"] and "locked nothing" in row["reason"], row["reason"]
    by = set(df.loc[df["memory_limit_bytes"].notna(), "memory_limit_by"])
    if by == {"cgroup"}:
        short = df[df["memory_limit_bytes"] == 24 * MIB]
        assert set(short["status"]) <= {"oom", "timeout"}
        enough = df[(df["memory_limit_bytes"] == 2**30) & ~df["use_mlock"]]
        assert set(enough["status"]) == {"ok"}, enough["reason"].unique()
    assert "With 24 MiB" in page
