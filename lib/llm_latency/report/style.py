"""The visual language of every figure: colours, hatches, direct labels, honest axes.

Colours rise in lightness, so that their order survives a greyscale print, and differ for
colour-blind eyes. Nothing global is changed: the style holds only while a figure is drawn.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from llm_latency.errors import ParameterError
from llm_latency.records import frame as fr

INK = "#1d2433"
MUTED = "#5d6675"
FAINT = "#dfe3e8"
HATCH = "#9aa3af"
ALARM = "#8c2d19"

RAMP = LinearSegmentedColormap.from_list("lab", ["#1b2a5e", "#1f78a8", "#2fa08a", "#dd9a2b"])
"""For ordered settings: dark to light."""
SHADES = LinearSegmentedColormap.from_list(
    "lab_shades", ["#f4f1e3", "#a5d0c3", "#4794ad", "#1d3c70"]
)
"""For values: light is little, dark is much."""
PART_COLOURS = ("#27375f", "#2f8f9d", "#e3b04b", "#f3dfae")
"""For the parts of memory, from the bottom: weights, KV cache, compute, output."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)))

STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "savefig.facecolor": "white",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": INK,
    "text.parse_math": False,  # a $ in a name is a $
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10.0,
    "axes.labelsize": 10.5,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "hatch.color": HATCH,
    "hatch.linewidth": 1.0,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "path",
}

P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw in the lab's style, and leave matplotlib's own settings as they were."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        # Not rc_context: the first figure of a session loads the backend, which turns
        # interactive drawing on, and rc_context would turn that off again: a notebook would
        # show no further figure.
        before = {name: mpl.rcParams[name] for name in STYLE}
        mpl.rcParams.update(STYLE)
        try:
            return draw(*args, **kwargs)
        finally:
            mpl.rcParams.update(before)

    return wrapper


def new_axes(width: float = 8.0, height: float = 3.9) -> Axes:
    """Return the axes of a new figure, 800 px wide unless told."""
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def axes_beside(axes: Sequence[Axes] | None, count: int, height: float = 3.9) -> list[Axes]:
    """Return the axes that were given, or those of a new figure, side by side.

    Raises
    ------
    ParameterError
        If other than so many were given.
    """
    if axes is None:
        figure = plt.figure(figsize=(8.0, height), layout="constrained")
        axes = list(figure.subplots(1, count))
    if len(axes) != count:
        words = {2: "two", 3: "three"}[count]
        raise ParameterError(f"axes holds {len(axes)} axes: give {words}.")
    return list(axes)


def two_axes(axes: Sequence[Axes] | None, height: float = 3.9) -> tuple[Axes, Axes]:
    """Return two axes side by side, see :func:`axes_beside`."""
    left, right = axes_beside(axes, 2, height)
    return left, right


def ramp(count: int) -> list[Any]:
    """Return ``count`` colours for an ordered setting, dark to light."""
    places = [0.08] if count == 1 else [0.04 + 0.92 * i / (count - 1) for i in range(count)]
    return [RAMP(place) for place in places]


def luminance(colour: Any) -> float:
    """Return how light a colour is, from 0 to 1, as a greyscale print shows it."""
    red, green, blue = to_rgb(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def deep(colour: Any) -> Any:
    """Return a colour dark enough for letters on white."""
    share = min(1.0, 0.33 / max(luminance(colour), 1e-6))
    return tuple(part * share for part in to_rgb(colour))


def say_empty(ax: Axes, text: str) -> Axes:
    """Turn axes without data into a sentence."""
    ax.set_axis_off()
    ax.text(
        0.5, 0.5, text, ha="center", va="center", color=MUTED, wrap=True, transform=ax.transAxes
    )
    return ax


def say_unmeasured(ax: Axes, data: pd.DataFrame, lacking: str = "") -> Axes:
    """Say in place of a drawing how the trials ended, or what is ``lacking`` of those that ran."""
    why = lacking if lacking and len(fr.ok(data)) else fr.status_words(data)
    return say_empty(ax, f"Nothing was measured:\n{why}")


def note(ax: Axes, text: str, colour: str = MUTED) -> None:
    """Put a sentence under the axes, where a reader looks for what is missing."""
    ax.annotate(
        text,
        (0, 0),
        (0, -44),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="left",
        va="top",
        fontsize=9,
        color=colour,
        annotation_clip=False,
    )


def subtitle(ax: Axes, text: str) -> None:
    """Put a muted line between the title and the axes."""
    ax.set_title(ax.get_title(loc="left"), loc="left", pad=22)
    line = ax.annotate(
        text,
        (0, 1),
        (0, 6),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="left",
        va="bottom",
        fontsize=9.5,
        color=MUTED,
        annotation_clip=False,
    )
    # The title's padding keeps its place; its width must not push the axes aside.
    line.set_in_layout(False)


def say_above(ax: Axes, sentence: str, own: bool) -> None:
    """Put a sentence over a figure of ours; into axes of others we do not write beyond them."""
    if sentence and own and isinstance(ax.figure, Figure):
        ax.figure.suptitle(sentence, x=0.012, ha="left", fontsize=9.5, color=MUTED)


def say_below(ax: Axes, sentence: str, own: bool, colour: str = ALARM) -> None:
    """Put a warning under the figure, or under the axes where the figure is not ours."""
    if not sentence:
        return
    if own and isinstance(ax.figure, Figure):
        text = textwrap.fill(sentence, 122)
        ax.figure.supxlabel(text, x=0.012, ha="left", fontsize=8.8, color=colour)
    else:
        note(ax, textwrap.fill(sentence, 80), colour)


def say_failures(data: pd.DataFrame, *, crosses: bool = False) -> str:
    """Return which cells failed and how; empty if none did, or all (then the axes say so)."""
    each = fr.processes(data)
    bad = each[each["status"] != "ok"]
    if bad.empty or len(bad) == len(each):
        return ""
    crossed = crosses & (bad["status"] == "invalid")
    said = [
        f"{word}: {fr.describe_by_status(data, part)}."
        for word, part in (("Not drawn", bad[~crossed]), ("Grey ×, in no line", bad[crossed]))
        if len(part)
    ]
    return " ".join(said)


def hatch_box(
    ax: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    word: str,
    *,
    fill: Any = "white",
    rotation: float = 0,
) -> Rectangle:
    """Draw a failed cell as what it is: hatched, without a value's colour, with its word."""
    box = Rectangle(
        (x, y),
        width,
        height,
        facecolor=fill,
        edgecolor=HATCH,
        hatch="////",
        linewidth=0.8,
        label="_failed",
    )
    ax.add_patch(box)
    ax.text(
        x + width / 2,
        y + height / 2,
        word,
        ha="center",
        va="center",
        fontsize=9.5,
        fontweight="bold",
        color=INK,
        rotation=rotation,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.6},
    )
    return box
