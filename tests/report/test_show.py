"""A table on the page: what tells rows apart stands first, and nothing is wider than it must be."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from llm_latency.report.show import show

WORDS = "other processes took a good part of the time of all CPUs"


def lines(table: pd.DataFrame) -> list[list[str]]:
    """Return the header and the rows of a table as a browser sees them."""
    html = show(table).to_html()
    rows = re.findall(r"(?s)<tr>(.*?)</tr>", html)
    return [re.findall(r"(?s)<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def grid(rows: int, columns: int) -> pd.DataFrame:
    """Return a table of two settings, statuses and so many columns of figures."""
    settings = [(f"{2 ** (9 + row // 2)}", f"{128 * (1 + row % 2)}") for row in range(rows)]
    made = pd.DataFrame(settings, columns=["n_ctx", "n_batch"])
    made["trials"] = ["ok 6"] * (rows - 1) + ["oom 6"]
    for column in range(columns):
        made[f"TTFT at {column}, ms"] = "402 [398–410] n 6"
    return made


def test_a_table_that_fits_is_left_as_it_is() -> None:
    header, first, *_ = lines(grid(4, 3))
    assert header[:3] == ["n_ctx", "n_batch", "trials"]
    assert first == ["512", "128", "ok 6", *["402\n[398–410] n 6"] * 3]


def test_a_table_of_many_columns_and_few_rows_is_turned() -> None:
    header, trials, *figures = lines(grid(4, 12))
    assert header == ["n_ctx · n_batch", "512 · 128", "512 · 256", "1024 · 128", "1024 · 256"]
    assert trials == ["trials", "ok 6", "ok 6", "ok 6", "oom 6"]
    assert [row[0] for row in figures] == [f"TTFT at {column}, ms" for column in range(12)]
    html = show(grid(4, 12)).to_html()
    assert len(re.findall(r'<td [^>]*class="[^"]*\bbad\b', html)) == 1


def test_a_table_of_many_columns_and_rows_has_one_column_that_names_its_rows() -> None:
    header, first, *others = lines(grid(30, 12))
    assert header[:2] == ["n_ctx · n_batch", "trials"]
    assert first[:2] == ["512 · 128", "ok 6"]
    assert len({row[0] for row in (first, *others)}) == 30


def test_rows_that_nothing_tells_apart_stay_rows() -> None:
    twice = pd.concat([grid(1, 12)] * 2, ignore_index=True)
    assert lines(twice)[0] == list(twice.columns)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("402 [398–410] n 6", "402\n[398–410] n 6"),
        ("402 n 1", "402\nn 1"),
        ("−1.20 [−2.00 to 0.10] n 6", "−1.20\n[−2.00 to 0.10] n 6"),
        ("+14 % (13 to 15 %) undecided", "+14 %\n(13 to 15 %)\nundecided"),
        ("× 3.38 [1.25–9.13] less steady", "× 3.38\n[1.25–9.13]\nless steady"),
        ("−2.7 % undecided", "−2.7 %\nundecided"),
        ("12 tokens", "12 tokens"),
        ("model='/home/anna/x.gguf' is no model", "model=&#39;x.gguf&#39; is no model"),
    ],
)
def test_a_cell_on_its_lines(value: str, shown: str) -> None:
    assert lines(pd.DataFrame({"a": [value]}))[1] == [shown]


def test_long_texts_may_be_broken_and_numbers_may_not() -> None:
    html = show(pd.DataFrame({"how sure": [WORDS], "TTFT": ["402 [398–410] n 600"]})).to_html()
    assert re.findall(r'class="([^"]*\blong\b[^"]*)" >(.*?)<', html)[0][1] == WORDS
    assert html.count(" long") == 1
