"""The lab beside llama-bench: with tools that pretend, and once with the real ones."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.display import Markdown

from llm_latency.engine import probe
from llm_latency.errors import LabError, ParameterError
from llm_latency.plan.settings import Settings
from llm_latency.questions import calibration
from llm_latency.questions.calibration import View, bench
from llm_latency.questions.calibration.ratios import ENGINE, PREFILL, USER
from llm_latency.report import appendix
from llm_latency.report.expect import expect
from llm_latency.report.page import notices
from llm_latency.words import MARKER
from tests.measure.test_runner import another_run
from tests.support.factories import FakeWorker

BENCH = """
import json, sys
asked = dict(zip(sys.argv[1::2], sys.argv[2::2]))
n_prompt, n_gen, count = int(asked["-p"]), int(asked["-n"]), int(asked["-r"])
nanoseconds = round(1e9 * (0.1 * {prefill} if n_prompt else 0.01 * n_gen * {decode}))
{lines}
print(json.dumps(dict(n_prompt=n_prompt, n_gen=n_gen, n_threads=int(asked["-t"]),
                      model_filename=asked["-m"], samples_ns=[nanoseconds] * count)))
"""
FakeBench = Callable[..., Path]


@pytest.fixture
def fake_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBench:
    """Return a function that makes a llama-bench which answers with chosen speeds."""
    if sys.platform == "win32":
        pytest.skip("a script is no executable on Windows")

    def install(prefill: float = 1.0, decode: float = 1.0, lines: str = "") -> Path:
        script = tmp_path / "llama-bench"
        code = BENCH.format(prefill=prefill, decode=decode, lines=lines)
        # A shell's line: a "#!" line takes no path with a space in it.
        line = shlex.join([sys.executable, "-c", code])
        script.write_text(f'#!/bin/sh\nexec {line} "$@"\n', encoding="utf-8")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("LLM_LATENCY_LLAMA_BENCH", str(script))
        return script

    return install


@pytest.fixture
def fake_tools(
    fake_bench: FakeBench,
    fake_worker: FakeWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> FakeBench:
    """The lab's children pretend as well, and sampling takes 100 µs."""
    fake_worker("answers_like_llama_bench")
    script = tmp_path / "fake_probe.py"
    costs = {"sampling_s": 1e-4, "call_s": 1e-5, "stamp_s": 1e-7}
    script.write_text(f"print({json.dumps(costs)!r})", encoding="utf-8")
    monkeypatch.setattr(probe, "COMMAND", (sys.executable, str(script)))
    return fake_bench


@pytest.fixture
def make_plan(tiny: Path, outputs: Path) -> Callable[..., calibration.CalibrationPlan]:
    def plan(**changed: Any) -> calibration.CalibrationPlan:
        given: dict[str, Any] = {
            "model": str(tiny), "n_threads": [1, 2], "prompt_tokens": 128, "max_tokens": 16,
            "pairs": 2, "repeats": 3, "run_id": "c",
        }  # fmt: skip
        return calibration.plan(**given | changed)

    return plan


MakePlan = Callable[..., calibration.CalibrationPlan]


def test_a_plan_is_every_test_in_every_round_both_ways_about() -> None:
    plan = calibration.plan(pairs=6, seed=3)
    planned = plan.planned()
    assert plan.planned() == planned
    assert plan.trials() == [p.trial for p in planned]
    tests = {(p.test, p.trial.settings.n_threads) for p in planned}
    assert tests == {(test, n) for test in ("pp128", "pp512", "tg64") for n in (1, 2)}
    assert len(planned) == 6 * len(tests) == len({p.pair_id for p in planned})
    for test in tests:
        first = [p.first for p in planned if (p.test, p.trial.settings.n_threads) == test]
        assert first.count("lab") == 3
        assert all(a != b for a, b in itertools.pairwise(first))
    rounds = [tuple(p.test for p in planned[i : i + 6]) for i in range(0, 36, 6)]
    assert len(set(rounds)) > 1  # shuffled
    assert calibration.plan(pairs=6, seed=4).planned() != planned


def test_both_tools_are_given_the_same() -> None:
    for planned in calibration.plan(prompt_tokens=[128, 1000]).planned():
        asked, work = planned.trial.settings, planned.trial.workload
        assert asked.n_ctx >= (work.prompt_tokens or 0) + work.max_tokens
        assert asked.n_threads == asked.n_threads_batch
        assert asked.n_batch <= asked.n_ctx  # or it would not be in force
        evaluated = planned.n_prompt or planned.n_gen
        assert evaluated == (work.prompt_tokens or 0) + work.max_tokens - 1
        test = bench.Test(asked, 3, planned.n_prompt, planned.n_gen)
        words = test.arguments(Path("m.gguf"))
        given = dict(zip(words[::2], words[1::2], strict=True))
        assert given["-t"] == str(asked.n_threads)
        assert (given["-b"], given["-ub"]) == (str(asked.n_batch), str(asked.n_ubatch))
        assert (given["-ctk"], given["-ctv"]) == (asked.type_k, asked.type_v)
        assert (given["-fa"], given["-lm"], given["-ngl"]) == ("off", "mmap", "-1")
        assert given["-dev"] == "auto"
        alone = bench.Test(asked.model_copy(update={"n_gpu_layers": 0}), 3, n_gen=4)
        assert alone.arguments(Path("m"))[-4:-2] == ["-dev", "none"]


def test_decode_is_compared_at_any_depth(make_plan: MakePlan, fake_tools: FakeBench) -> None:
    fake_tools(lines="nanoseconds += int(asked['-d']) * 100_000")  # 512: a third of 160 ms
    plan = make_plan(n_threads=1, depths=[0, 512])
    deep = next(one for one in plan.planned() if one.n_depth)
    assert (deep.test, deep.trial.settings.n_ctx) == ("tg16-d512", 768)
    assert (deep.trial.workload.depths, deep.trial.workload.prompt_tokens) == ((512,), 1)
    view = calibration.View(calibration.run(plan, progress=False))
    decode = [one for one in view.ratios if one.measure == "decode, with sampling"]
    assert [(one.test, one.n_depth) for one in decode] == [("tg16", 0), ("tg16-d512", 512)]
    assert [one.beyond.median for one in decode] == pytest.approx([0, 0.32], abs=1e-6)
    assert view.parts[1]["sampling"].n == 2  # clocked where the context is empty


def test_llama_bench_has_one_number_of_threads() -> None:
    settings = Settings(n_threads=1, n_threads_batch=2)
    with pytest.raises(ParameterError, match="one number of threads"):
        bench.Test(settings, 1, n_prompt=8).arguments(Path("m"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n_threads": 0}, "n_threads=0"),
        ({"pairs": "many"}, "pairs='many'"),
        ({"repeats": 0}, "repeats=0"),
        ({"prompt_tokens": []}, "prompt_tokens=[]"),
        ({"model": "none.gguf"}, "does not exist"),
        ({"run_id": "a/b"}, "run_id='a/b'"),
    ],
)
def test_wrong_parameters_are_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError) as refused:
        calibration.plan(**given)
    assert words in str(refused.value)


def test_parameters_as_papermill_hands_them_over() -> None:
    plan = calibration.plan(n_threads="[1, 2]", max_tokens="8", run_id=" ")  # type: ignore[arg-type]
    assert plan.n_threads == (1, 2)
    assert plan.max_tokens == 8
    assert plan.run_id is None


def test_ratios_are_those_of_the_speeds(make_plan: MakePlan, fake_tools: FakeBench) -> None:
    fake_tools(prefill=0.9, decode=0.99)
    run = calibration.run(make_plan(), progress=False)
    assert run.final == run.planned == 2 * 2 * 2
    view = View(run)
    ratios = {(ratio.n_threads, ratio.measure): ratio for ratio in view.ratios}
    assert len(ratios) == len(view.ratios) == 2 * 3
    for threads in (1, 2):
        # The first generation of each process took 9.9 s, and is in none of them.
        assert ratios[threads, PREFILL].beyond.median == pytest.approx(-0.1)
        assert ratios[threads, USER].beyond.median == pytest.approx(-0.01)
        assert ratios[threads, ENGINE].beyond.median == pytest.approx(-0.01)
        assert ratios[threads, PREFILL].lab_tps == pytest.approx(1280)
    assert {(ratio.beyond.n, ratio.beyond.kind) for ratio in view.ratios} == {(2, "range")}
    assert set(view.parts) == {1, 2}
    rest = {name: part.median for name, part in view.parts[1].items()}
    assert rest["llama-bench"] == pytest.approx(0.0099)
    assert rest["evaluation"] == pytest.approx(0.0001)
    assert rest["sampling"] == pytest.approx(0.0001)
    assert rest["binding"] == pytest.approx(-0.0001)


def test_six_pairs_give_an_interval(make_plan: MakePlan, fake_tools: FakeBench) -> None:
    fake_tools()
    view = View(calibration.run(make_plan(pairs=6, n_threads=1), progress=False))
    assert {ratio.beyond.kind for ratio in view.ratios} == {"interval"}
    assert calibration.answer(view).line == "3 of 3 speeds within 2 % of llama-bench's"
    assert calibration.answer(view).sure == "6 pairs"


def test_what_was_measured_is_stored_and_shown_again(
    make_plan: MakePlan, fake_tools: FakeBench, outputs: Path
) -> None:
    script = fake_tools(prefill=1.5)
    run = calibration.run(make_plan(), progress=False)
    assert run.path == outputs / "calibration" / "c"
    lines = (run.path / "llama-bench.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 8
    assert set(json.loads(lines[0])) == {
        "n_prompt", "n_gen", "n_threads", "model_filename", "samples_ns",
    }  # fmt: skip
    assert len(run.store.records()) == 8
    samples = run.samples()
    assert set(samples["tool"]) == {"lab", "llama-bench"}
    assert len(samples) == 8 * 2 * 3
    assert len(run.frame()) == 8 * (3 + 1)
    script.unlink()
    before = {file: file.read_bytes() for file in run.path.glob("*.json*")}
    again = calibration.run(make_plan(), progress=False)
    assert View(again).ratios == View(run).ratios
    assert View(calibration.open_run("c")).ratios == View(run).ratios
    assert {file: file.read_bytes() for file in run.path.glob("*.json*")} == before


def test_a_calibration_goes_on_where_it_stopped(make_plan: MakePlan, fake_tools: FakeBench) -> None:
    fake_tools()
    run = calibration.run(make_plan(), progress=False)
    file = run.path / "pairs.jsonl"
    whole = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(
        b"".join(whole[:-2]) + whole[-2][:40]
    )  # a crash while it wrote the last but one
    bench_file = run.path / "llama-bench.jsonl"
    bench_file.write_bytes(bench_file.read_bytes()[:-30])
    assert calibration.open_run("c").final == 6
    again = calibration.run(make_plan(), progress=False)
    assert again.final == 8
    assert View(again).ratios == View(run).ratios
    assert len(again.store.records()) == 10


def test_a_calibration_waits_its_turn_and_a_stored_one_is_only_shown(
    make_plan: MakePlan, fake_tools: FakeBench, outputs: Path
) -> None:
    fake_tools()
    with another_run(), pytest.raises(LabError, match="run 'theirs' is at work"):
        calibration.run(make_plan(), progress=False)
    assert not outputs.exists()
    run = calibration.run(make_plan(), progress=False)
    with another_run():
        assert calibration.run(make_plan(), progress=False).pairs() == run.pairs()
    # A kill before the first pair was complete leaves the run as it was begun.
    begun = (run.path / "run.json").read_bytes()
    (run.path / "pairs.jsonl").unlink()
    again = calibration.run(make_plan(), progress=False)
    assert (again.final, (run.path / "run.json").read_bytes()) == (8, begun)


def test_another_plan_or_another_build_is_refused(
    make_plan: MakePlan, fake_tools: FakeBench
) -> None:
    fake_tools()
    run = calibration.run(make_plan(), progress=False)
    with pytest.raises(ParameterError, match="holds another plan"):
        calibration.run(make_plan(max_tokens=17), progress=False)
    pairs = run.path / "pairs.jsonl"
    pairs.write_bytes(pairs.read_bytes().splitlines(keepends=True)[0])
    fake_tools(decode=2.0)
    with pytest.raises(ParameterError, match="another build of llama-bench"):
        calibration.run(make_plan(), progress=False)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("if n_gen: sys.exit(3)", "exit code 3"),
        ("if n_gen: print('oops'); sys.exit()", "is not JSON"),
        ("if n_gen: sys.exit(0)", "0 results"),
    ],
)
def test_a_llama_bench_that_fails_is_a_result(
    make_plan: MakePlan, fake_tools: FakeBench, lines: str, reason: str
) -> None:
    fake_tools(lines=lines)
    run = calibration.run(make_plan(n_threads=1), progress=False)
    failed = [pair for pair in run.pairs() if pair.llama_bench_line is None]
    assert {pair.test for pair in failed} == {"tg16"}
    assert all(reason in (pair.llama_bench_reason or "") for pair in failed)
    view = View(run)
    counts = {ratio.measure: (ratio.beyond.n, ratio.failed) for ratio in view.ratios}
    assert counts == {PREFILL: (2, 0), USER: (0, 2), ENGINE: (0, 2)}
    answer = calibration.answer(view)
    assert answer.line == "1 of 1 speed within 2 % of llama-bench's"
    assert "Failed, and in no ratio: 2 pairs" in answer.text
    assert list(calibration.table(view)["failed"]) == [0, 2, 2]
    assert list(calibration.parts_table(view)["lab, µs"]) == ["10,000 (10,000–10,000) n 2"]


def test_a_lab_that_fails_is_a_result(
    make_plan: MakePlan, fake_tools: FakeBench, fake_worker: FakeWorker
) -> None:
    fake_tools()
    fake_worker("answers_like_llama_bench", aborts_after_round=0)
    run = calibration.run(make_plan(n_threads=1), progress=False)
    assert {(ratio.beyond.n, ratio.failed) for ratio in View(run).ratios} == {(1, 1)}
    bad = run.samples().query("status != 'ok'")
    assert set(bad["status"]) == {"crashed"}
    assert bad["reason"].str.contains("SIGABRT").all()


def test_nothing_measured_is_said(make_plan: MakePlan, fake_tools: FakeBench) -> None:
    fake_tools(lines="sys.exit(1)")
    run = calibration.run(make_plan(n_threads=1), progress=False)
    failed = View(run)
    (run.path / "pairs.jsonl").unlink()
    for view in (failed, View(run)):
        assert view.compared == []
        assert calibration.answer(view).verdict == "none"
        assert len(calibration.table(view)) == len(view.ratios)
        (words,) = calibration.figure(view).texts
        assert words.get_text() == "No pair could be compared."


def test_llama_bench_that_was_not_built_is_named_before_anything_is_made(
    make_plan: MakePlan, outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLM_LATENCY_LLAMA_BENCH", raising=False)
    monkeypatch.setenv("LLM_LATENCY_CACHE", str(tmp_path / "empty"))
    with pytest.raises(LabError) as refused:
        calibration.run(make_plan(), progress=False)
    assert "make calibration" in str(refused.value)
    assert bench.COMMAND in str(refused.value)
    assert not outputs.exists()
    assert not (tmp_path / "empty").exists()


def test_another_experiments_plan_is_refused() -> None:
    with pytest.raises(ParameterError, match="Settings"):
        calibration.run(Settings())


def test_the_page(make_plan: MakePlan, fake_tools: FakeBench) -> None:
    fake_tools(prefill=0.9, decode=0.99)
    run = calibration.run(make_plan(pairs=6, n_threads=[1, 2]), progress=False)
    view = View(run)
    answer = calibration.answer(view)
    assert answer.line == "4 of 6 speeds within 2 % of llama-bench's"
    assert "prefill 128, 1 thread, where the lab's speed differs by **−10.0 %**" in answer.text
    assert "sampling takes **100 µs**" in answer.text
    table = calibration.table(view)
    assert list(table["lab beyond llama-bench, %"]) == [
        "−10.0 [−10.0 to −10.0] n 6", *["−1.00 [−1.00 to −1.00] n 6"] * 2
    ] * 2  # fmt: skip
    assert list(calibration.parts_table(view)["threads"]) == [1, 2]
    ax = calibration.figure(view)
    drawn = [np.asarray(line.get_xdata(), dtype=float) for line in ax.get_lines()]
    points = sorted(float(x[0]) for x in drawn if len(x) == 1)
    assert points == pytest.approx([-10, -10, -1, -1, -1, -1])
    assert ax.get_xlim()[0] < -10 and ax.get_xlim()[1] > 2
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names[0] == "prefill 128, 1 thread"
    assert "did not build" in calibration.method(run.info).data
    assert "pairs.jsonl" in calibration.data(run.path).data


def test_the_common_frame_of_a_page_holds_a_calibration(
    make_plan: MakePlan, fake_tools: FakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tools()
    plan = make_plan(n_threads=1)
    assert dict(expect(plan).to_numpy())["measured"].startswith("2 cells × 2 rounds")
    run = calibration.run(plan, progress=False)
    assert notices(run).metadata == {MARKER: {"planned": 4, "final": 4}}
    shown: list[Any] = []
    monkeypatch.setattr(appendix, "display", lambda *pieces: shown.extend(pieces))
    appendix.appendix(run, calibration.method(run.info), calibration.data(run.path))
    texts = [piece.data for piece in shown if isinstance(piece, Markdown)]
    heads = ["## Method", "## Machine and model", "## Data"]
    assert [text for text in texts if text.startswith("## ")] == heads
    assert texts[-1] == calibration.data(run.path).data


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--build-only", "--source", "wrong.tar.gz"], "is not the source package"),
        (["--pairs", "0"], "pairs=0 is refused"),
    ],
)
def test_the_benchmark_says_in_one_sentence_what_is_wrong(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    wrong = tmp_path / "wrong.tar.gz"
    wrong.write_bytes(b"no archive")
    arguments = [str(wrong) if word == wrong.name else word for word in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.calibration", *arguments],
        cwd=Path(__file__).parents[2],
        env=dict(os.environ, LLM_LATENCY_CACHE=str(tmp_path / "cache")),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.engine
def test_the_real_tools_in_turn(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both carry out a pair of every test; how fast they are is for a quiet machine to say."""
    monkeypatch.delenv("LLM_LATENCY_LLAMA_BENCH", raising=False)
    if not bench.place().is_file():
        pytest.skip(f"llama-bench has not been built: {bench.COMMAND} --build-only")
    run = calibration.run(make_plan(n_threads=1, pairs=1, repeats=2), progress=False)
    assert [pair.llama_bench_reason for pair in run.pairs()] == [None, None]
    samples = run.samples()
    assert set(samples["status"]) == {"ok"}, samples["reason"].dropna().unique()
    assert len(samples) == 2 * 2 * 2
    assert {ratio.beyond.n for ratio in View(run).ratios} == {1}
    (costs,) = [pair.probe for pair in run.pairs() if pair.probe]
    assert 0 < costs.stamp_s < costs.sampling_s
    assert run.info["llama_bench"]["way"] in ("linked", "whole")
    line = json.loads((run.path / "llama-bench.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert line["n_threads"] == 1
    assert os.path.samefile(line["model_filename"], make_plan().model)
