"""What is kept beside records says what they say, or is not read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

from llm_latency.records import cache, many
from llm_latency.records.many import load_runs
from llm_latency.records.rows import COLUMNS, typed
from llm_latency.records.store import RunStore
from tests.support import factories
from tests.support.factories import FAILED

DATA = Path(__file__).parents[1] / "data"
STORED = sorted(path.parent for path in DATA.glob("*/run.json"))
ODD = ["", "é\n\0ü", "NaN", "None", "'\"\\", "\u2028", "w" * 9999, "0"]


@pytest.fixture
def read_from_records(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the runs whose records were read, as they are."""
    read, once = [], many._read

    def counting(run: Path) -> many.Part:
        read.append(run)
        return once(run)

    monkeypatch.setattr(many, "_read", counting)
    return read


def stored(path: Path, rounds: int = 2, **info: object) -> RunStore:
    """Store a run of a grid with failures."""
    made = factories.records(rounds=rounds, failed=FAILED, repeats=2)
    plan = RunStore(DATA / "version-1").plan.model_dump(mode="json")
    run = RunStore.create(path, factories.info() | {"run_id": path.name, "plan": plan} | info)
    with (path / "trials.jsonl").open("w", encoding="utf-8") as out:
        for record in made:
            one = record.model_copy(update={"run_id": path.name})
            out.write(one.model_dump_json() + "\n")
    return run


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Compare frames to the bit and the type, missing values included."""
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert one.attrs == other.attrs
    for name in one:
        assert one[name].dtype == other[name].dtype == COLUMNS.get(str(name), "object"), name
        for value, again in zip(one[name], other[name], strict=True):
            assert type(value) is type(again), name
            if isinstance(value, list):
                assert list(map(type, value)) == list(map(type, again))


@pytest.mark.parametrize("folder", STORED, ids=lambda path: path.name)
def test_what_is_kept_is_what_the_records_say(
    folder: Path, tmp_path: Path, read_from_records: list[Path]
) -> None:
    run = tmp_path / folder.name
    shutil.copytree(folder, run, ignore=shutil.ignore_patterns(cache.FILE))
    same(load_runs(run), load_runs(run))
    assert read_from_records == [run], "the second reading was of what was kept"


def test_rows_of_many_runs_keep_their_order(tmp_path: Path, read_from_records: list[Path]) -> None:
    for name in ("b", "a", "c"):
        stored(tmp_path / name, machine={"machine_id": name})
    cold = load_runs(tmp_path / "*")
    (tmp_path / "b" / cache.FILE).unlink()
    mixed = load_runs(tmp_path / "*")
    same(cold, mixed)
    same(cold, load_runs(tmp_path / "*"))
    assert [run.name for run in read_from_records] == ["a", "b", "c", "b"]
    assert list(cold["run_id"].unique()) == list(cold["machine_id"].unique()) == ["a", "b", "c"]
    each = [load_runs(tmp_path / name) for name in ("a", "b", "c")]
    same(cold, pd.concat(each, ignore_index=True))


def test_that_a_run_is_looked_at_is_kept_with_it(tmp_path: Path) -> None:
    plan = RunStore(DATA / "version-1").plan.model_copy(update={"minutes": 1.0})
    stored(tmp_path / "a", plan=plan.model_dump(mode="json"))
    stored(tmp_path / "b")
    for _ in range(2):
        assert load_runs(tmp_path / "a").attrs == load_runs(tmp_path / "*").attrs == {"looks": 0}
        assert load_runs(tmp_path / "b").attrs == {}


def test_odd_values_come_back_as_they_were(tmp_path: Path) -> None:
    texts = [name for name, kind in COLUMNS.items() if kind == "object"]
    numbers = [name for name, kind in COLUMNS.items() if kind == "float64"]
    made = [
        {name: ODD[(at + row) % len(ODD)] if row % 3 else None for at, name in enumerate(texts)}
        | {name: (row % 2 - 1) * 0.0 or 0.1 + 0.2 * row for name in numbers}
        | {"itl_s": None if row % 3 else [0.1, float(row), -0.0][: row % 4], "run_id": "r"}
        | {"use_mmap": True, "effective_use_mmap": (None, True, False)[row % 3]}
        for row in range(24)
    ]
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "trials.jsonl").write_text("")
    rows = typed(made)
    rows.loc[::5, numbers] = np.nan
    rows.loc[1::5, numbers[0]] = np.inf
    as_of = cache.state(tmp_path)
    assert as_of is not None
    cache.keep(tmp_path, as_of, rows)
    (kept,) = cache.known([tmp_path])
    assert kept is not None
    same(rows, many.joined([kept]))
    signs = np.signbit(many.joined([kept])[numbers[1]])
    assert list(signs) == list(np.signbit(rows[numbers[1]])), "-0.0 is not 0.0"


@pytest.mark.parametrize("odd", [(1, 2), 3, b"x", [1, 2], ["a"], {"a": 1}, "\ud800", np.float64(1)])
def test_what_cannot_be_kept_exactly_is_not_kept(tmp_path: Path, odd: object) -> None:
    run = stored(tmp_path / "r")
    rows = run.frame()
    rows["reason"] = pd.Series([odd, "x"] * len(rows), dtype=object)[: len(rows)]
    as_of = cache.state(run.path)
    assert as_of is not None
    cache.keep(run.path, as_of, rows)
    assert not list(run.path.glob(f"{cache.FILE}*"))


def test_a_change_of_any_file_is_seen(tmp_path: Path, read_from_records: list[Path]) -> None:
    run = stored(tmp_path / "r").path
    before = load_runs(run)
    trials = run / "trials.jsonl"
    lines = trials.read_bytes().split(b"\n")
    trials.write_bytes(b"\n".join(lines[:5]) + b"\n")
    assert len(load_runs(run)) < len(before)
    trials.write_bytes(b"\n".join(lines))
    same(before, load_runs(run))
    info = (run / "run.json").read_text()
    (run / "run.json").write_text(info.replace('"abc"', '"xyz"'))
    assert set(load_runs(run)["machine_id"]) == {"xyz"}
    assert len(read_from_records) == 4


def test_neither_size_nor_time_hides_an_edit(tmp_path: Path) -> None:
    run = stored(tmp_path / "r").path
    load_runs(run)
    trials = run / "trials.jsonl"
    was = trials.stat()
    edited = trials.read_bytes().replace(b'"child_s":1.0', b'"child_s":9.0')
    trials.write_bytes(edited)
    os.utime(trials, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert (trials.stat().st_size, trials.stat().st_mtime_ns) == (was.st_size, was.st_mtime_ns)
    assert set(load_runs(run)["child_s"]) == {9.0}


def test_other_code_or_libraries_read_the_records_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_from_records: list[Path]
) -> None:
    run = stored(tmp_path / "r").path
    load_runs(run)
    for other in ({"code": "another"}, {"pandas": "0"}):
        monkeypatch.setattr(cache, "_readers", lambda other=other: other)
        load_runs(run)
    assert len(read_from_records) == 3


def test_a_broken_cache_is_passed_by(tmp_path: Path, read_from_records: list[Path]) -> None:
    run = stored(tmp_path / "r").path
    before = load_runs(run)
    file = run / cache.FILE
    whole = file.read_bytes()
    same(before, load_runs(run))
    for broken in (b"", b"PAR1", whole[:100], whole[:-1], whole[: len(whole) // 2] + whole[-400:]):
        file.write_bytes(broken)
        same(before, load_runs(run))
    for place in range(4, len(whole), max(1, len(whole) // 25)):
        turned = bytearray(whole)
        turned[place] ^= 0x10
        file.write_bytes(turned)
        (kept,) = cache.known([run])
        if kept is not None:
            pd.testing.assert_frame_equal(before, many.joined([kept]), check_exact=True)
    file.unlink()
    file.mkdir()
    same(before, load_runs(run))


@pytest.mark.filterwarnings("always")
def test_a_run_that_warns_warns_each_time(tmp_path: Path) -> None:
    damaged, twice = stored(tmp_path / "damaged").path, stored(tmp_path / "twice").path
    content = (damaged / "trials.jsonl").read_bytes()
    (damaged / "trials.jsonl").write_bytes(b"\0\0\n" + content)
    first, rest = content.split(b"\n", 1)
    (twice / "trials.jsonl").write_bytes(b"\n".join([first, first, rest]))
    for run, words in ((damaged, "is damaged"), (twice, "stored twice")):
        for _ in range(2):
            with pytest.warns(UserWarning, match=words):
                load_runs(run)
        assert not (run / cache.FILE).exists()


def test_a_run_in_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "no")

    run = stored(tmp_path / "r").path
    monkeypatch.setattr(parquet, "write_table", refuse)
    same(load_runs(run), load_runs(run))
    assert not list(run.glob(f"{cache.FILE}*"))


def test_each_engine_of_a_run_has_its_own_version(tmp_path: Path) -> None:
    run = stored(tmp_path / "r", engines={"old": {"engine": {"version": "0.3.1"}}})
    frame = run.frame()
    frame["engine"] = pd.Series(["old", None] * len(frame), dtype=object)[: len(frame)]
    frame["machine_id"] = "elsewhere"
    found = many._engine_versions(run.info, frame)
    assert found[:2] == ["0.3.1", "0.3.36"]
    there = run.info | {"machines": {"abc": {"engine": {"version": "0.3.2"}}}}
    frame["machine_id"] = "abc"
    assert many._engine_versions(there, frame)[:2] == ["0.3.1", "0.3.2"]
