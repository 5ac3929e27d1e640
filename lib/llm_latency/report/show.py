"""A table as it is seen in JupyterLab and in reports: escaped, and no wider than it must be.

Nothing in a table is trusted: the names of models, reasons and logs come from outside.
"""

from __future__ import annotations

import html
import re
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from llm_latency.words import visible, without_folders

LONG = 24
"""Letters from which on a line of text may be broken."""
PAGE = 104
"""Letters that stand side by side on a page of 800 pixels."""


def show(table: pd.DataFrame) -> Styler:
    """Return a table as it displays: no index, everything escaped, of paths only files' names.

    Statuses other than ``ok`` stand out; an empty table says that it is empty, in its own words
    where it has some (``attrs["empty"]``); one that is wider than a page is shown with its rows as
    columns, where that is narrower.

    Parameters
    ----------
    table
        Any table of the lab.
    """
    if table.empty:
        words = table.attrs.get("empty", "Nothing to show: there are no such rows.")
        return show(pd.DataFrame({"": [words]}))
    kind = "card" if table.attrs.get("card") else "grid"
    wide = kind == "grid" and _letters(table) > PAGE
    shown, turned = _narrow(table) if wide else (table, False)
    styler = shown.style.hide(axis="index")
    styler = styler.format(_on_lines, escape="html", na_rep="–")
    styler = styler.format_index(escape="html", axis=1)
    if caption := table.attrs.get("caption"):
        styler = styler.set_caption(html.escape(visible(caption)))
    styler = styler.set_table_attributes(f'class="lab {kind}"')
    # Reports bring a style sheet for these classes, JupyterLab sees only what is set here.
    styler = styler.set_td_classes(_classes(shown, turned))
    return styler.set_table_styles(
        [
            {"selector": "th, td", "props": "text-align: left; vertical-align: top"},
            {"selector": "td.bad", "props": "font-weight: bold"},
            {"selector": "td", "props": "white-space: " + ("normal" if kind == "card" else "pre")},
            {
                "selector": "td.long",
                "props": "white-space: normal; min-width: 15em; overflow-wrap: anywhere",
            },
            {"selector": "caption", "props": "caption-side: bottom; text-align: left"},
        ]
    )


def _narrow(table: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """Return a table with what names a row in its first column, and whether it was turned.

    As many columns are put together as it takes to tell the rows apart: where a page scrolls a
    table the first one stands.
    """
    for keys in range(1, len(table.columns)):
        heads = [" · ".join(map(str, row)) for row in table.iloc[:, :keys].to_numpy()]
        if len(set(heads)) == len(heads):
            break
    else:
        return table, False
    named = table.iloc[:, keys:].astype(object)
    named.insert(0, " · ".join(map(str, table.columns[:keys])), heads)
    rows = [[name, *named[name]] for name in named.columns[1:]]
    turned = pd.DataFrame(rows, columns=[named.columns[0], *heads], dtype=object)
    return (turned, True) if _letters(turned) < _letters(named) else (named, False)


def _letters(table: pd.DataFrame) -> int:
    """Return about how many letters wide a table is shown."""
    width = 0
    for name in table.columns:
        lines = [line for value in table[name] for line in _on_lines(value).split("\n")]
        words = str(name).split()
        width += 2 + max([*map(len, words), *(min(len(line), LONG) for line in lines)])
    return width


def _on_lines(value: Any) -> str:
    """Return a cell's text, its number, bounds and verdict each on a line of their own."""
    text = without_folders(visible(value))
    text = re.sub(r"^(−?[\d.,]+) (?=[\[(]|n \d)", r"\1\n", text)
    text = re.sub(r"^([+−×] ?[\d.,]+(?: %)?) (?=[\[(a-z])", r"\1\n", text)
    return re.sub(r"^(.+\n[\[(].+?[\])]) (?=[a-z, ]+$)", r"\1\n", text)


def _classes(table: pd.DataFrame, turned: bool) -> pd.DataFrame:
    """Return what tells the class of each cell; of a turned table the first column has names."""
    names = table.iloc[:, 0] if turned else None
    classes = {
        head: [
            _css_class(head if names is None else names.iloc[place], value)
            for place, value in enumerate(table[head])
        ]
        for head in table.columns
    }
    return pd.DataFrame(classes, index=table.index)


def _css_class(name: Any, value: Any) -> str:
    text = str(value)
    if name in ("status", "trials") and re.search(r"[a-z]", text) and text != name:
        return "" if re.fullmatch(r"ok \d+", text) else "bad"
    return "long" if max(map(len, _on_lines(text).split("\n"))) > LONG else ""
