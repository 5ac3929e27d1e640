"""What does a longer prompt cost?"""

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
from llm_latency.questions import prompt_size
from llm_latency.report.page import Rows
from tests.support import factories
from tests.support.pages import CarriedOut, words

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


def view(*given: Any, **options: Any) -> prompt_size.View:
    return prompt_size.View(Rows(made(*given, **options), INFO))


def test_the_default_plan_holds_the_longest_and_measures_twice_above_an_edge() -> None:
    plan = prompt_size.plan()
    lengths = [cell.workload.prompt_tokens for cell in plan.cells if not cell.twin]
    assert lengths == [2, 16, 64, 128, 256, 512, 520, 768, 1024, 1536, 2048]
    assert [c.workload.prompt_tokens for c in plan.cells if c.twin] == [520]
    assert {c.settings.n_ctx for c in plan.cells} == {2304}
    assert plan.rounds == 6 and {c.workload.max_tokens for c in plan.cells} == {16}


def test_a_plan_follows_what_is_asked() -> None:
    plan = prompt_size.plan(prompt_tokens="[900, 40]", max_tokens=8, n_batch=256)
    assert [c.workload.prompt_tokens for c in plan.cells] == [40, 900, 900]
    assert {c.settings.n_ctx for c in plan.cells} == {1024}
    small = prompt_size.plan(prompt_tokens=[2, 8], n_batch=1000)
    assert {c.settings.n_ctx for c in small.cells} == {1024}  # a smaller one would limit n_batch
    larger = prompt_size.plan(prompt_tokens=[100, 256, 260], n_ubatch=256, n_ctx=4096)
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
        prompt_size.plan(**given)
    for word in words:
        assert word in str(caught.value)


def test_a_straight_line_is_told_per_token_and_per_word() -> None:
    seen = view()
    line = seen.line("prefill_s")
    assert line is not None and line.n == 42
    # The engine's part is 99 % of TTFT in made-up records.
    assert line.slope_low <= line.slope <= line.slope_high
    assert line.slope == pytest.approx(99e-6, rel=0.02)
    per_token, per_word = seen.line("total_s"), seen.line("total_s", "prompt_words")
    assert per_token is not None and per_word is not None
    assert per_word.slope == pytest.approx(1.5 * per_token.slope, rel=0.03)
    assert seen.bend is not None and seen.bend.turn == "none"
    assert [seen.across(edge).verdict for edge in seen.edges] == ["same"]
    answer = prompt_size.answer(seen)
    assert answer.verdict == "slower" and len(answer.sentences) <= 5


def test_the_square_of_attention_is_found_with_its_share_and_where_it_begins_to_matter() -> None:
    bend = view(bent).bend
    assert bend is not None and bend.turn == "upwards" and bend.added.n == 6
    assert bend.added.median == pytest.approx(0.99e-8 * 2048**2, rel=0.1)
    # 1e-8 n = 0.1 * 1e-4
    assert bend.noticeable.median == pytest.approx(1000, rel=0.15)
    turned = view(flattening).bend
    assert turned is not None and turned.turn == "downwards"


def test_an_edge_shows_only_where_there_is_one() -> None:
    seen = view(stepped)
    (edge,) = seen.edges
    assert seen.across(edge).verdict == "slower"
    assert seen.across(edge).change == pytest.approx(0.11, abs=0.03)
    noisy = view(between=0.2)
    assert noisy.across(noisy.edges[0]).verdict == "undecided"
    far = view(stepped, lengths=(2, 256, 512, 1024))
    assert far.edges == [] and "such as 512 and 520" in prompt_size.answer(far).text


def test_edges_are_those_of_the_batches_in_force() -> None:
    small = view(settings=Settings(n_ctx=2304, n_batch=768, n_ubatch=512))
    # Calls of 768, each computed as 512 and 256.
    assert small.borders == [512, 768, 1280, 1536]
    assert [(e.below, e.above, e.batches) for e in small.edges] == [(512, 520, 1)]
    assert view(settings=Settings(n_ctx=2304, n_batch=2048)).edges
    unbroken = view(settings=Settings(n_ctx=2304, n_batch=2048, n_ubatch=2048))
    assert unbroken.edges == [] and unbroken.borders == []


def test_no_growth_is_no_slower() -> None:
    answer = prompt_size.answer(view(constant, between=0.001))
    assert answer.verdict == "same" and "**not told from nothing**" in answer.text


def test_lengths_that_cannot_be_told_from_the_shortest_are_named() -> None:
    def late(settings: Settings, prompt: int) -> float:
        return 0.05 + (0.02 if prompt > 500 else 0.0)

    table = prompt_size.table(view(late, between=0.001)).set_index("tokens")
    verdicts = table["TTFT against the shortest"].str.split().str[-1].to_dict()
    assert [n for n, word in verdicts.items() if word == "same"] == ["64", "256"]
    assert next(n for n, word in verdicts.items() if word == "slower") == "512"


def test_too_few_rounds_are_undecided_with_the_reason() -> None:
    seen = view(bent, rounds=2)
    assert seen.bend is not None and seen.bend.turn == "undecided"
    answer = prompt_size.answer(seen)
    assert answer.verdict == "undecided" and answer.sure.startswith("2 paired rounds; 6")
    one = view(rounds=1, lengths=(8, 64))
    assert one.line("prefill_s") is None and one.bend is None


def test_without_a_twin_there_is_no_verdict() -> None:
    seen = view(stepped, twin=False)
    assert prompt_size.answer(seen).verdict == "undecided"
    assert seen.across(seen.edges[0]).verdict == "undecided"


def test_one_length_says_nothing_of_longer_ones() -> None:
    answer = prompt_size.answer(view(lengths=(64,)))
    assert answer.verdict == "undecided" and answer.line == "one length was measured"


def test_failures_are_named_by_their_length() -> None:
    oom: factories.Failure = ("oom", "no room for <b>2048</b>")
    seen = view(failed={2048: oom})
    assert seen.failed() == "2,048 tokens (oom 6)" and seen.lengths[-1] == 1024
    last = prompt_size.table(seen).iloc[-1]
    assert last["tokens"] == "2,048" and last["trials"] == "oom 6" and last["TTFT, ms"] == "–"
    every = prompt_size.answer(view(failed=dict.fromkeys(LENGTHS, oom)))
    assert every.verdict == "none" and "<b>" not in every.text
    nothing = prompt_size.View(Rows(factories.to_frame([]), INFO))
    assert prompt_size.answer(nothing).verdict == "none"


def test_missing_values_are_survived() -> None:
    unknown = dict.fromkeys(("prefill_s", "prefill_tps", "prompt_words"), float("nan"))
    poor = prompt_size.View(Rows(made().assign(**unknown), INFO))
    assert prompt_size.answer(poor).verdict == "slower" and poor.line("prefill_s") is None
    assert list(prompt_size.table(poor)["prefill, ms"].unique()) == ["–"]
    nothing = prompt_size.View(Rows(made().assign(ttft_s=float("nan")), INFO))
    assert prompt_size.answer(nothing).line == "no TTFT is known"
    assert list(prompt_size.table(nothing)["TTFT, ms"].unique()) == ["–"]
    assert "Nothing was measured" in words(prompt_size.figure(nothing))


def test_the_table_has_a_row_per_length() -> None:
    table = prompt_size.table(view())
    assert list(table["tokens"]) == [f"{n:,}" for n in LENGTHS]
    assert list(table["words"]) == ["1", "42", "170", "341", "346", "682", "1,365"]
    assert list(table["batches"]) == ["1", "1", "1", "1", "2", "2", "4"]
    assert table["TTFT against the shortest"].iloc[1:].str.endswith("slower").all()
    assert table["prefill, ms"].str.endswith("n 6").all()
    assert prompt_size.table(prompt_size.View(Rows(factories.to_frame([]), INFO))).empty


def drawn(df: pd.DataFrame) -> Any:
    return prompt_size.figure(prompt_size.View(Rows(df, INFO)))


def test_the_figure_shows_points_line_band_and_edges() -> None:
    left, right = drawn(made(bent))
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
    plain, _ = drawn(made())
    assert not any("square" in str(line.get_label()) for line in plain.lines)


def test_the_figure_says_what_failed_and_copes_with_nothing() -> None:
    failed = made(failed={2048: ("oom", "x")})
    assert "Not drawn: prompts of 2,048 tokens (oom 6)" in words(drawn(failed))
    for frame in (factories.to_frame([]), made(failed=dict.fromkeys(LENGTHS, ("crashed", "x")))):
        axes = drawn(frame)
        axes[0].figure.canvas.draw()
        assert "Nothing was measured" in words(axes)
    for frame in (
        made(lengths=(64,), rounds=1),
        made().assign(prefill_s=float("nan"), prefill_tps=float("nan")),
    ):
        drawn(frame)[0].figure.canvas.draw()
    with pytest.raises(ParameterError, match="give two"):
        prompt_size.figure(view(rounds=1), axes=[plt.subplots()[1]])


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
    assert "data:image/png" in page and "INCOMPLETE" not in page
