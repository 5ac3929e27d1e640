"""Which n_batch and n_ubatch?"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from llm_latency import answers, experiments, plots
from llm_latency.errors import ParameterError
from llm_latency.plan.spec import Settings, Workload
from tests.support import factories
from tests.support.pages import CarriedOut, text, words

ROOT = Path(__file__).parents[2]
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
    plan = experiments.batch_size()
    cells = [(c.settings.n_batch, c.settings.n_ubatch) for c in plan.cells if not c.twin]
    assert sorted(cells) == sorted(PAIRS)
    assert plan.rounds == 6 and sum(c.twin for c in plan.cells) == 1
    for cell in plan.cells:
        assert cell.workload.prompt_tokens == 1024 and cell.workload.cache_mode == "cold"


def test_pairs_that_would_be_clamped_are_not_planned() -> None:
    plan = experiments.batch_size(n_batch="[128, 256]", n_ubatch="[128, 256]", n_ctx=4096)
    cells = {(c.settings.n_batch, c.settings.n_ubatch) for c in plan.cells}
    assert cells == {(128, 128), (256, 128), (256, 256)}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"n_ubatch": 1024, "n_batch": 256}, r"n_ubatch=\[1024\]: none is within n_batch=\[256\]"),
        ({"n_ubatch": 0}, "n_ubatch=0, the engine's own, is refused here: give sizes"),
        ({"n_batch": "many"}, "n_batch='many'"),
        ({"n_ubatch": -1}, "n_ubatch=-1"),
        ({"prompt_tokens": 4000}, "need 4016 tokens of context, n_ctx=2048; raise n_ctx"),
        ({"prompt_tokens": [1, 2]}, "takes one value"),
        ({"n_bacth": 1}, "did you mean 'n_batch'"),
    ],
)
def test_what_cannot_be_right_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        experiments.batch_size(**wrong)


def test_the_smallest_that_is_as_quick_is_enough() -> None:
    said = text(answers.batch_size(frame(), INFO))
    assert "synthetic:tiny" in said and "a prompt of 1,024 tokens" in said
    assert "n_batch 1024, n_ubatch 1024 has the quickest prefill of 9 cells" in said
    assert "**n_batch 256, n_ubatch 256 is enough**" in said
    assert "undecided" not in said and "**same**" in said
    # The factory's compute buffers: 20 + 0.09 u + 2048 u 8e-6 MiB, rounded down to a byte.
    assert "compute buffers take 47.2 MiB, 20.4 MiB more than the smallest" in said
    assert "(n_batch 256, n_ubatch 64: 26.8 MiB)" in said


def test_where_more_always_helps_nothing_smaller_is_enough() -> None:
    said = text(answers.batch_size(frame(always), INFO))
    assert "n_batch 1024, n_ubatch 1024 has the quickest prefill of 9 cells" in said
    assert "**Nothing smaller is enough**" in said and "**slower**" in said
    assert "is enough**:" not in said and "undecided" not in said


def test_where_more_harms_the_smallest_is_enough() -> None:
    said = text(answers.batch_size(frame(harms), INFO))
    assert re.search(r"n_ubatch 64(\*\*)? (is also the smallest|is enough)", said)
    assert "whole process takes" in said and "the least" in said


def test_noise_leaves_it_undecided() -> None:
    said = text(answers.batch_size(frame(harms, rounds=2), INFO))
    assert "2 paired rounds; 6 are the fewest" in said and "**undecided**" in said
    noisy = text(answers.batch_size(frame(lambda s, p: 1.0, noise=0.2), INFO))
    assert "undecided" in noisy and "**Nothing smaller is enough**" not in noisy
    alone = text(answers.batch_size(frame(always, twin=False), INFO))
    assert "Whether less is enough is **undecided**" in alone
    assert "no cell was measured twice" in alone


def test_n_batch_alone() -> None:
    said = text(answers.batch_size(frame(), INFO))
    for line in re.findall(r"- n_ubatch.*", said):
        assert "n_batch 1024 against" in line and "**same**" in line
    assert len(re.findall(r"- n_ubatch", said)) == 3
    turned = text(answers.batch_size(frame(by_batch), INFO))
    assert all("**slower**" in line for line in re.findall(r"- n_ubatch.*", turned))


def test_steps_of_n_ubatch() -> None:
    said = text(answers.batch_size_reading(frame()))
    assert "with n_batch 1024" in said
    assert re.search(r"from 64 to 256: \*\*33 % shorter.*\*\*faster\*\*", said)
    assert re.search(r"from 256 to 512: .*\*\*same\*\*", said)
    assert "Decode with n_batch 1024, n_ubatch 1024 against n_batch 256, n_ubatch 64" in said


def test_the_guess_stands_beside_what_was_measured() -> None:
    said = text(answers.batch_size(frame(), INFO))
    assert "256 for 4 GB, 512 for 6 GB and 1024 for 8 GB and more" in said
    assert "47.2 MiB at n_ubatch 256" in said and "No GPU held a layer here" in said
    assert "No GPU" not in text(answers.batch_size(frame(gpu=True), INFO))
    small = frame(pairs=((64, 32), (64, 64)), rounds=1)
    assert "guess" not in text(answers.batch_size(small, INFO))


def test_stability() -> None:
    said = text(answers.batch_size(frame(), INFO))
    assert "54 of 54 processes ended ok" in said and re.search(r"up to 0\.\d %", said)
    failed = {(1024, 1024): ("oom", "no memory <b>")}
    answer = answers.batch_size(frame(failed=failed), INFO)
    assert "48 of 54 processes ended ok" in text(answer)
    assert "1 of 9 cells failed" in text(answer) and "oom 6" in text(answer)


def test_nothing_all_failed_one_cell_and_missing_values() -> None:
    assert "Nothing has been measured" in text(answers.batch_size(factories.to_frame([]), {}))
    every = {pair: ("crashed", "SIGSEGV <b>") for pair in PAIRS}
    broken = answers.batch_size(frame(failed=every), INFO)
    assert "No cell could be measured" in text(broken) and "<b>" not in str(broken.data)
    one = text(answers.batch_size(frame(pairs=((256, 256),)), INFO))
    assert "nothing to compare it with" in one and "enough" not in one
    poor = frame(rounds=1).assign(compute_bytes=None, rss_peak_bytes=None, rss_bytes=None)
    assert "is not known" in text(answers.batch_size(poor, INFO))
    untimed = text(answers.batch_size(frame(rounds=1).assign(prefill_s=None), INFO))
    assert "could not be timed" in untimed
    for data in (factories.to_frame([]), frame(failed=every)):
        assert "nothing to read" in text(answers.batch_size_reading(data))


def test_the_table() -> None:
    table = answers.batch_size_table(frame())
    assert len(table) == 9
    verdicts = table.set_index(["n_ubatch", "n_batch"])["against the quickest"].to_dict()
    assert verdicts["64", "256"] == "slower" and "quickest" in verdicts.values()
    assert set(verdicts.values()) <= {"slower", "same", "quickest"}
    assert answers.batch_size_table(factories.to_frame([])).empty


def test_the_figure_has_a_line_per_n_batch() -> None:
    left, right = plots.batch_size(frame())
    assert [line.get_label() for line in left.lines] == [
        "n_batch 256",
        "n_batch 512",
        "n_batch 1024",
    ]
    assert [len(line.get_xdata()) for line in left.lines] == [2, 3, 4]
    assert left.get_ylim()[0] == right.get_ylim()[0] == 0
    # The buffers are the same whatever n_batch is, and so they are one line.
    assert [line.get_label() for line in right.lines] == ["every n_batch"]
    apart = frame()
    apart["compute_bytes"] = apart["compute_bytes"] * apart["n_batch"]
    assert len(plots.batch_size(apart)[1].lines) == 3


def test_the_figure_says_what_failed() -> None:
    failed = {(1024, 1024): ("oom", "no memory")}
    assert "Not drawn" in words(plots.batch_size(frame(failed=failed)))
    assert "Nothing was measured" in words(plots.batch_size(factories.to_frame([])))
    unknown = plots.batch_size(frame(rounds=1).assign(compute_bytes=None))
    assert "named no compute buffers" in words(unknown)
    _, two = plt.subplots(1, 2)
    assert list(plots.batch_size(frame(rounds=1), axes=two)) == list(two)
    with pytest.raises(ParameterError, match="give two"):
        plots.batch_size(frame(rounds=1), axes=[two[0]])


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
    assert "quickest prefill of 3 cells" in page
