"""One look: labels that do not cover each other, and colours that a greyscale print keeps apart."""

from __future__ import annotations

import itertools

import matplotlib
import matplotlib.pyplot as plt
import pytest

from llm_latency.report import style
from llm_latency.report.labels import End, label_ends

matplotlib.use("agg")


def test_labels_stand_beside_the_lines_and_apart() -> None:
    _, ax = plt.subplots()
    ax.set_ylim(0, 100)
    ends = [End(1, y, f"line {y}", "#000000") for y in (50, 50.5, 51, 90)]
    label_ends(ax, ends)
    ax.get_figure().canvas.draw()
    # An annotation's own extent holds its leader line too.
    boxes = [matplotlib.text.Text.get_window_extent(text) for text in ax.texts]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_colours_keep_their_order_in_greyscale(count: int) -> None:
    light = [style.luminance(colour) for colour in style.ramp(count)]
    assert light == sorted(light)
    assert all(b - a > 0.03 for a, b in itertools.pairwise(light))
    assert all(style.luminance(style.deep(c)) <= 0.34 for c in style.ramp(count))


def test_parts_differ_in_greyscale() -> None:
    light = [style.luminance(colour) for colour in style.PART_COLOURS]
    assert all(b - a > 0.1 for a, b in itertools.pairwise(light))


def test_labels_stay_below_the_title() -> None:
    _, ax = plt.subplots()
    ax.set_ylim(0, 100)
    label_ends(ax, [End(1, y, f"line {y}", "#000000") for y in range(91, 100)])
    ax.get_figure().canvas.draw()
    top = max(matplotlib.text.Text.get_window_extent(text).y1 for text in ax.texts)
    assert top <= ax.get_window_extent().y1
