"""What does a longer prompt cost?"""

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
from llm_latency.views.prompt_lengths import PromptLengths
from tests.support import factories
from tests.support.pages import CarriedOut, text, words

ROOT = Path(__file__).parents[2]
INFO = factories.info()
LENGTHS = (2, 64, 256, 512, 520, 1024, 2048)
Ttft = Callable[[Settings, int], float]


def straight(settings: Settings, prompt: int) -> float:
    return 0.003 + 1e-4 * prompt


def bent(settings: Settings, prompt: int) -> float:
    return 0.003 + 1e-4 * prompt + 1e-8 * prompt**2


def flattening(settings: Settings, prompt: int) -> float:
    return 0.003 + 1e-4 * prompt - 1e-8 * prompt**2


def stepped(settings: Settings, prompt: int) -> float:
    return straight(settings, prompt) + 0.006 * (-(-prompt // 512) - 1)


def constant(settings: Settings, prompt: int) -> float:
    return 0.05


def made(
    ttft: Ttft = straight,
    *,
    lengths: Sequence[int] = LENGTHS,
    rounds: int = 6,
    between: float = 0.003,
    twin: bool = True,
    failed: dict[int, factories.Failure] | None = None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    settings = settings or Settings(n_ctx=2304)
    records = []
    for number in range(rounds):
        again = [(lengths[-1], True)] if twin else []
        for tokens, is_twin in [*((n, False) for n in lengths), *again]:
            records.append(
                factories.record(
                    settings,
                    workload=Workload(prompt_tokens=tokens, max_tokens=16, repeats=1),
                    round=number,
                    order=len(records),
                    twin=is_twin,
                    ttft=ttft,
                    factor=float(np.exp(rng.normal(0, between))),
                    rng=rng,
                    failure=(failed or {}).get(tokens),
                )
            )
    return factories.to_frame(records)


def said(frame: pd.DataFrame) -> str:
    return text(answers.prompt_size(frame, INFO))


def test_the_default_plan_holds_the_longest_and_measures_twice_above_an_edge() -> None:
    plan = experiments.prompt_size()
    lengths = [cell.workload.prompt_tokens for cell in plan.cells if not cell.twin]
    assert lengths == [2, 16, 64, 128, 256, 512, 520, 768, 1024, 1536, 2048]
    assert [c.workload.prompt_tokens for c in plan.cells if c.twin] == [520]
    assert {c.settings.n_ctx for c in plan.cells} == {2304}
    assert plan.rounds == 6 and {c.workload.max_tokens for c in plan.cells} == {16}


def test_a_plan_follows_what_is_asked() -> None:
    plan = experiments.prompt_size(prompt_tokens="[900, 40]", max_tokens=8, n_batch=256)
    assert [c.workload.prompt_tokens for c in plan.cells] == [40, 900, 900]
    assert {c.settings.n_ctx for c in plan.cells} == {1024}
    small = experiments.prompt_size(prompt_tokens=[2, 8], n_batch=1000)
    assert {c.settings.n_ctx for c in small.cells} == {1024}  # a smaller one would limit n_batch
    larger = experiments.prompt_size(prompt_tokens=[100, 256, 260], n_ubatch=256, n_ctx=4096)
    assert {c.settings.n_ctx for c in larger.cells} == {4096}
    assert [c.workload.prompt_tokens for c in larger.cells if c.twin] == [260]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n_ctx": 1024}, ["n_ctx=1024", "prompt_tokens=2048", "give n_ctx=2304, or 0"]),
        ({"n_ctx": -1}, ["n_ctx=-1"]),
        ({"prompt_tokens": [16, 0]}, ["prompt_tokens=0", "greater than or equal to 1"]),
        ({"prompt_tokens": ["many", 8]}, ["prompt_tokens='many'", "integer"]),
        ({"prompt_tokens": []}, ["prompt_tokens=[]"]),
        ({"max_tokens": [8, 16]}, ["max_tokens=[8, 16]", "one value"]),
        ({"promt_tokens": 8}, ["promt_tokens", "did you mean 'prompt_tokens'"]),
    ],
)
def test_wrong_values_are_refused(given: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ParameterError) as caught:
        experiments.prompt_size(**given)
    for word in words:
        assert word in str(caught.value)


def test_a_straight_line_is_told_per_token_and_per_word() -> None:
    answer = said(made())
    assert "after a prompt of 2,048 tokens (1,365 words)" in answer
    assert re.search(r"\*\*\d\d\.\d times\*\* as long .*\*\*slower\*\*", answer)
    assert "Of the 5 lengths between, 5 are slower than the shortest, from 64 tokens on." in answer
    slope = re.search(
        r"1,000 further prompt tokens cost ([\d.]+) ms\*\* of prefill \(95 % interval "
        r"([\d.]+) to ([\d.]+) ms, n = 42 processes at 7 lengths\), ([\d,]+) tok/s",
        answer,
    )
    assert slope
    middle, low, high = (float(slope[i]) for i in (1, 2, 3))
    # The engine's part is 99 % of TTFT in made-up records.
    assert low <= middle <= high and middle == pytest.approx(99, rel=0.02)
    per_token, per_word = re.search(
        r"16 tokens generated: [\d.]+ ms \+ ([\d.]+) ms × tokens, or [\d.]+ ms \+ ([\d.]+) ms "
        r"× words\.",
        answer,
    ).groups()  # type: ignore[union-attr]
    assert float(per_word) == pytest.approx(1.5 * float(per_token), rel=0.03)
    assert "1,730 ms + 2.40 ms × words; here up to 1,365." in answer
    assert "No bend is told from none" in answer and "bends" not in answer
    assert "no edge** to see beyond 2.0 %" in answer and "the edge **shows**" not in answer
    assert "From 512 to 520 tokens, 1 to 2 batches" in answer


def test_the_square_of_attention_is_found_with_its_share_and_where_it_begins_to_matter() -> None:
    answer = said(made(bent))
    assert "It bends **upwards**" in answer and "No bend" not in answer
    added = re.search(r"adds ([\d.]+) ms \(95 % interval ([\d.]+) to ([\d.]+) ms, n = 6", answer)
    assert added
    assert float(added[1]) == pytest.approx(0.99e-8 * 2048**2 * 1000, rel=0.1)
    # 1e-8 n = 0.1 * 1e-4
    where = re.search(r"10 % of the straight part at about ([\d,]+) tokens", answer)
    assert where and float(where[1].replace(",", "")) == pytest.approx(1000, rel=0.15)
    assert "It bends **downwards**" in said(made(flattening))


def test_an_edge_shows_only_where_there_is_one() -> None:
    answer = said(made(stepped))
    assert re.search(
        r"the edge \*\*shows\*\*: per token \*\*1\d % more\*\*.*\*\*slower\*\*", answer
    )
    step = re.search(r"These 8 tokens take ([\d.]+) ms .* along the line they would take", answer)
    assert step and float(step[1]) == pytest.approx(6.7, rel=0.15)
    noisy = said(made(between=0.2))
    assert "whether the edge shows is **undecided**" in noisy
    far = said(made(stepped, lengths=(2, 256, 512, 1024)))
    assert "no two measured lengths lie close to each other" in far
    assert "such as 512 and 520" in far


def test_edges_are_those_of_the_batches_in_force() -> None:
    small = PromptLengths(made(settings=Settings(n_ctx=2304, n_batch=768, n_ubatch=512)))
    # Calls of 768, each computed as 512 and 256.
    assert small.borders == [512, 768, 1280, 1536]
    assert [small.batches(n) for n in (1, 512, 513, 768, 769, 1536)] == [1, 1, 2, 2, 3, 4]
    assert [(e.below, e.above, e.batches) for e in small.edges] == [(512, 520, 1)]
    assert PromptLengths(made(settings=Settings(n_ctx=2304, n_batch=2048))).edges
    unbroken = PromptLengths(made(settings=Settings(n_ctx=2304, n_batch=2048, n_ubatch=2048)))
    assert unbroken.edges == [] and unbroken.borders == []


def test_no_growth_is_no_slower() -> None:
    answer = said(made(constant, between=0.001))
    assert "**same**" in answer and "slower" not in answer
    assert "times** as long" not in answer
    assert "processes at 7 lengths), **not told from nothing**." in answer


def test_lengths_that_cannot_be_told_from_the_shortest_are_named() -> None:
    def late(settings: Settings, prompt: int) -> float:
        return 0.05 + (0.02 if prompt > 500 else 0.0)

    answer = said(made(late, between=0.001))
    assert "3 are slower than the shortest, from 512 tokens on; 64 and 256 tokens: same." in answer


def test_too_few_rounds_are_undecided_with_the_reason() -> None:
    answer = said(made(bent, rounds=2))
    assert "**undecided** (2 paired rounds; 6 are the fewest for a verdict)" in answer
    assert "**slower**" not in answer
    assert "**Undecided** below 6 rounds" in answer and "bends" not in answer
    assert "the edge **shows**" not in answer
    one = said(made(rounds=1, lengths=(8, 64)))
    assert "What a further token costs is **undecided**: 2 processes measured" in one
    assert "a square needs 4 lengths" in one


def test_without_a_twin_there_is_no_verdict() -> None:
    answer = said(made(stepped, twin=False))
    assert "no cell was measured twice" in answer
    assert "**slower**" not in answer and "the edge **shows**" not in answer


def test_one_length_says_nothing_of_longer_ones() -> None:
    answer = said(made(lengths=(64,)))
    assert "Whether a longer prompt is slower is **undecided**" in answer
    assert "give prompt_tokens several lengths" in answer
    assert "further prompt tokens cost" not in answer


def test_failures_are_named_by_their_length() -> None:
    oom: factories.Failure = ("oom", "no room for <b>2048</b>")
    frame = made(failed={2048: oom})
    answer = said(frame)
    assert "Some trials failed:** prompts of 2,048 tokens (oom 6)" in answer
    assert "after a prompt of 1,024 tokens" in answer
    table = answers.prompt_size_table(frame)
    last = table.iloc[-1]
    assert last["tokens"] == "2,048" and last["trials"] == "oom 6" and last["TTFT, ms"] == "–"
    every = made(failed=dict.fromkeys(LENGTHS, oom))
    assert "No cell could be measured" in said(every)
    assert "<b>" not in str(answers.prompt_size(every, INFO).data)
    assert "could not be measured at any length" in text(answers.prompt_size_reading(every))
    assert "Nothing has been measured yet" in said(factories.to_frame([]))


def test_missing_values_are_survived() -> None:
    frame = made().assign(prefill_s=None, prefill_tps=None, prompt_words=None)
    answer = said(frame)
    assert "after a prompt of 2,048 tokens and" in answer
    assert "What a further token costs is **undecided**" in answer
    assert "words" not in answer.split("first measurements")[0]
    assert "not be measured" in text(answers.prompt_size_reading(frame))
    assert list(answers.prompt_size_table(frame)["prefill, ms"].unique()) == ["–"]
    nothing = made().assign(ttft_s=None)
    assert "no process has a known TTFT" in said(nothing)
    assert list(answers.prompt_size_table(nothing)["TTFT, ms"].unique()) == ["–"]
    assert "Nothing was measured" in words(plots.prompt_size(nothing))


def test_the_table_has_a_row_per_length() -> None:
    table = answers.prompt_size_table(made())
    assert list(table["tokens"]) == [f"{n:,}" for n in LENGTHS]
    assert list(table["words"]) == ["1", "42", "170", "341", "346", "682", "1,365"]
    assert list(table["batches"]) == ["1", "1", "1", "1", "2", "2", "4"]
    assert list(table["TTFT against the shortest"]) == ["–", *["slower"] * 6]
    assert table["prefill, ms"].str.endswith("n 6").all()
    assert answers.prompt_size_table(factories.to_frame([])).empty


def test_the_reading_names_the_fastest_length() -> None:
    reading = text(answers.prompt_size_reading(made(stepped)))
    assert re.search(r"highest median prefill speed is [\d,]+ tok/s .* at 512 tokens", reading)
    assert "beyond 512, 1,024 and 1,536 tokens a batch more" in reading


def test_the_figure_shows_points_line_band_and_edges() -> None:
    left, right = plots.prompt_size(made(bent))
    left.figure.canvas.draw()
    assert len(left.collections[0].get_offsets()) == 6 * len(LENGTHS)
    labels = [line.get_label() for line in left.lines]
    assert labels.count("_edge") == 3
    assert sum(label.startswith("line: ") for label in labels) == 1
    assert "with a square: bends upwards" in labels
    assert any(c.get_label() == "_band" for c in left.collections)
    assert left.get_ylim()[0] == 0 and right.get_ylim()[0] == 0
    assert "a further batch begins (n_ubatch 512)" in words([left])
    width, _ = left.figure.get_size_inches() * 100
    assert width == 800
    plain, _ = plots.prompt_size(made())
    assert not any("square" in str(line.get_label()) for line in plain.lines)


def test_the_figure_says_what_failed_and_copes_with_nothing() -> None:
    failed = made(failed={2048: ("oom", "x")})
    assert "Not drawn: prompts of 2,048 tokens (oom 6)" in words(plots.prompt_size(failed))
    for frame in (factories.to_frame([]), made(failed=dict.fromkeys(LENGTHS, ("crashed", "x")))):
        axes = plots.prompt_size(frame)
        axes[0].figure.canvas.draw()
        assert "Nothing was measured" in words(axes)
    for frame in (made(lengths=(64,), rounds=1), made().assign(prefill_s=None, prefill_tps=None)):
        plots.prompt_size(frame)[0].figure.canvas.draw()
    with pytest.raises(ParameterError, match="give two"):
        plots.prompt_size(made(rounds=1), axes=[plt.subplots()[1]])


@pytest.mark.notebook
@pytest.mark.engine
def test_the_notebook_runs(carried_out: CarriedOut) -> None:
    frame, page = carried_out(
        "prompt_size", prompt_tokens=[2, 64, 66], n_ubatch=64, rounds=2, max_tokens=4, repeats=0
    )
    assert set(frame["status"]) == {"ok"}
    assert len(frame) == (3 + 1) * 2
    assert set(frame.loc[frame["prompt_tokens"] == 2, "prompt_words"]) == {1}  # one word
    assert "What does a longer prompt cost?" in page
    assert "From 64 to 66 tokens, 1 to 2 batches" in page
