"""The figures of a sweep are drawn, then asked what they show: labels, limits, hatches, words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from llm_latency.errors import ParameterError
from llm_latency.questions import sweep
from llm_latency.questions.sweep.grouping import grouping_of, levels
from llm_latency.records import frame as fr
from llm_latency.report.page import Rows
from llm_latency.words import MIB
from tests.support import factories

matplotlib.use("agg")

Draw = Callable[..., Any]
EVERY: list[Draw] = [
    sweep.figure,
    sweep.ttft_by_prompt,
    sweep.total_by_generated,
    sweep.speed_heatmap,
    sweep.latency_by_memory,
    sweep.memory_by_n_ctx,
]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def view(frame: pd.DataFrame) -> sweep.View:
    return sweep.View(Rows(frame, factories.info()))


def words(ax: Axes) -> str:
    """Return all text of the figure."""
    figure = ax.get_figure()
    assert figure is not None
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def hatched(ax: Axes) -> list[Rectangle]:
    return [p for p in ax.patches if isinstance(p, Rectangle) and p.get_hatch()]


def by_batch(settings: Any, prompt: int) -> float:
    return prompt * 0.001 * (128 / settings.n_batch) ** 0.5


def by_both(settings: Any, prompt: int) -> float:
    return prompt * 0.001 * (128 / settings.n_batch) ** 0.5 * (settings.n_ctx / 512)


def same(settings: Any, prompt: int) -> float:
    return 0.1 + prompt * 0.0005


UNKNOWN = [
    *("kv_bytes", "weights_bytes", "compute_bytes", "output_bytes", "rss_peak_bytes"),
    *("rss_bytes", "decode_tps", "total_s", "ttft_s", "itl_s"),
]
POOR = {
    "empty": factories.to_frame([]),
    "all failed": factories.frame(
        n_ctx=(512,), n_batch=(128, 256), failed={(512, b): ("oom", "") for b in (128, 256)}
    ),
    "one cell": factories.frame(n_ctx=(512,), n_batch=(128,), prompts=(64,), rounds=1),
    "one token": factories.frame(max_tokens=1, rounds=1),
    "nothing known": factories.frame(rounds=1).assign(**dict.fromkeys(UNKNOWN)),
}


@pytest.mark.parametrize("draw", EVERY)
@pytest.mark.parametrize("frame", POOR.values(), ids=POOR)
def test_poor_frames_are_drawn_as_what_they_are(draw: Draw, frame: pd.DataFrame) -> None:
    axes = np.atleast_1d(draw(view(frame)))
    axes[0].figure.canvas.draw()
    text = words(axes[0])
    if not (frame["status"] == "ok").any():
        assert ("oom" if len(frame) else "was measured") in text


@pytest.mark.parametrize("draw", EVERY)
def test_settings_of_matplotlib_stay_as_they_were(draw: Draw) -> None:
    before = dict(matplotlib.rcParams)
    matplotlib.interactive(True)
    try:
        draw(view(factories.frame(rounds=1)))
        assert plt.isinteractive(), "a notebook shows figures only while this is on"
    finally:
        matplotlib.interactive(False)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("draw", EVERY[1:])
def test_axes_of_others_are_used(draw: Draw) -> None:
    _, ax = plt.subplots()
    assert draw(view(factories.frame(rounds=1)), ax=ax) is ax
    assert len(plt.get_fignums()) == 1


def test_two_axes_or_none() -> None:
    _, two = plt.subplots(1, 2)
    drawn = sweep.figure(view(factories.frame(rounds=1)), axes=two)
    assert list(drawn) == list(two)
    with pytest.raises(ParameterError, match="give two"):
        sweep.figure(view(factories.frame(rounds=1)), axes=[two[0]])


def test_latencies_start_at_zero() -> None:
    frame = factories.frame(rounds=2)
    for ax in (
        *sweep.figure(view(frame)),
        sweep.latency_by_memory(view(frame)),
        sweep.memory_by_n_ctx(view(frame)),
    ):
        assert ax.get_ylim()[0] == 0
    left, right = sweep.figure(view(frame))
    assert left.get_xlim()[0] == right.get_xlim()[0] == 0
    assert left.get_ylabel() == "TTFT, ms" and right.get_ylabel().endswith("ms")


def test_lines_go_through_the_medians_and_points_are_processes() -> None:
    frame = factories.frame(rounds=5, ttft=by_batch)
    ax = sweep.ttft_by_prompt(view(frame))
    lines = {line.get_label(): line for line in ax.lines}
    assert set(lines) == {"n_batch 128", "n_batch 256", "n_batch 512"}
    good = frame[(frame["n_batch"] == 256) & (frame["prompt_tokens"] == 192)]
    expected = good.groupby("trial_id")["ttft_s"].median()
    assert lines["n_batch 256"].get_ydata()[1] == pytest.approx(expected.median() * 1e3)
    samples = {c.get_label(): c for c in ax.collections}["_samples n_batch 256"]
    assert len(samples.get_offsets()) == 5 * 3 * 3  # rounds x n_ctx x lengths, not generations


def test_curves_reach_the_total_latency() -> None:
    frame = factories.frame(rounds=2, ttft=by_batch)
    ax = sweep.total_by_generated(view(frame))
    (line,) = [line for line in ax.lines if line.get_label() == "n_batch 512"]
    assert list(line.get_xdata()) == list(range(1, 33))
    part = frame[(frame["n_batch"] == 512) & (frame["prompt_tokens"] == 448)]
    assert line.get_ydata()[-1] == pytest.approx(part["total_s"].median() * 1e3, rel=0.01)
    assert line.get_ydata()[0] == pytest.approx(part["ttft_s"].median() * 1e3, rel=0.01)
    thin = [line for line in ax.lines if line.get_label() == "_process"]
    assert len(thin) == 9 * 2
    assert "448" in ax.get_xlabel()


@pytest.mark.parametrize(
    ("ttft", "labels", "sentence"),
    [
        (same, [""], "All 9 cells lie within"),
        (by_batch, ["n_batch 128", "n_batch 256", "n_batch 512"], "one line per n_batch"),
        (by_both, None, "Labels: n_ctx · n_batch"),
    ],
)
def test_as_few_lines_as_tell_the_truth(ttft: Any, labels: list[str] | None, sentence: str) -> None:
    grouping = grouping_of(fr.by_cell(factories.frame(rounds=3, ttft=ttft)))
    found = [group.label for group in grouping.groups]
    assert found == labels if labels else len(found) == 9
    assert sentence in grouping.sentence
    assert sum(len(group.cells) for group in grouping.groups) == 9


def test_settings_that_make_no_difference_are_drawn_together() -> None:
    frame = factories.frame(
        rounds=2, ttft=by_both, others={"flash_attn": [False, True]}, n_ctx=(512, 2048)
    )
    grouping = grouping_of(fr.by_cell(frame))
    assert len(grouping.groups) == 6
    assert "flash_attn False/True" in grouping.sentence
    looks = {(group.colour, group.dash) for group in grouping.groups}
    assert len(looks) == 6
    mixed = frame.assign(flash_attn=frame["flash_attn"].where(~frame["twin"], "auto"))
    assert levels(mixed, "flash_attn") == ["False", "True", "auto"]


def test_failed_cells_are_hatched_with_their_word_and_no_colour() -> None:
    ax = sweep.speed_heatmap(view(factories.frame(rounds=6, failed=factories.FAILED)))
    assert len(hatched(ax)) == 2
    assert {p.get_facecolor()[:3] for p in hatched(ax)} == {(1.0, 1.0, 1.0)}
    text = words(ax)
    assert "oom 6" in text
    assert "invalid: 14" in text, "measured, but struck"
    assert text.count("n 6") == 7


def test_heatmap_does_not_blow_up_noise() -> None:
    ax = sweep.speed_heatmap(view(factories.frame(rounds=6)))
    bar = ax.figure.axes[-1]
    low, high = bar.get_ylim()
    assert (high - low) / ((high + low) / 2) == pytest.approx(0.2, rel=0.02)
    assert "slowest to fastest" in words(ax)


def test_heatmap_covers_real_differences() -> None:
    frame = factories.frame(rounds=6, ttft=by_both)
    ax = sweep.speed_heatmap(view(frame), "prefill_tps")
    low, high = ax.figure.axes[-1].get_ylim()
    longest = frame[frame["prompt_tokens"] == 448]
    assert low > 0
    assert low < longest.groupby("cell_id")["prefill_tps"].median().min() * 1.01
    assert high > longest.groupby("cell_id")["prefill_tps"].median().max() * 0.99
    assert "n < 6" not in words(ax)
    assert "n < 6" in words(sweep.speed_heatmap(view(factories.frame(rounds=2))))


def test_heatmap_says_what_was_not_planned() -> None:
    frame = factories.frame(rounds=1)
    ax = sweep.speed_heatmap(view(frame[~((frame["n_ctx"] == 512) & (frame["n_batch"] == 128))]))
    shown = [t for t in ax.texts if t.get_text() == "not planned" and t.get_zorder() < 1]
    assert shown


def test_heatmap_refuses_unknown_metrics() -> None:
    with pytest.raises(ParameterError, match="give 'decode_tps' or"):
        sweep.speed_heatmap(view(factories.frame(rounds=1)), "speed")  # type: ignore[arg-type]


def test_memory_axis_says_which_memory_and_why() -> None:
    on_cpu = sweep.latency_by_memory(view(factories.frame(rounds=1))).get_xlabel()
    assert on_cpu.startswith("RAM, MiB") and "no layer was on a GPU" in on_cpu
    on_gpu = sweep.latency_by_memory(view(factories.frame(rounds=1, gpu=True))).get_xlabel()
    assert on_gpu.startswith("VRAM, MiB")
    blind = factories.frame(rounds=1, gpu=True)
    blind["vram_process_bytes"] = None
    assert "whole card" in sweep.latency_by_memory(view(blind)).get_xlabel()
    blind["vram_source"] = "engine"
    assert "the engine tells" in sweep.latency_by_memory(view(blind)).get_xlabel()
    blind["vram_process_bytes"], blind["vram_source"] = 1.0 * 2**20, "buffers"
    assert "buffers" in sweep.latency_by_memory(view(blind)).get_xlabel()
    blind["vram_process_bytes"] = blind["vram_delta_bytes"] = None
    assert "could not be read" in sweep.latency_by_memory(view(blind)).get_xlabel()


def test_memory_axis_does_not_blow_up_small_differences() -> None:
    ax = sweep.latency_by_memory(view(factories.frame(rounds=1, n_ctx=(512, 768), n_batch=(128,))))
    low, high = ax.get_xlim()
    assert (high - low) / (high + low) == pytest.approx(0.1, rel=0.01)


def test_every_cell_is_named_in_latency_by_memory() -> None:
    ax = sweep.latency_by_memory(view(factories.frame(rounds=2, failed=factories.FAILED)))
    filled = [line for line in ax.lines if line.get_label().startswith("n_ctx")]
    assert len(filled) == 7
    assert "512 · 128" in words(ax)
    assert "n_ctx 2048, n_batch 512 (oom" in words(ax)


def test_bars_are_the_parts_that_llama_cpp_named() -> None:
    frame = factories.frame(rounds=1, n_batch=(512,))
    ax = sweep.memory_by_n_ctx(view(frame))
    kv = [c for c in ax.containers if c.get_label() == "_KV cache"]
    assert [bar.get_height() for c in kv for bar in c] == pytest.approx([4, 8, 16])
    top = kv[-1][0].get_y()
    assert top == pytest.approx(100), "the weights lie below"
    marks = [line for line in ax.lines if line.get_label() == "_RSS peak marker"]
    peaks = frame.groupby("n_ctx")["rss_peak_bytes"].max() * MIB
    assert [line.get_ydata()[0] for line in marks] == pytest.approx(list(peaks))
    for name in ("weights", "KV cache", "compute", "n_ctx 512", "n_ctx 2048"):
        assert name in words(ax)


def test_bars_that_are_alike_are_one() -> None:
    ax = sweep.memory_by_n_ctx(view(factories.frame(rounds=1, n_ctx=(2048,), n_batch=(512, 1024))))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["512–1024"]


def test_failed_bars_are_hatched() -> None:
    ax = sweep.memory_by_n_ctx(view(factories.frame(rounds=1, failed=factories.FAILED)))
    assert len(hatched(ax)) == 2
    assert "oom 3" in words(ax)


def test_failures_are_named_under_the_figure() -> None:
    left, _ = sweep.figure(view(factories.frame(rounds=1, failed=factories.FAILED)))
    text = words(left)
    assert "Not drawn: n_ctx 2048, n_batch 512 (oom 3)" in text
    assert "Grey ×, in no line: n_ctx 1024, n_batch 128 (invalid 3)" in text
    crosses = [c for c in left.collections if c.get_label() == "invalid"]
    assert crosses and len(crosses[0].get_offsets()) == 3 * 2
