"""A report of strings that would break a page, opened in a real browser.

A run whose model, machine, reasons and warnings are full of HTML, scripts, Markdown, formulas and
signs that are not seen is drawn by the real notebook, through papermill, and written as a report.
In Chromium nothing may be asked of the network, no script may run, nothing may stand outside the
page, and what was written must stand there as text.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_latency.errors import LabError
from llm_latency.report.html import write_report

ROOT = Path(__file__).parents[2]
WIDTHS = (800, 1280)
UNSEEN = r"/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\u200b\u202a-\u202e\u2066-\u2069\ufeff]/"


def report() -> Iterator[str]:
    """Yield lines to print; the last one is the verdict.

    Raises
    ------
    LabError
        If something of a string became more than text, or there is no Chromium.
    """
    # Beside each other, as pytest has it: what is made up for tests imports its neighbours.
    sys.path.insert(0, str(ROOT / "tests"))
    from tests.support import hostile

    with tempfile.TemporaryDirectory() as name:
        # The folder's own name stands in the report too.
        folder = Path(name) / "<b onmouseover=pwned=7> ![x](http:outside.example) $\\frac{"
        folder.mkdir()
        hostile.stored_run(folder, folder)
        # papermill takes braces in the path of its output for its own.
        page = draw(Path(name) / "out.ipynb", hostile.RUN_ID, folder)
        yield f"a report of {page.stat().st_size:,} bytes with {len(hostile.STRINGS)} strings"
        with chromium() as browser:
            found = [bad for width in WIDTHS for bad in look(browser, page, width, hostile.STRINGS)]
    yield from found
    if found:
        raise LabError(f"{len(found)} things of a hostile report are more than text: {found[0]}")
    yield (
        f"{len(hostile.STRINGS)} hostile strings in a real report, at {len(WIDTHS)} widths: "
        "no request left the page, no script ran, all of them are text"
    )


def draw(out: Path, run_id: str, outputs: Path) -> Path:
    """Let papermill draw a stored run, and write its report."""
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-level", "ERROR",
         str(ROOT / "notebooks" / "sweep.ipynb"), str(out), "-p", "run_id", run_id],
        env=dict(os.environ, LLM_LATENCY_OUTPUTS=str(outputs)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise LabError(f"a hostile run cannot be drawn: {done.stderr.strip()[-500:]}")
    return write_report(out)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Start the Chromium of this machine."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        raise LabError("there is no Chromium here; install one to look at reports")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def look(browser: Any, report_: Path, width: int, strings: dict[str, str]) -> list[str]:
    """Open a report in a browser and return what is wrong with it, a few words each."""
    asked: list[str] = []
    said: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.goto(report_.as_uri())
    page.wait_for_load_state("load")
    for element in page.locator("td, p").all()[:200]:
        element.dispatch_event("mouseover")
    found = _problems(page, width, strings)
    page.close()
    own = {report_.as_uri()}
    found += [f"asked for {url[:100]}" for url in asked if not url.startswith("data:")
              and url not in own]  # fmt: skip
    return found + [f"said {text[:100]}" for text in said]


def _problems(page: Any, width: int, strings: dict[str, str]) -> list[str]:
    found = []
    if page.evaluate("window.pwned") is not None:
        found.append(f"a script ran: {page.evaluate('window.pwned')}")
    if "n_ctx" not in page.title():
        found.append(f"the title is {page.title()[:50]!r}")
    for tag in ("script", "iframe", "svg", "base", "link", "object", "form", "[href]", "[onerror]"):
        if count := page.locator(tag).count():
            found.append(f"{count} elements {tag}")
    if (images := page.locator("img").count()) != 5:
        found.append(f"{images} images")
    if not page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 500)"):
        found.append("an image is broken")
    if (wide := page.evaluate("document.documentElement.scrollWidth")) > width:
        found.append(f"the page is {wide} px wide in a window of {width}")
    if page.evaluate(f"{UNSEEN}.test(document.body.textContent)"):
        found.append("signs that are not seen are in the text")
    text = " ".join(page.evaluate("document.body.textContent").split())
    for name, string in strings.items():
        if " ".join(_written_out(string).split()) not in text:
            found.append(f"the string {name!r} is not to be read")
    return found


def _written_out(string: str) -> str:
    """Return what a reader must see: the string itself, unseen signs as Python writes them."""
    return "".join(
        sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in string
    )


if __name__ == "__main__":
    for line in report():
        print(line)
