"""Which n_batch and n_ubatch?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from llm_latency.errors import ParameterError
from llm_latency.plan.settings import Settings
from llm_latency.plan.workload import Workload
from llm_latency.questions import batch_size
from llm_latency.report.page import Rows
from tests.support import factories
from tests.support.pages import CarriedOut, plain, words

MIB = factories.MIB
INFO = factories.info()
PAIRS = tuple((b, u) for b in (256, 512, 1024) for u in (64, 256, 512, 1024) if u <= b)
WORK = Workload(prompt_tokens=1024, max_tokens=16, repeats=0)
Ttft = Callable[[Settings, int], float]


def levels(settings: Settings, prompt: int) -> float:
    """More helps up to 256 and no further."""
    return {64: 1.5, 1024: 0.99}.get(settings.n_ubatch or 0, 1.0)


def always(settings: Settings, prompt: int) -> float:
    return 100 / (settings.n_ubatch or 512)


def harms(settings: Settings, prompt: int) -> float:
    return 1 + (settings.n_ubatch or 512) / 512


def by_batch(settings: Settings, prompt: int) -> float:
    return 1 + settings.n_batch / 1024


def frame(
    ttft: Ttft = levels,
    rounds: int = 6,
    failed: dict[tuple[int, int], Any] | None = None,
    twin: bool = True,
    noise: float = 0.001,
    pairs: Sequence[tuple[int, int]] = PAIRS,
    **options: Any,
) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return factories.to_frame(
        [
            factories.record(
                Settings(n_ctx=2048, n_batch=batch, n_ubatch=ubatch),
                workload=WORK,
                round=round,
                ttft=ttft,
                factor=float(np.exp(rng.normal(0, noise))),
                twin=again,
                failure=(failed or {}).get((batch, ubatch)),
                **options,
            )
            for round in range(rounds)
            for batch, ubatch in pairs
            for again in ((False, True) if twin and (batch, ubatch) == pairs[-1] else (False,))
        ]
    )


def test_the_plan() -> None:
    plan = batch_size.plan()
    cells = [(c.settings.n_batch, c.settings.n_ubatch) for c in plan.cells if not c.twin]
    assert sorted(cells) == sorted(PAIRS)
    assert plan.rounds == 6 and sum(c.twin for c in plan.cells) == 1
    for cell in plan.cells:
        assert cell.workload.prompt_tokens == 1024 and cell.workload.cache_mode == "cold"


def test_pairs_that_would_be_clamped_are_not_planned() -> None:
    plan = batch_size.plan(n_batch="[128, 256]", n_ubatch="[128, 256]", n_ctx=4096)
    cells = {(c.settings.n_batch, c.settings.n_ubatch) for c in plan.cells}
    assert cells == {(128, 128), (256, 128), (256, 256)}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"n_ubatch": 1024, "n_batch": 256}, r"n_ubatch=\[1024\]: none is within n_batch=\[256\]"),
        ({"n_ubatch": 0}, "n_ubatch=0, the engine's own, is refused here: give sizes"),
        ({"n_batch": "many"}, "n_batch='many'"),
        ({"n_ubatch": -1}, "n_ubatch=-1"),
        ({"prompt_tokens": 4000}, "n_ctx=2048 is refused: .* need 4016 tokens"),
        ({"prompt_tokens": [1, 2]}, "takes one value"),
        ({"n_bacth": 1}, "did you mean 'n_batch'"),
    ],
)
def test_what_cannot_be_right_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        batch_size.plan(**wrong)


def view(*given: Any, info: dict[str, Any] = INFO, **options: Any) -> batch_size.View:
    return batch_size.View(Rows(frame(*given, **options), info))


def test_the_smallest_that_is_as_quick_is_enough() -> None:
    seen = view()
    assert seen.best == (1024, 1024) and batch_size.enough(seen) == ((256, 256), [])
    answer = batch_size.answer(seen)
    assert answer.verdict == "same" and len(answer.sentences) <= 5
    # The factory's compute buffers: 20 + 0.09 u + 2048 u 8e-6 MiB, rounded down to a byte.
    assert seen.compute[256, 256] / MIB == pytest.approx(47.2, abs=0.1)
    assert "47.2 MiB" in plain(answer.text) and "20.4 MiB more" in plain(answer.text)


def test_where_more_always_helps_nothing_smaller_is_enough() -> None:
    seen = view(always)
    assert batch_size.enough(seen) == ((1024, 1024), [])
    assert batch_size.answer(seen).verdict == "slower"


def test_where_more_harms_the_smallest_is_enough() -> None:
    chosen, undecided = batch_size.enough(view(harms))
    assert chosen is not None and chosen[1] == 64 and not undecided


def test_noise_leaves_it_undecided() -> None:
    for seen in (
        view(harms, rounds=2),
        view(lambda s, p: 1.0, noise=0.2),
        view(always, twin=False),
    ):
        assert {found.verdict for found in seen.against_best().values()} == {"undecided"}
    assert batch_size.answer(view(always, rounds=2)).verdict == "undecided"


def test_n_batch_alone_and_steps_of_n_ubatch() -> None:
    rows = batch_size.table(view()).set_index(["n_batch", "n_ubatch"])
    steps = rows["against the n_ubatch before"]
    assert steps["1024", "256"].startswith("−33 %") and steps["1024", "256"].endswith("faster")
    assert steps["1024", "512"].endswith("same")
    alone = rows["against the n_batch before"]
    assert all(alone["1024", size].endswith("same") for size in ("64", "256", "512"))
    turned = batch_size.table(view(by_batch)).set_index(["n_batch", "n_ubatch"])
    assert turned["against the n_batch before"]["1024", "64"].endswith("slower")


def test_stability() -> None:
    assert all(0 < spread < 0.01 for spread in view().spread().values())
    failed = {(1024, 1024): ("oom", "no memory <b>")}
    seen = view(failed=failed)
    assert (1024, 1024) not in seen.prefill and len(seen.prefill) == 8
    assert "oom 6" in set(batch_size.table(seen)["trials"])


def test_nothing_all_failed_one_cell_and_missing_values() -> None:
    nothing = batch_size.View(Rows(factories.to_frame([]), {}))
    assert batch_size.answer(nothing).verdict == "none" and batch_size.table(nothing).empty
    every = {pair: ("crashed", "SIGSEGV <b>") for pair in PAIRS}
    broken = batch_size.answer(view(failed=every))
    assert broken.verdict == "none" and "<b>" not in broken.text
    assert batch_size.answer(view(pairs=((256, 256),))).verdict == "measured"
    poor = frame(rounds=1).assign(compute_bytes=float("nan"), rss_peak_bytes=float("nan"))
    assert batch_size.View(Rows(poor, INFO)).compute == {}
    untimed = frame(rounds=1).assign(prefill_s=float("nan"))
    assert batch_size.answer(batch_size.View(Rows(untimed, INFO))).verdict == "none"


def test_the_table() -> None:
    table = batch_size.table(view()).set_index(["n_batch", "n_ubatch"])
    assert len(table) == 9
    against = table["against the quickest"]
    assert against["1024", "1024"] == "quickest" and against["256", "64"].endswith("slower")
    assert set(against.str.split().str[-1]) <= {"slower", "same", "quickest"}


def drawn(df: pd.DataFrame) -> Any:
    return batch_size.figure(batch_size.View(Rows(df, INFO)))


def test_the_figure_has_a_line_per_n_batch() -> None:
    left, right = drawn(frame())
    assert [line.get_label() for line in left.lines] == [
        "256",
        "512",
        "1024",
    ]
    assert [len(line.get_xdata()) for line in left.lines] == [2, 3, 4]
    assert left.get_ylim()[0] == right.get_ylim()[0] == 0
    # The buffers are the same whatever n_batch is, and so they are one line.
    assert [line.get_label() for line in right.lines] == ["every n_batch"]
    apart = frame()
    apart["compute_bytes"] = apart["compute_bytes"] * apart["n_batch"]
    assert len(drawn(apart)[1].lines) == 3


def test_the_figure_says_what_failed() -> None:
    failed = {(1024, 1024): ("oom", "no memory")}
    assert "Not drawn" in words(drawn(frame(failed=failed)))
    assert "Nothing was measured" in words(drawn(factories.to_frame([])))
    unknown = drawn(frame(rounds=1).assign(compute_bytes=float("nan")))
    assert "named no compute buffers" in words(unknown)
    _, two = plt.subplots(1, 2)
    assert list(batch_size.figure(view(rounds=1), axes=two)) == list(two)
    with pytest.raises(ParameterError, match="give two"):
        batch_size.figure(view(rounds=1), axes=[two[0]])


@pytest.mark.notebook
@pytest.mark.engine
def test_the_notebook(carried_out: CarriedOut) -> None:
    # One thread: two would wait for each other on a busy machine.
    data, page = carried_out(
        "batch_size", n_batch=[32, 64], n_ubatch=[32, 64], prompt_tokens=96, n_ctx=256,
        max_tokens=4, rounds=1, n_threads=1,
    )  # fmt: skip
    assert set(data["status"]) == {"ok"} and len(data) == 4
    assert (data["effective_n_ubatch"] == data["n_ubatch"]).all()
    assert "quickest prefill of 3 measured cells" in page
