"""The report of the real notebook as Chromium shows it: offline, whole, and readable.

The run is made up, the notebook and all that reads a run are real.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from llm_latency.report.html import write_report
from llm_latency.report.show import show
from tests.support import hostile

pytestmark = [pytest.mark.browser, pytest.mark.notebook]

ROOT = Path(__file__).parents[2]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=alert(1)>"
RUN = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from pathlib import Path
from types import SimpleNamespace

from tests.support import factories
import llm_latency as lab

frame = factories.frame(rounds=6, failed=factories.FAILED, warnings=[{HOSTILE!r}])
run = SimpleNamespace(
    planned=162, final=162, info=factories.info(title={HOSTILE!r}), path=Path("runs/made-up"),
    frame=lambda: frame,
)
view = question.View(run)
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    notebook = nbformat.read(ROOT / "notebooks" / "sweep.ipynb", as_version=4)
    for cell in notebook.cells:
        if "progress" in cell.metadata.get("tags", []):
            cell.source = RUN
    nbformat.write(notebook, folder / "in.ipynb")
    papermill.execute_notebook(
        folder / "in.ipynb", folder / "out.ipynb", progress_bar=False, kernel_name="python3"
    )
    return write_report(folder / "out.ipynb")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: install one to look at reports")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: Any, report: Path) -> Iterator[Any]:
    """Return a function that opens the report, and keep what the browser asked for and said."""
    pages = []

    def visit(width: int, height: int = 800) -> Any:
        page = browser.new_page(viewport={"width": width, "height": height})
        pages.append(page)
        page.asked, page.said = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("dialog", lambda dialog: (page.said.append(dialog.message), dialog.dismiss()))
        page.goto(report.as_uri())
        page.wait_for_load_state("load")
        return page

    yield visit
    for page in pages:
        page.close()


def test_nothing_is_fetched_and_nothing_complains(visit: Any) -> None:
    page = visit(1280)
    assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in page.asked if url.startswith("file:")]) == 1
    assert page.said == []
    assert page.title() == "Which n_ctx and n_batch answer soonest?"
    assert page.locator("script").count() == 0


def test_the_answer_and_one_figure_are_on_the_first_screen(visit: Any) -> None:
    page = visit(1280)
    answer = page.get_by_text("lowest median TTFT").or_(page.get_by_text("answers soonest")).first
    figure = page.locator("img").first
    for thing in (answer, figure):
        box = thing.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 800, box
    assert answer.bounding_box()["y"] < figure.bounding_box()["y"]


@pytest.mark.parametrize("width", [800, 1280])
def test_only_tables_scroll_sideways(visit: Any, width: int) -> None:
    page = visit(width)
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width
    for figure in page.locator("img").all():
        box = figure.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width


@pytest.mark.parametrize("width", [800, 1000])
def test_a_wide_table_scrolls_and_what_names_its_rows_stands(
    browser: Any, tmp_path: Path, width: int
) -> None:
    columns = {f"TTFT at {n}, ms": ["402 [398–410] n 6"] * 30 for n in range(14)}
    table = pd.DataFrame({"n_ctx": [str(256 * (n + 1)) for n in range(30)], **columns})
    table.attrs["caption"] = "A caption. " * 30
    output = new_output("display_data", data={"text/html": show(table).to_html()})
    notebook = new_notebook(cells=[new_code_cell("table", outputs=[output], execution_count=1)])
    nbformat.write(notebook, tmp_path / "wide.ipynb")
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(write_report(tmp_path / "wide.ipynb").as_uri())
    name, last, caption = (page.locator(f"{what} >> nth=0") for what in
                           ("td:first-child", "td:last-child", "caption"))  # fmt: skip
    before = name.bounding_box()["x"]
    assert last.bounding_box()["x"] > width
    page.evaluate("document.querySelector('.output_html').scrollLeft = 10000")
    assert name.bounding_box()["x"] == before
    for thing in (last, caption):
        box = thing.bounding_box()
        assert before <= box["x"] and box["x"] + box["width"] <= width
    page.close()


def test_every_figure_and_table_is_there(visit: Any) -> None:
    page = visit(1280)
    assert page.locator("img").count() == 5
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 1000)")
    assert page.locator("table").count() == 8
    assert "INCOMPLETE" not in page.inner_text("body")
    assert "<script>" in page.inner_text("body"), "foreign text is shown as text"


@pytest.mark.parametrize("width", [800, 1280])
def test_a_run_full_of_hostile_strings_is_a_page_of_text(
    browser: Any, tmp_path_factory: pytest.TempPathFactory, width: int
) -> None:
    """The short form of ``python -m benchmarks.faults hostile``, in the browser of these tests."""
    sys.path.insert(0, str(ROOT))
    from benchmarks.faults.hostile import draw, look

    page = tmp_path_factory.getbasetemp() / "hostile.html"
    if not page.exists():
        folder = tmp_path_factory.mktemp("<b onmouseover=pwned=7> ![x](http:x.example) $")
        hostile.stored_run(folder, folder)
        draw(page.with_suffix(".ipynb"), hostile.RUN_ID, folder)
    assert look(browser, page, width, hostile.STRINGS) == []


def test_a_page_with_a_script_is_told_from_one_without(browser: Any, tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT))
    from benchmarks.faults.hostile import look

    page = tmp_path / "bad.html"
    body = "<title>n_ctx</title><p>\u202e" + "".join(hostile.STRINGS.values())
    page.write_text(body, encoding="utf-8")
    found = " ".join(look(browser, page, 1280, hostile.STRINGS))
    for word in ("a script ran", "asked for http://outside.example", "elements script", "title",
                 "not seen", "not to be read"):  # fmt: skip
        assert word in found
