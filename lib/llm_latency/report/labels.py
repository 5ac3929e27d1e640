"""Direct labels: the names of lines and points beside them, none upon another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from llm_latency.report.style import HATCH, INK, deep


class End(NamedTuple):
    """Where a line ends, and what it is called."""

    x: float
    y: float
    text: str
    colour: Any


def label_ends(ax: Axes, ends: Sequence[End], *, leader: bool = False) -> None:
    """Write names beside the ends of lines, moved apart just so far that none covers another.

    Call it last: it reads the limits of the axes.
    """
    if not ends:
        return
    points, ground = 72 / ax.figure.dpi, ax.get_window_extent().y0
    height_points = ax.get_window_extent().height * points
    ordered = sorted(ends, key=lambda end: end.y)
    at = [(ax.transData.transform((end.x, end.y))[1] - ground) * points for end in ordered]
    gaps = [13.0 + 11.5 * end.text.count("\n") for end in ordered]
    placed: list[float] = []
    for index, want in enumerate(at):
        needs = (gaps[index - 1] + gaps[index]) / 2 if index else 0.0
        placed.append(max(want, placed[-1] + needs) if placed else want)
    # Pushed upwards only so far; now let the whole pile sink back to its middle.
    # It stays beside the axes, below their title; a pile too high for them stands on the ground.
    shift = min((sum(at) - sum(placed)) / len(at), height_points - gaps[-1] / 2 - placed[-1])
    shift = max(shift, gaps[0] / 2 - 6 - placed[0])
    placed = [place + shift for place in placed]
    # All names of a pile stand in one column.
    moved = leader or any(abs(a - b) > 5 for a, b in zip(at, placed, strict=True))
    for end, want, place in zip(ordered, at, placed, strict=True):
        ax.annotate(
            end.text,
            (end.x, end.y),
            (10 if not moved else 20, place - want),
            xycoords="data",
            textcoords="offset points",
            ha="left",
            va="center",
            fontsize=9.5,
            color=INK if leader else deep(end.colour),
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": end.colour,
                "linewidth": 1.2 if not leader else 2.2,
                "relpos": (0.0, 0.5),
                "shrinkA": 1,
                "shrinkB": 2,
            }
            if moved
            else None,
        )


def label_points(ax: Axes, points: Sequence[End], stems: Sequence[float]) -> None:
    """Write a name beside each point, in the free place nearest to it.

    Parameters
    ----------
    ax
        The axes, their limits set.
    points
        What is to be named.
    stems
        How far below each point its stem goes down, in data units.
    """
    scale = 72 / ax.figure.dpi
    box = ax.get_window_extent()
    width, height = box.width * scale, box.height * scale
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    taken: list[tuple[float, Box]] = []
    centres = []
    for point, stem in zip(points, stems, strict=True):
        x, y = (point.x - x0) / (x1 - x0) * width, (point.y - y0) / (y1 - y0) * height
        foot = (stem - y0) / (y1 - y0) * height
        centres.append((x, y))
        taken += [
            (10, Box(x - 5, y - 5, x + 5, y + 5)),
            (10, Box(x - 5, foot - 5, x + 5, foot + 5)),
        ]
        taken.append((10, Box(x - 1.5, foot, x + 1.5, y)))
    for point, (x, y) in zip(points, centres, strict=True):
        long = 5.5 * len(point.text)

        def place(dx: float, dy: float, x: float = x, y: float = y, long: float = long) -> Box:
            left = x + dx - (0 if dx > 0 else long if dx < 0 else long / 2)
            return Box(left, y + dy - 6, left + long, y + dy + 6)

        def cost(offset: tuple[float, float], place: Any = place) -> float:
            here = place(*offset)
            hit = sum(weight * here.overlap(other) for weight, other in taken)
            inside = here.overlap(Box(0, 0, width, height))
            outside = (here.right - here.left) * (here.top - here.bottom) - inside
            return float(hit + 50 * outside + abs(offset[0]) * 0.1 + abs(offset[1]))

        best = min(OFFSETS, key=cost)
        taken.append((20, place(*best)))
        far = abs(best[1]) > 13
        line = {"arrowstyle": "-", "color": HATCH, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4}
        ax.annotate(
            point.text,
            (point.x, point.y),
            best,
            textcoords="offset points",
            fontsize=9,
            ha="left" if best[0] > 0 else "right" if best[0] < 0 else "center",
            va="center",
            color=deep(point.colour),
            annotation_clip=False,
            arrowprops=line if far else None,
        )


OFFSETS = [
    (dx, dy)
    for reach in (0, 13, 26, 39, 52)
    for dx, dy in ((8, reach), (-8, reach), (8, -reach), (-8, -reach), (0, 12 + reach))
]
"""Where a point's name may stand, in typographic points from it, the best places first."""


class Box(NamedTuple):
    """A rectangle on the page, in typographic points."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """Return the area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, wide) * max(0.0, high)
