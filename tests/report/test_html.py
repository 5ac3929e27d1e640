"""The page: one file, offline, harmless, and loud when it is incomplete."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from llm_latency.errors import LabError, ParameterError
from llm_latency.questions import sweep
from llm_latency.report import page
from llm_latency.report.html import write_report
from llm_latency.report.page import markdown
from llm_latency.report.show import show
from llm_latency.words import escape, visible
from tests.support import factories, hostile

STRINGS = hostile.STRINGS
HOSTILE = '<script>alert(1)</script><img src="https://evil.example/x.png" onerror="alert(2)">'
SECRET = "print('only for those who code')"


class Page(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


def view(frame: pd.DataFrame) -> sweep.View:
    return sweep.View(page.Rows(frame, factories.info(name=HOSTILE)))


def markdown_output(markdown: Any) -> Any:
    data = {"text/markdown": markdown.data, "text/plain": "<Markdown>"}
    return new_output("display_data", data=data, metadata={"text/markdown": markdown.metadata})


def figure_output() -> Any:
    sweep.figure(view(factories.frame(rounds=1)))
    picture = io.BytesIO()
    plt.gcf().savefig(picture, format="png")
    plt.close("all")
    return new_output(
        "display_data",
        data={"image/png": base64.encodebytes(picture.getvalue()).decode(), "text/plain": "F"},
        metadata={"image/png": {"width": 800, "height": 390}},
    )


def code(source: str, *outputs: Any, tags: tuple[str, ...] = (), count: int | None = 1) -> Any:
    return new_code_cell(
        source, outputs=list(outputs), execution_count=count, metadata={"tags": list(tags)}
    )


def cells(final: int = 54) -> list[Any]:
    """Return the cells of an executed notebook, with all that a hostile model could say in it."""
    hostile = factories.frame(rounds=1, n_ctx=(512,), model=HOSTILE, warnings=[HOSTILE])
    table = show(sweep.table(view(hostile))).to_html()
    return [
        new_markdown_cell("# Which `n_ctx` answers *soonest*?\n\nThe question."),
        code("n_ctx: int = 512", tags=("parameters",)),
        code(SECRET, new_output("stream", name="stderr", text="12%|███| 3/27"), tags=("progress",)),
        code(
            "answer",
            markdown_output(page.head(54, final, {})),
            markdown_output(page.markdown(sweep.answer(view(hostile)).text)),
            figure_output(),
        ),
        new_markdown_cell("## Every cell\n\nText with a [link](https://example.org) & $x$."),
        code("table", new_output("execute_result", data={"text/html": table, "text/plain": "T"})),
        code(
            "evil",
            new_output("display_data", data={"text/html": HOSTILE + "<b>kept</b>"}),
            new_output("display_data", data={"application/javascript": "alert(3)"}),
            new_output("display_data", data={"text/html": "<style>@import 'http://x'</style>"}),
            new_output("stream", name="stdout", text=HOSTILE),
        ),
    ]


def write(folder: Path, made: list[Any]) -> Page:
    notebook = folder / "run.ipynb"
    nbformat.write(new_notebook(cells=made), notebook)
    return Page(write_report(notebook))


def test_one_harmless_offline_file(tmp_path: Path) -> None:
    page = write(tmp_path, cells())
    assert not {"script", "iframe", "object", "link", "base", "form"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert not page.values("href")
    assert page.values("src") and all(s.startswith("data:image/png;") for s in page.values("src"))
    assert "<script" not in page.source
    assert not re.search(r"url\(|@import", page.source)
    policy = [v for v in page.values("content") if "default-src" in v]
    assert policy and "script" not in policy[0] and "'none'" in policy[0]
    assert page.source.count("<html") == 1


def test_foreign_text_is_shown_as_text(tmp_path: Path) -> None:
    page = write(tmp_path, cells())
    assert page.text.count("alert(1)") >= 3
    assert "kept" in page.text and "link" in page.text
    assert "alert(3)" not in page.source


def test_what_readers_see(tmp_path: Path) -> None:
    page = write(tmp_path, cells())
    assert "<title>Which n_ctx answers soonest?</title>" in page.source
    assert SECRET not in page.source and "n_ctx: int" not in page.source
    assert "3/27" not in page.source, "progress is not for readers"
    assert "INCOMPLETE" not in page.source
    assert page.values("alt") == ["Figure: Which n_ctx answers soonest?"]
    assert page.values("width") == ["800"]
    assert 'class="lab grid"' in page.source
    assert page.text.index("The question.") < page.text.index("lowest median TTFT")


def lesson(final: int = 54) -> list[Any]:
    """Return the cells of an executed notebook that teaches before it measures."""
    first, parameters, progress, found, *_ = cells(final)
    card = show(pd.DataFrame({"to expect": ["27 processes"]})).to_html()
    notice, answer, figure = found.outputs
    return [
        first,
        new_markdown_cell("## What happens\n\nPhysics."),
        parameters,
        new_markdown_cell("## What to expect\n\nBounds."),
        code("expect", new_output("display_data", data={"text/html": card})),
        progress,
        code("notices", notice),
        new_markdown_cell("## The answer"),
        code("answer", answer),
        code("figure", figure),
        new_markdown_cell("## Look yourself\n\nChange the last line."),
        code("df", new_output("execute_result", data={"text/plain": "a frame"})),
        new_markdown_cell("## What this does not tell\n\nLimits."),
    ]


def test_the_answer_stands_before_what_teaches(tmp_path: Path) -> None:
    page = write(tmp_path, lesson(final=12))
    order = [
        *("The question.", "INCOMPLETE: 12 of 54", "The answer", "lowest median TTFT"),
        *("What happens", "What to expect", "27 processes", "What this does not tell"),
    ]
    places = [page.text.index(words) for words in order]
    assert places == sorted(places)
    assert page.values("alt") == ["Figure: The answer"]
    assert "Change the last line" not in page.text and "a frame" not in page.text


def test_a_lesson_without_an_answer_ends_with_what_was_expected(tmp_path: Path) -> None:
    made = lesson()
    for cell in made[5:]:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    page = write(tmp_path, made)
    assert "never reached its answer" in page.text
    assert "The answer" not in page.text and "Limits." not in page.text
    assert page.text.rstrip().endswith("27 processes")


def test_a_picture_is_whole(tmp_path: Path) -> None:
    page = write(tmp_path, cells())
    encoded = page.values("src")[0].partition(",")[2]
    assert plt.imread(io.BytesIO(base64.b64decode(encoded))).shape[1] == 800


def test_an_incomplete_run_says_so(tmp_path: Path) -> None:
    page = write(tmp_path, cells(final=12))
    assert "INCOMPLETE: 12 of 54 trials" in page.text


def test_a_killed_kernel_is_incomplete_though_papermill_says_completed(tmp_path: Path) -> None:
    made = cells()[:3]
    for cell in made:
        cell.metadata["papermill"] = {"status": "completed"}
    never = [new_markdown_cell("## How to read it"), code("answer", count=None)]
    page = write(tmp_path, [*made, *never])
    assert "How to read it" not in page.text
    assert page.text.index("INCOMPLETE") < page.text.index("The question.")
    assert "never reached its answer" in page.text


def test_an_error_is_quoted(tmp_path: Path) -> None:
    sentence = "n_batch='x' is refused: give a valid integer. <script>alert(9)</script>"
    error = new_output("error", ename="ParameterError", evalue=sentence, traceback=["\x1b[0;31mno"])
    made = cells()
    made.insert(
        0,
        new_markdown_cell(
            '<span id="papermill-error-cell">An Exception</span>',
            metadata={"tags": ["papermill-error-cell-tag"]},
        ),
    )
    made[3].outputs.append(error)
    page = write(tmp_path, made)
    banner = page.text[: page.text.index("Which n_ctx answers", page.text.index("INCOMPLETE"))]
    assert f"stopped with an error. {sentence}" in banner
    assert "<script" not in page.source
    assert "An Exception" not in page.text


def test_an_error_tells_no_folder_of_the_machine(tmp_path: Path) -> None:
    value = "model='/home/anna/models/a.gguf' does not exist (looked in /home/anna/models)"
    error = new_output("error", ename="ParameterError", evalue=value, traceback=[])
    page = write(tmp_path, [*cells(), code("1", error)])
    assert "model='a.gguf' does not exist" in page.text
    assert "anna" not in page.source


def test_lines_to_paste_name_the_file_alone(tmp_path: Path) -> None:
    lines = "In Python:\n\n~~~python\nLlama(model_path='/home/anna/my models/a b.gguf')\n~~~"
    page = write(tmp_path, [*cells(), code("lines", markdown_output(markdown(lines)))])
    assert "a b.gguf" in page.text and "anna" not in page.source and "my models" not in page.source


def test_other_errors_keep_their_name(tmp_path: Path) -> None:
    error = new_output("error", ename="KeyError", evalue="'x'", traceback=["secret traceback"])
    page = write(tmp_path, [*cells(), code("1", error)])
    assert "KeyError: 'x'" in page.text and "secret traceback" not in page.text


def test_cells_that_were_not_run_are_counted(tmp_path: Path) -> None:
    page = write(tmp_path, [*cells(), code("later()", count=None), code("", count=None)])
    assert "INCOMPLETE: 1 of the notebook's cells" in page.text


def test_where_it_is_written(tmp_path: Path) -> None:
    notebook = tmp_path / "a.ipynb"
    nbformat.write(new_notebook(cells=cells()), notebook)
    assert write_report(notebook) == tmp_path / "a.html"
    other = tmp_path / "new" / "folder" / "b.html"
    assert write_report(notebook, other) == other and other.exists()
    assert not list(tmp_path.rglob(".*draft"))
    with pytest.raises(ParameterError, match="overwrite the notebook"):
        write_report(notebook, notebook)


@pytest.mark.parametrize(
    "content",
    [None, "", "no json", "[]", "{}", '{"cells": []}', json.dumps({"cells": 3}), b"\xff\xfe\x00"],
)
def test_what_is_no_notebook_is_refused_in_one_sentence(
    tmp_path: Path, content: str | bytes | None
) -> None:
    path = tmp_path / "x.ipynb"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ParameterError, match=r"x\.ipynb.*give the path of an executed") as caught:
        write_report(path)
    assert "\n" not in str(caught.value)
    assert not path.with_suffix(".html").exists()


def test_a_folder_is_no_notebook(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="cannot be read"):
        write_report(tmp_path, tmp_path / "x.html")


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    notebook, taken = tmp_path / "a.ipynb", tmp_path / "file"
    nbformat.write(new_notebook(cells=cells()), notebook)
    taken.write_text("not a folder")
    with pytest.raises(LabError, match="give a folder that can"):
        write_report(notebook, taken / "x.html")


def test_what_is_not_seen_is_written_out() -> None:
    assert visible("a\x00b\x1b[31m\u202egnp\ufeff\u2028") == r"a\x00b\x1b[31m\u202egnp\ufeff\u2028"
    kept = "é ü 日本 עברית\N{NO-BREAK SPACE}–\n\t… 😀 " + "e\u0301"
    assert visible(kept) == kept


@pytest.mark.parametrize("name", STRINGS)
def test_a_foreign_string_is_text_to_markdown_and_html(name: str, tmp_path: Path) -> None:
    string = STRINGS[name]
    cell = markdown_output(markdown(f"Before {escape(string)} after."))
    table = show(pd.DataFrame({"reason": [string]})).to_html()
    shown = new_output("display_data", data={"text/html": table, "text/plain": "T"})
    stream = new_output("stream", name="stdout", text=string)
    error = new_output("error", ename="ParameterError", evalue=string, traceback=[])
    page = write(tmp_path, [*cells()[:1], code("x", cell, shown, stream, error)])
    allowed = {"html", "head", "meta", "title", "style", "body", "main", "h1", "code", "em", "p",
               "div", "pre", "table", "thead", "tbody", "tr", "th", "td", "span"}  # fmt: skip
    assert set(page.tags) <= allowed, set(page.tags) - allowed
    assert not [n for _, n, _ in page.attributes if n.startswith("on") or n in ("src", "href")]
    assert not re.search(r"[\x00-\x08\x1b\u200b\u202a-\u202e\u2066-\u2069\ufeff]", page.source)
    told, text = (" ".join(part.split()) for part in (visible(string), page.text))
    # Of a terminal's colours are colours, in what was printed and in what is quoted of errors.
    assert text.count(told) == (2 if name == "terminal" else 4), text[-3000:]


def test_a_formula_in_a_name_is_no_formula_in_a_figure() -> None:
    made = [
        factories.frame(rounds=1, n_ctx=(512,), model=model)
        for model in ("$\\frac{$", "a$b$c", "\x1b[31m\u202ex", "w" * 3000)
    ]
    frame = pd.concat(made).assign(model_sha256="00")
    for draw in (sweep.figure, sweep.memory_by_n_ctx, sweep.latency_by_memory):
        draw(view(frame))
        picture = io.BytesIO()
        plt.gcf().savefig(picture, format="png")  # raises where a name is taken for a formula
        plt.close("all")
        assert picture.getbuffer().nbytes > 1000
