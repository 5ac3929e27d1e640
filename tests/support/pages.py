"""Pages as their readers see them."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.text import Text

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CarriedOut = Callable[..., tuple[pd.DataFrame, str]]
"""Runs a notebook by its name and parameters; returns its rows, and its report as text."""


def plain(page: str) -> str:
    """Return a page's text without references, each space a plain one."""
    return html.unescape(page).replace("\N{NO-BREAK SPACE}", " ")


def text(markdown: Any) -> str:
    """Return what an answer says."""
    return plain(str(markdown.data))


def words(drawn: Any) -> str:
    """Return all that is written in a figure, given it or axes of it."""
    first = drawn[0] if isinstance(drawn, Sequence | np.ndarray) else drawn
    figure = first if isinstance(first, Figure) else first.get_figure()
    return " ".join(found.get_text() for found in figure.findobj(Text))


def cells_after(name: str) -> Iterator[str]:
    """Yield a notebook's cells that read its run."""
    cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells  # type: ignore[no-untyped-call]
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    first = next(place for place, source in enumerate(sources) if "lab.run(plan)" in source)
    for source in sources[first:]:
        yield "\n".join(
            line for line in source.splitlines() if not line.startswith(("%", "run =", "plan ="))
        )
