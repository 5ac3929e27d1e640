"""How many threads, and on which cores?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import llm_latency as lab
from llm_latency.errors import ParameterError
from llm_latency.machine import affinity, limits
from llm_latency.measure import resume
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Cores, Start
from llm_latency.plan.workload import Workload
from llm_latency.questions import threads
from llm_latency.report.page import Rows
from tests.support import factories
from tests.support.pages import CarriedOut, plain, words

WORK = Workload(prompt_tokens=256, max_tokens=32, repeats=1)
INFO = factories.info() | {"plan": {"parameters": {"usable_cpus": 4}}}
Time = Callable[[Settings, int], float]


def bandwidth(settings: Settings, depth: int) -> float:
    """Two threads use the bandwidth up, and beyond four they wait at the barrier."""
    count = settings.n_threads or 1
    return 0.01 * ({1: 1.9}.get(count, 1.0) if count <= 4 else 2.0 * count)


def arithmetic(settings: Settings, prompt: int) -> float:
    count = settings.n_threads_batch or settings.n_threads or 1
    return 1 / count if count <= 4 else 1.0


def frame(
    itl: Time = bandwidth,
    ttft: Time = arithmetic,
    rounds: int = 6,
    counts: Sequence[int] = (1, 2, 4, 5, 8),
    cores: Mapping[Cores | None, float] | None = None,
    noise: float = 0.001,
    twin: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Return rows of every count on every choice of cores, whose tokens scatter by so much."""
    rng = np.random.default_rng(1)
    return factories.to_frame(
        [
            factories.record(
                Settings(n_threads=count),
                workload=WORK,
                start=Start(cores=kept),
                round=round,
                itl=itl,
                ttft=ttft,
                rng=rng,
                within=within,
                factor=float(np.exp(rng.normal(0, noise))),
                twin=again,
                **options,
            )
            for round in range(rounds)
            for kept, within in (cores or {None: 0.001}).items()
            for count in counts
            for again in ((False, True) if twin and count == 4 else (False,))
        ]
    )


def view(*given: Any, **options: Any) -> threads.View:
    return threads.View(Rows(frame(*given, **options), INFO))


def planned(**given: Any) -> list[tuple[int | None, int | None, Cores | None]]:
    cells = resume.for_this_machine(threads.plan(**given)).cells
    return [
        (c.settings.n_threads, c.settings.n_threads_batch, c.start.cores)
        for c in cells
        if not c.twin
    ]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cores of two logical CPUs each, all alike."""
    monkeypatch.setattr(limits, "usable_cpus", lambda: 4)
    monkeypatch.setattr(limits, "allowed_cpus", lambda: tuple(range(8)))
    monkeypatch.setattr(affinity, "chosen", lambda _: (0, 2, 4, 6))


@pytest.mark.usefixtures("machine")
def test_what_is_left_open_is_decided_by_the_machine() -> None:
    asked = threads.plan()
    counts = [(n, None, kept) for n in (1, 2, 4, 5, 8) for kept in (None, "physical")]
    assert planned() == counts == planned(n_threads=0)
    chosen = resume.for_this_machine(asked)
    (twin,) = (cell for cell in chosen.cells if cell.twin)
    assert twin.settings.n_threads == 4
    assert chosen.parameters["usable_cpus"] == 4
    assert resume.for_this_machine(chosen) is chosen  # a stored run


@pytest.mark.usefixtures("machine")
def test_what_is_asked_for_is_planned_as_it_stands() -> None:
    assert planned(n_threads="[2, 3]", cores="any") == [(2, None, None), (3, None, None)]
    assert planned(n_threads=2, n_threads_batch=[1, 4], cores=[0, 2]) == [
        (2, 1, (0, 2)),
        (2, 4, (0, 2)),
    ]
    assert planned(n_threads=1, cores='["physical", [1]]') == [
        (1, None, "physical"),
        (1, None, (1,)),
    ]


def test_kinds_that_are_the_same_cpus_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "allowed_cpus", lambda: (0, 1))

    def chosen(kind: str) -> tuple[int, ...]:
        if kind == "performance":
            raise ParameterError("not told")
        return (0, 1)

    monkeypatch.setattr(affinity, "chosen", chosen)
    assert threads.kinds() == [None]
    assert threads.around(1) == [1, 2] and threads.around(2) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"n_threads": [0, 2]}, r"n_threads=\[0, 2\] is refused: 0 leaves"),
        ({"n_threads_batch": [0, 2]}, r"n_threads_batch=\[0, 2\] is refused: 0 stands"),
        ({"n_threads": -1}, "n_threads=-1"),
        ({"n_threads": "all"}, "n_threads='all'"),
        ({"cores": ["any", "fast"]}, "cores='fast' is refused"),
        ({"cores": [[]]}, r"cores=\[\] is refused"),
        ({"n_thread": 1}, "did you mean 'n_threads'"),
    ],
)
def test_what_cannot_be_right_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        threads.plan(**wrong)


def test_decode_and_prefill_have_knees_of_their_own() -> None:
    seen = view()
    assert seen.enough("decode") == ((2, "any"), [])
    assert seen.enough("prefill") == ((4, "any"), [])
    verdicts = {count: found.verdict for (count, _), found in seen.against["decode"].items()}
    assert verdicts.pop(1) == verdicts.pop(5) == verdicts.pop(8) == "slower"
    assert set(verdicts.values()) == {"same"}
    answer = threads.answer(seen)
    assert answer.line == "decode: 2 threads; prefill: 4 threads"
    assert answer.verdict == "same" and len(answer.sentences) == 4


def test_one_thread_too_many_has_its_price() -> None:
    a, b, found = view().too_many("decode") or pytest.fail("none was measured")
    assert (a, b, found.verdict) == ((4, "any"), (5, "any"), "slower")
    assert found.ratio.median == pytest.approx(10, rel=0.02)
    assert view(counts=(1, 2, 4)).too_many("decode") is None
    a, b, _ = view(cores={(0, 1): 0.001}).too_many("decode") or pytest.fail("none was measured")
    assert (a, b) == ((2, "0-1"), (4, "0-1"))


def test_whether_pinning_steadies_is_told_with_its_verdict() -> None:
    seen = view(cores={None: 0.05, "physical": 0.005, (0, 1): 0.05}, counts=(2, 4), noise=0.01)
    free, kept = seen.pinned() or pytest.fail("nothing was pinned")
    assert free[1] == "any" and kept[0] == free[0]
    steady = seen.compare("decode", free, (free[0], "physical"), "itl_spread")
    assert steady.verdict == "faster" and steady.ratio.median == pytest.approx(0.1, rel=0.3)
    alike = seen.compare("decode", free, (free[0], "0-1"), "itl_spread")
    assert alike.verdict == "undecided"
    assert seen.between(free) > 0
    assert "Kept on" in plain(threads.answer(seen).text)
    assert len(threads.answer(seen).sentences) <= 5


def test_noise_leaves_it_undecided() -> None:
    for seen in (view(rounds=2), view(twin=False)):
        assert {found.verdict for found in threads.deciding(seen)} == {"undecided"}
        assert threads.answer(seen).verdict == "undecided"


def test_prefill_goes_by_its_own_threads() -> None:
    rows = factories.to_frame(
        [
            factories.record(
                Settings(n_threads=n, n_threads_batch=b), workload=WORK, round=round,
                itl=bandwidth, ttft=arithmetic, twin=again,
            )
            for round in range(6)
            for n in (1, 2)
            for b in (1, 4)
            for again in ((False, True) if n == b == 1 else (False,))
        ]
    )  # fmt: skip
    seen = threads.View(Rows(rows, INFO))
    assert set(seen.speed["prefill"]) == {(1, "any"), (4, "any")}
    assert set(seen.speed["decode"]) == {(1, "any"), (2, "any")}
    assert seen.enough("prefill") == ((4, "any"), [])
    assert len(threads.table(seen)) == 4


def test_nothing_all_failed_one_cell() -> None:
    nothing = threads.View(Rows(factories.to_frame([]), {}))
    assert threads.answer(nothing).verdict == "none" and threads.table(nothing).empty
    broken = view(failure=("crashed", "SIGSEGV <b>"))
    assert threads.answer(broken).verdict == "none"
    assert set(threads.table(broken)["trials"]) == {"crashed 6"}
    assert threads.answer(view(counts=(2,))).verdict == "measured"


def test_the_table() -> None:
    table = threads.table(view()).set_index("n_threads")
    assert list(table.index) == ["1", "2", "4", "5", "8"]
    assert table["decode against the quickest"]["8"].endswith("slower")
    assert table["prefill against the quickest"]["4"] == "quickest"


def test_the_figure_has_a_line_per_choice_of_cores() -> None:
    left, right = threads.figure(view(cores={None: 0.01, "physical": 0.01}))
    for ax in (left, right):
        labels = [line.get_label() for line in ax.lines if len(line.get_xdata()) == 5]
        assert labels == ["any", "physical cores"]
        assert ax.get_ylim()[0] == 0
        assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "4", "5", "8"]
    assert "more than can be busy" in words(left)
    assert "Nothing was measured" in words(threads.figure(view(failure=("oom", "no memory"))))
    _, two = plt.subplots(1, 2)
    assert list(threads.figure(view(rounds=1), axes=two)) == list(two)


@pytest.mark.engine
@pytest.mark.usefixtures("outputs")
def test_on_one_cpu_every_thread_stays_there_and_the_threads_are_as_asked() -> None:
    cpu = limits.allowed_cpus()[0]
    plan = lab.experiments.threads(
        n_threads=[1, 2], cores=[cpu], prompt_tokens=16, max_tokens=4, rounds=1, repeats=0
    )
    data = lab.run(plan, progress=False).frame()
    assert set(data["status"]) == {"ok"} and len(data) == 3
    assert set(data["effective_cores"]) == set(data["cores"]) == {str(cpu)}
    assert (data["effective_n_threads"] == data["n_threads"]).all()


@pytest.mark.notebook
@pytest.mark.engine
def test_the_notebook(carried_out: CarriedOut) -> None:
    # One thread: two would wait for each other on a busy machine.
    data, page = carried_out(
        "threads", n_threads=1, cores='["any", [0]]', prompt_tokens=32, max_tokens=4, rounds=1
    )
    assert set(data["status"]) == {"ok"} and set(data["cores"]) == {"any", "0"}
    assert "decode needs <strong>1 thread" in page
