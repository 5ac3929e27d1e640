"""Stored runs side by side: with itself, of another day, of another machine; and refusals."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_latency import answers, experiments, plots
from llm_latency.errors import LabError, ParameterError
from llm_latency.questions import compare as question
from llm_latency.questions.compare.exports import bencher, export
from llm_latency.questions.compare.sides import OTHER_MACHINE, SAME_STATE
from llm_latency.records import llama_bench
from llm_latency.records.pack import pack
from llm_latency.records.store import RunStore
from llm_latency.report import appendix, phrases
from llm_latency.report.show import show
from tests.support import factories
from tests.support.pages import text, words

DATA = Path(__file__).parents[1] / "data"


def stored(
    folder: Path,
    name: str,
    *,
    takes: float = 1.0,
    n_ctx: tuple[int, ...] = (512, 1024),
    rounds: int = 8,
    day: str = "2026-01-01",
    noise: float = 0.002,
    model: str = "synthetic:tiny",
    **card: Any,
) -> RunStore:
    """Return a run whose processes take so many times as long, with other words on its card."""
    plan = experiments.sweep(
        model=model, n_ctx=list(n_ctx), n_batch=128, prompt_tokens=64, max_tokens=8, rounds=rounds,
        run_id=name,
    )  # fmt: skip
    info = factories.info()
    info |= {"schema_version": 3, "run_id": name, "created_at": f"{day}T00:00:00+00:00"}
    info |= {"plan": plan.model_dump(mode="json"), "machine": info["machine"] | card}
    run = RunStore.create(folder / name, info)
    random = np.random.default_rng(len(name))
    for trial in plan.trials():
        made = factories.record(
            trial.settings, workload=trial.workload, start=trial.start,
            factor=takes * float(np.exp(random.normal(0, noise))),
        )  # fmt: skip
        run.append(made.model_copy(update={"run_id": name, "trial": trial}))
    return run


def copy(run: RunStore, name: str, **changes: Any) -> RunStore:
    """Return a copy of a run whose card was changed; ``machine`` is merged."""
    folder = run.path.parent / name
    shutil.copytree(run.path, folder)
    info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    machine = info["machine"] | changes.pop("machine", {})
    (folder / "run.json").write_text(json.dumps(info | changes | {"machine": machine}))
    return RunStore(folder)


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    return stored(tmp_path, "before")


@pytest.mark.parametrize("measured", [None, "version-2"])
def test_with_itself_of_another_day_and_of_another_machine_end_in_three_sentences(
    measured: str | None, run: RunStore, tmp_path: Path
) -> None:
    if measured:  # by the real engine
        run = RunStore(Path(shutil.copytree(DATA / measured, tmp_path / measured)))
    day = copy(run, "later", run_id="later", created_at="2026-02-02T00:00:00+00:00")
    machine = copy(run, "there", machine={"machine_id": "xyz", "cpu": "Another CPU"})
    views = [question.View([run, other]) for other in (run, day, machine)]
    assert [view.apart(view.others[0]) for view in views] == [
        "",
        f"another day, {SAME_STATE}",
        OTHER_MACHINE,
    ]
    first = [question.answer(view).sentences[0] for view in views]
    assert "The same run" in first[0] and "exactly 0" in first[0]
    assert f"Not paired: another day, {SAME_STATE}" in first[1]
    assert "Not paired, and the machines differ" in first[2]
    assert len(set(first)) == 3
    told = [question.answer(view).text for view in views]
    assert phrases.UNPAIRED not in told[0].lower()
    assert all(phrases.UNPAIRED in one for one in told[1:])
    assert "another day" not in told[2] and "machines differ" not in told[1]


@pytest.mark.parametrize("version", ["version-1", "version-2", "h200"])
def test_a_run_of_any_version_is_the_same_as_itself(version: str) -> None:
    view = question.View([RunStore(DATA / version)] * 2)
    assert view.cells and view.same_run
    for cell in view.cells:
        for measure in view.measures:
            found = view.compare(view.others[0], cell, measure)
            assert not found.ratio.n or found.ratio.low == found.ratio.high == 1.0
    assert (nothing := question.differing(view)).empty
    assert nothing.attrs["empty"] in show(nothing).to_html()
    assert "exactly 0" in question.answer(view).sentences[0]


def test_a_copy_is_the_same_run_until_it_was_changed(run: RunStore) -> None:
    same = copy(run, "sent")
    assert question.View([run, same]).same_run
    file = same.path / "trials.jsonl"
    file.write_text(file.read_text("utf-8").replace('"total_s":0.', '"total_s":1.'), "utf-8")
    told = question.answer(question.View([run, RunStore(same.path)])).sentences[0]
    assert "not the same records" in told


def test_a_pack_is_the_run_that_it_holds_and_one_that_was_changed_is_refused(
    run: RunStore, tmp_path: Path
) -> None:
    file = pack(run, tmp_path / "before.zip", reports=[])
    view = question.View(question.run(question.plan([str(run.path), str(file)])))
    assert view.same_run and len(view.cells) == 2
    assert "exactly 0" in question.answer(view).sentences[0]
    with zipfile.ZipFile(file) as sent:
        members = {name: sent.read(name) for name in sent.namelist()}
    with zipfile.ZipFile(file, "w") as changed:
        for name, content in members.items():
            changed.writestr(name, content.replace(b'"total_s":0.', b'"total_s":1.'))
    with pytest.raises(LabError, match=r"trials\.jsonl"):
        question.run(question.plan([str(run.path), str(file)]))


def test_each_machine_of_a_run_stands_by_itself(run: RunStore) -> None:
    other = copy(run, "both")
    lines = (other.path / "trials.jsonl").read_text("utf-8").splitlines()
    cards = {name: {"machine": {"machine_id": name, "cpu": name}} for name in ("m1", "m2")}
    info = json.loads((other.path / "run.json").read_text("utf-8")) | {"machines": cards}
    (other.path / "run.json").write_text(json.dumps(info))
    dealt = [
        json.loads(line) | {"machine_id": f"m{1 + json.loads(line)['trial']['round'] % 2}"}
        for line in lines
    ]
    (other.path / "trials.jsonl").write_text("".join(f"{json.dumps(d)}\n" for d in dealt))
    view = question.View([run, RunStore(other.path)])
    assert [side.name for side in view.sides] == ["before", "both on m1", "both on m2"]
    assert [view.apart(side) for side in view.others] == [OTHER_MACHINE] * 2
    cell = next(iter(view.cells))
    assert [len(side.samples(cell, "total_s")) for side in view.sides] == [8, 4, 4]


def test_one_machine_id_on_two_processors_is_two_machines() -> None:
    view = question.View([RunStore(DATA / name) for name in ("version-1", "version-2")])
    assert view.base.info["machine"]["machine_id"] == view.others[0].info["machine"]["machine_id"]
    assert view.apart(view.others[0]) == OTHER_MACHINE


def test_a_slower_run_of_another_day_is_called_so_with_what_lies_between(
    run: RunStore, tmp_path: Path
) -> None:
    later = stored(tmp_path, "after", takes=1.3, day="2026-03-03")
    view = question.View([run, later])
    for measure in ("load", "TTFT", "token", "total"):
        found = view.compared(view.others[0], measure)
        assert {one.verdict for one in found.values()} == {"slower"}
        assert all(one.change == pytest.approx(0.3, abs=0.02) for one in found.values())
        assert all(one.apart and one.ratio.kind == "interval" for one in found.values())
    table = question.table(view)
    assert len(table) == 2 * len(view.measures)
    column = table["after against before"]
    named = column[column.str.contains("slower|faster|more|less")]
    assert len(named) >= 8 and named.str.contains(phrases.UNPAIRED).all()
    assert f"another day, {SAME_STATE}" in table.attrs["caption"]
    answer = question.answer(view)
    assert answer.verdict == "slower" and f"{phrases.UNPAIRED}: another day" in answer.text
    assert (
        not question.table(question.View([run, run]))["before (2) against before"]
        .str.contains(phrases.UNPAIRED)
        .any()
    )


def test_an_equal_run_of_another_day_is_not_called_faster_or_slower(
    run: RunStore, tmp_path: Path
) -> None:
    view = question.View([run, stored(tmp_path, "twin-of-it", day="2026-03-03")])
    verdicts = {
        one.verdict
        for measure in view.measures
        for one in view.compared(view.others[0], measure).values()
    }
    assert verdicts <= {"same", "undecided"}


def test_the_noise_is_that_of_the_noisier_run(run: RunStore, tmp_path: Path) -> None:
    loud = stored(tmp_path, "loud", noise=0.2, day="2026-03-03")
    view = question.View([run, loud])
    cell = next(iter(view.cells))
    floor = view.compare(view.others[0], cell, "total").noise_floor
    assert floor == loud_floor(view) and floor > 10 * (view.base.floor("total_s") or 1)


def loud_floor(view: question.View) -> float | None:
    floor: float | None = view.others[0].floor("total_s")
    return floor


def test_five_processes_of_each_give_no_verdict(tmp_path: Path) -> None:
    pair = [
        stored(tmp_path, "a", rounds=5),
        stored(tmp_path, "b", rounds=5, takes=2, day="2026-03-03"),
    ]
    answer = question.answer(question.View(pair))
    assert answer.verdict == "undecided" and "6 are the fewest" in answer.sure


def test_only_what_differs_is_listed(run: RunStore, tmp_path: Path) -> None:
    other = stored(
        tmp_path, "other", n_ctx=(1024, 2048), day="2026-03-03", cpu_features=["avx2", "avx512f"],
        governor="powersave",
    )  # fmt: skip
    table = question.differing(question.View([run, other])).set_index("what differs")
    assert set(table.index) == {"day", "n_ctx", "CPU features", "CPU frequency governor"}
    assert list(table.loc["CPU features"]) == ["fma", "avx512f"]
    assert list(table.loc["day"]) == ["2026-01-01", "2026-03-03"]


def test_of_a_builds_features_those_that_differ_are_listed(run: RunStore) -> None:
    told = "CPU : AVX = 1 | AVX2 = {} | FMA = 1 | "
    engine = run.info["engine"]
    builds = [
        copy(run, name, engine=engine | {"system_info": told.format(avx2)})
        for name, avx2 in (("with", 1), ("without", 0))
    ]
    table = question.differing(question.View(builds))
    assert list(table.itertuples(index=False, name=None)) == [("engine AVX2", "1", "0")]


def test_cells_of_one_run_alone_are_told(run: RunStore, tmp_path: Path) -> None:
    other = stored(tmp_path, "other", n_ctx=(1024, 2048), day="2026-03-03")
    view = question.View([run, other])
    assert len(view.cells) == 1
    assert {name: len(cells) for name, cells in view.lonely().items()} == {"before": 1, "other": 1}
    assert "1 cell only in before" in question.answer(view).text


def test_nothing_in_common_is_no_answer(run: RunStore, tmp_path: Path) -> None:
    view = question.View([run, stored(tmp_path, "other", n_ctx=(2048,))])
    answer = question.answer(view)
    assert answer.verdict == "none" and not view.cells
    assert "no cell in common" in words(question.figure(view))
    assert question.table(view).empty


def test_a_models_folder_is_no_other_cell(tmp_path: Path) -> None:
    files = [tmp_path / name / "m.gguf" for name in ("here", "there")]
    for file in files:
        file.parent.mkdir()
        file.write_bytes(b"GGUF")
    pair = [stored(tmp_path, f.parent.name + "-run", model=str(f)) for f in files]
    view = question.View(pair)
    assert len(view.cells) == 2 and not view.lonely()
    assert str(tmp_path) not in words(question.figure(view)) + question.answer(view).text


def test_three_runs_each_stand_against_the_first(run: RunStore, tmp_path: Path) -> None:
    view = question.View([run, run, stored(tmp_path, "after", takes=1.3, day="2026-03-03")])
    assert [side.name for side in view.sides] == ["before", "before (2)", "after"]
    assert [bool(view.apart(other)) for other in view.others] == [False, True]
    drawn = words(question.figure(view))
    assert "same run, paired" in drawn and f"another day, {SAME_STATE}" in drawn
    answer = question.answer(view)
    assert answer.verdict == "measured" and len(answer.sentences) <= 5


def test_the_face_has_it(run: RunStore) -> None:
    assert answers.compare([run, run]).sentences and len(plots.compare([run, run]))


def test_an_unfinished_run_is_told_of(run: RunStore) -> None:
    file = run.path / "trials.jsonl"
    file.write_text("".join(file.read_text("utf-8").splitlines(keepends=True)[:3]), "utf-8")
    cut = RunStore(run.path)
    assert "incomplete: 3 of 24" in text(question.notices(question.View([cut, cut])))


@pytest.mark.parametrize("page", ["r.html", "r.ipynb"])
def test_a_page_stands_for_the_run_that_it_tells_of(
    page: str, outputs: Path, tmp_path: Path
) -> None:
    named = stored(outputs / "runs", "a_run-1.b")
    said = str(appendix.where_it_lies(named.path).data)
    body = said.replace("**a", "<strong>a").replace("**,", "</strong>,")
    file = tmp_path / page
    file.write_text(body if page.endswith("html") else json.dumps({"cells": [said]}), "utf-8")
    plan = question.plan([str(file), "a_run-1.b"])
    assert [run.run_id for run in question.run(plan)] == ["a_run-1.b"] * 2
    shutil.rmtree(named.path)
    with pytest.raises(ParameterError, match=r"'a_run-1.b'.* not stored here; give"):
        question.run(plan)


@pytest.mark.parametrize(
    ("page", "words"),
    [("<p>nothing</p>", "tells of no run"), ("of the run **a** of the run **b**", "no run"),
     ("the records of the run **a** the records of the run **b**", "tells of 2 runs (a, b)")],
)  # fmt: skip
def test_a_page_that_tells_of_no_one_run_is_refused(page: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "r.html"
    file.write_text(page, encoding="utf-8")
    with pytest.raises(ParameterError) as refused:
        question.run(question.plan([str(file), str(file)]))
    assert words in str(refused.value) and str(refused.value).endswith("or its pack.")


@pytest.mark.parametrize("runs", ["a", ["a"], 7, None, [["a", "b"]], {"a": 1}, [1.5, "a"], True])
def test_what_names_no_two_runs_is_refused(runs: Any) -> None:
    with pytest.raises(ParameterError, match=r"^runs="):
        question.plan(runs)


def test_without_names_the_newest_two_of_one_question_are_compared(
    outputs: Path, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError, match="give two or more"):
        question.run(question.plan())
    for name in ("one", "two"):
        stored(outputs / "runs", name)
    assert {run.run_id for run in question.run(question.plan())} == {"one", "two"}


def test_bencher_gets_medians_and_intervals_under_a_name_that_stays(
    run: RunStore, tmp_path: Path
) -> None:
    found = bencher(run)
    assert len(found) == 2
    (name, first), _ = found.items()
    side = question.View([run, run]).base
    cell = side.cells[0]
    assert name.endswith(cell) and "n_ctx=512" in name
    value = side.estimate(cell, "ttft_s")
    metric = {"value": value.median, "lower_value": value.low, "upper_value": value.high}
    assert first["ttft-s"] == metric
    assert set(first) == {
        "load-s", "first-ttft-s", "ttft-s", "prefill-s", "token-s", "total-s", "rss-peak-bytes",
    }  # fmt: skip
    file = tmp_path / "bmf.json"
    export("bmf", file, [str(run.path)])
    # Bencher's own schema: https://bencher.dev/bmf.json
    for measures in json.loads(file.read_text(encoding="utf-8")).values():
        for metric in measures.values():
            assert set(metric) == {"value", "lower_value", "upper_value"}
            assert all(isinstance(number, int | float) for number in metric.values())
    assert set(bencher(stored(tmp_path, "later", n_ctx=(512,), day="2026-04-04"))) <= set(found)
    few = bencher(stored(tmp_path, "few", rounds=2))
    assert set(few[name]["ttft-s"]) == {"value"}  # a range promises nothing
    with pytest.raises(ParameterError, match="one at a time"):
        export("bmf", file, [str(run.path)] * 2)


def test_llama_benchs_lines_of_two_runs_are_told_apart_by_their_build(
    run: RunStore, tmp_path: Path
) -> None:
    later = stored(tmp_path, "afters", takes=1.3, day="2026-03-03")
    file = tmp_path / "lines.jsonl"
    told = export("llama-bench", file, [str(run.path), str(later.path)])
    assert told.endswith("-b before -c afters")
    frame = llama_bench.read(file)
    assert set(frame["build_commit"]) == {"before", "afters"}
    assert set(frame["cpu_info"]) == {"A CPU @ 2 GHz"} and set(frame["gpu_info"]) == {""}
    assert frame["build_number"].isna().all()  # nobody here knows it
    speeds = frame.groupby("build_commit")["decode_tps"].median()
    assert speeds["before"] / speeds["afters"] == pytest.approx(1.3, abs=0.02)
    with pytest.raises(ParameterError, match="begin alike"):
        export("llama-bench", file, [str(run.path)] * 2)
