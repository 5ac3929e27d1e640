"""Locking: plan and limits in words, answers on made-up processes, figure, the real notebook."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from IPython.display import Markdown

from llm_latency import answers, experiments, plots
from llm_latency.errors import ParameterError
from llm_latency.plan import loading
from llm_latency.plan.sizes import limit_bytes
from llm_latency.plan.spec import Settings, Start, Workload
from llm_latency.records.record import Buffers, MemoryLimit, ProcessMemory, Record
from llm_latency.views.held_memory import HeldMemory, Kind, where_ended
from tests.support import factories
from tests.support.pages import CarriedOut, words

MIB = factories.MIB
ROOT = Path(__file__).parents[2]
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


def plain(page: Markdown) -> str:
    return html.unescape(str(page.data)).replace("\N{NO-BREAK SPACE}", " ")


def said(df: pd.DataFrame, info: dict[str, Any] = INFO) -> str:
    return plain(answers.memory_locking(df, info))


# ------------------------------------------------------------------------------- the plan


def test_three_ways_with_and_without_a_limit(tiny: Path) -> None:
    plan = experiments.memory_locking()
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
    plan = experiments.memory_locking(memory_limit=["64 MiB", "1 GiB"], reading=["read", "mmap"])
    (twin,) = [cell for cell in plan.cells if cell.twin]
    assert twin.start.memory_limit_bytes == 2**30 and not twin.settings.use_mmap


def test_equal_limits_in_other_words_are_one() -> None:
    plan = experiments.memory_locking(memory_limit=["65536 KiB", "64 MiB"], reading="mmap")
    assert len(plan.cells) == 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("none", None),
        (None, None),
        ("None", None),
        ("64 MiB", 64 * MIB),
        ("64mib", 64 * MIB),
        ("1.5 GiB", 3 * 2**29),
        ("64 MB", 64_000_000),
    ],
)
def test_limits_in_words(value: Any, expected: int | None) -> None:
    assert limit_bytes(value, "synthetic:tiny:q8_0") == expected


def test_a_share_of_the_file_needs_no_file(tmp_path: Path) -> None:
    half = limit_bytes("50 %", "synthetic:125m:q8_0")
    assert half == pytest.approx(127.13 * MIB / 2, rel=0.01)
    file = tmp_path / "model.gguf"
    file.write_bytes(b"\0" * (20 * MIB))
    assert limit_bytes("150%", str(file)) == 30 * MIB


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"memory_limit": "64"}, ["memory_limit=64", "'64 MiB'"]),
        ({"memory_limit": "little"}, ["memory_limit='little'", "'110 %'"]),
        ({"memory_limit": ["none", "1 MiB"]}, ["memory_limit='1 MiB'", "16 MiB at least"]),
        ({"memory_limit": "100 %"}, ["memory_limit='100 %'", "13", "16 MiB at least"]),
        ({"memory_limit": "50 %", "model": "hf:a/b/c.gguf"}, ["on the Hub", "'4 GiB'"]),
        ({"memory_limit": []}, ["memory_limit=[]"]),
        ({"reading": "lock"}, ["reading='lock'", "mlock"]),
        ({"use_mlock": True}, ["use_mlock=True", "give reading"]),
        ({"timeout_s": 0}, ["timeout_s=0"]),
    ],
)
def test_wrong_values_are_one_sentence(given: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ParameterError) as caught:
        experiments.memory_locking(**given)
    assert "\n" not in str(caught.value)
    for word in expected:
        assert word in str(caught.value)


# ------------------------------------------------------------------------------- the answer


def test_locked_weights_are_honoured_and_others_not() -> None:
    assert "mlock is honoured:** 100 MiB locked of 100 MiB" in said(frame())
    text = said(frame(locked=0))
    assert "mlock is not honoured:** 0 MiB locked" in text and "ulimit -l" in text
    assert "mlock is honoured in part" in said(frame(locked=40 * MIB))
    assert "Whether mlock is honoured is not known" in said(frame(locked=None))


def test_no_difference_is_no_difference() -> None:
    text = said(frame(between=0.0005, spreads=dict.fromkeys(KINDS, 0.0002), rounds=8))
    assert text.count(": **same**") >= 6
    assert "**slower**" not in text and "TTFT **steadier**" not in text


def test_steadier_and_less_steady_follow_the_data() -> None:
    steady = dict.fromkeys(KINDS, 0.10)
    calm = said(frame(spreads={**steady, (None, "mlock"): 0.005}, rounds=12))
    assert "ITL **steadier**" in calm and "less steady" not in calm
    wild = said(frame(spreads={**dict.fromkeys(KINDS, 0.005), (None, "mlock"): 0.1}, rounds=12))
    assert "ITL **less steady**" in wild and "**steadier**" not in wild


def test_times_of_locking_follow_the_data() -> None:
    line = re.compile(r"- \*\*mlock\*\*: loading takes .*")
    slow = said(frame(factors={(None, "mlock"): 1.5}))
    found = line.search(slow)
    assert found and found[0].count("**slower**") == 3 and "50 % longer" in found[0]
    fast = line.search(said(frame(factors={(None, "mlock"): 0.5})))
    assert fast and fast[0].count("**faster**") == 3


def test_short_memory_is_told_way_by_way() -> None:
    df = frame(failed=OOM, factors={(34, "mmap"): 5.0}, faults={(34, "mmap"): 200})
    text = said(df)
    assert "**With 34 MiB** of memory, page cache included (counted by a cgroup)" in text
    assert re.search(r"- \*\*mmap\*\*: \*\*ok\*\* 6 of 6; a generation takes", text)
    assert "**400 % longer**" in text.replace("401", "400").replace("399", "400")
    assert "**slower**; 200 major faults per process" in text
    assert "- **read**: **oom** 6 of 6, while loading." in text
    assert "- **mlock**: **oom** 6 of 6, in the first generation." in text
    assert "100 MiB, all of them" not in text
    assert "Of 6 more processes" not in text, "a process that died after loading told its locks"


def test_a_limit_that_does_no_harm_is_not_said_to() -> None:
    text = said(frame(between=0.0005, spreads=dict.fromkeys(KINDS, 0.0002), rounds=8))
    assert "oom" not in text and text.count("no major faults per process") == 3
    assert len(re.findall(r"against no limit \*\*.*?\*\*same\*\*", text)) == 3


def test_a_timeout_is_what_it_is() -> None:
    late = {(34, "mmap"): ("timeout", "not finished within 60 s, in phase 'generation 2'; log")}
    info = {**INFO, "plan": {**INFO["plan"], "timeout_s": 60.0}}
    text = said(frame(failed=late), info)  # type: ignore[arg-type]
    assert "**timeout** 6 of 6, not finished within 60 s, in generation 3." in text


def test_some_processes_of_a_kind_may_fail() -> None:
    made = processes(rounds=6)
    made += processes(((34, "mlock"),), failed=OOM, rounds=1, twin=False)
    trial = made[-1].trial.model_copy(update={"round": 6})
    made[-1] = made[-1].model_copy(update={"trial": trial})
    df = factories.to_frame(made)
    assert "**ok** 6 of 7; **oom** 1 of 7, in the first generation; a generation takes" in said(df)
    assert "oom 1" in words(plots.memory_locking(df)[0].figure)


def test_what_held_the_limit_is_said() -> None:
    assert "RLIMIT_DATA alone, which does not count mapped files" in said(frame(by="rlimit"))
    assert "**not in force**" in said(frame(by=None))


def test_only_processes_without_a_limit_can_be_disturbed_by_others() -> None:
    assert "Disturbed" not in said(frame()), "all processes with a limit are"
    assert "**Disturbed:** 18 of 18 trials" in said(frame(busy=0.5))


def test_few_rounds_and_no_twin_are_undecided() -> None:
    text = said(frame(rounds=2, factors={(None, "mlock"): 3.0}))
    assert "6 are the fewest for a verdict" in text and "**slower**" not in text
    text = said(frame(twin=False, factors={(None, "mlock"): 3.0}))
    assert "no cell was measured twice" in text and "**slower**" not in text


def test_one_generation_has_no_range() -> None:
    df = frame(repeats=0)
    assert "shortest to its longest: mmap not known" in said(df)
    table = answers.memory_locking_table(df)
    assert set(table["TTFT range, ms"]) == {"–"} and "–" not in set(table["ITL MAD, ms"])


def test_mmap_missing_is_said() -> None:
    text = said(frame(((None, "read"), (None, "mlock"))))
    assert "Whether locking is steadier is undecided" in text
    text = said(frame(((None, "mmap"), (None, "read"))))
    assert "Locking was not measured" in text


def test_only_limits() -> None:
    text = said(frame(((64, "mmap"), (64, "mlock"), (34, "mmap")), factors={(34, "mmap"): 3.0}))
    assert "**With 64 MiB of memory**, each against mmap" in text
    assert re.search(r"against 64 MiB \*\*(199|20\d) % longer", text)


def test_nothing_and_all_failed() -> None:
    assert "Nothing has been measured yet" in said(factories.to_frame([]))
    lost: dict[Where, factories.Failure] = dict.fromkeys(KINDS, ("refused", "<b>no"))
    df = frame(failed=lost, rounds=1)
    text = said(df)
    assert "No cell could be measured" in text and "- **mmap**: **refused** 1 of 1" in text
    assert "<b>" not in str(answers.memory_locking(df, INFO).data)
    assert answers.memory_locking_table(factories.to_frame([])).empty
    assert answers.memory_locking_bytes(factories.to_frame([])).empty
    assert "Nothing was measured" in str(
        answers.memory_locking_reading(factories.to_frame([])).data
    )


def test_the_reading_names_what_is_not_drawn() -> None:
    text = plain(answers.memory_locking_reading(frame(failed=OOM)))
    assert re.search(r"With 34 MiB a generation takes [\d,.]+ ms \(mmap\), and", text)
    assert "hatched: read (oom 6) and mlock (oom 6)" in text


def test_the_tables_have_a_row_per_kind() -> None:
    df = frame(failed=OOM, faults={(34, "mmap"): 7})
    times, sizes = answers.memory_locking_table(df), answers.memory_locking_bytes(df)
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
    held = HeldMemory(frame(spreads=dict.fromkeys(KINDS, 0.05), rounds=12))
    kind = Kind("no limit", "mmap")
    # Normal noise: the median absolute deviation is 0.6745 standard deviations.
    assert held.estimate("itl_mad_s", kind).median == pytest.approx(0.0063 * 0.05 * 0.67, rel=0.2)
    assert held.estimate("ttft_range_s", kind).median > 0
    assert held.good(kind)["ttft_off_s"].max() < held.good(kind)["ttft_s"].median()


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (KILLED.format("load"), "while loading"),
        (KILLED.format("generation 0"), "in the first generation"),
        (KILLED.format("generation 3"), "in generation 4"),
        (KILLED.format("warm-up"), "between loading and the first generation"),
        (KILLED.format("start"), "in phase start"),
        ("no idea", ""),
    ],
)
def test_where_a_process_ended(reason: str, expected: str) -> None:
    assert where_ended(reason) == expected


# ------------------------------------------------------------------------------- the figure


def test_points_are_processes_and_failures_are_boxes() -> None:
    df = frame(failed=OOM, faults={(34, "mmap"): 200})
    left, right = plots.memory_locking(df)
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
        assert "Nothing was measured" in words(plots.memory_locking(df)[0].figure)
    _, axes = plt.subplots(1, 2)
    assert list(plots.memory_locking(frame(rounds=1), axes=axes)) == list(axes)
    with pytest.raises(ParameterError, match="give two"):
        plots.memory_locking(frame(rounds=1), axes=[axes[0]])


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
