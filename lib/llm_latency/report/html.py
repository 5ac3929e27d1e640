"""An executed notebook to one HTML file that opens offline, anywhere, for years.

No code, no script, no address of the network: what is on the page is in the file. nbconvert
turns cells into HTML, :mod:`~llm_latency.report.harmless` leaves of it what can do no harm, and a
Content-Security-Policy forbids the browser what might have slipped through. A notebook teaches
before it measures; whoever is sent a report wants the answer first.
"""

from __future__ import annotations

import html as markup
import json
import re
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import HTMLExporter
from nbconvert.preprocessors import TagRemovePreprocessor

from llm_latency.errors import LabError, ParameterError
from llm_latency.records.files import drafted
from llm_latency.report.harmless import harmless
from llm_latency.words import MARKER, visible, without_folders

TAG_FILTER = {
    "remove_all_outputs_tags": {"progress"},  # for the one who waits, not for the reader
    "remove_cell_tags": {"papermill-error-cell-tag"},  # the banner says it
}

SHOWN = {
    "text/html",
    "text/markdown",
    "text/plain",
    "text/latex",
    "image/png",
    "image/jpeg",
    "image/svg+xml",
}
"""Kinds of output that need no script."""

TEACHING = ("What happens", "What to expect")
"""Headings of what a notebook says before it measures."""
LIMITS = "What this does not tell"
"""The heading before which a report teaches, after what was found."""
FOR_WHO_RUNS_IT = "Look yourself"
"""The heading of what invites to change a line of code, which no report shows."""

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)


STYLE = "\n" + files(__package__).joinpath("report.css").read_text(encoding="utf-8")


def write_report(notebook: Path, html: Path | None = None) -> Path:
    """Write an executed notebook as one offline HTML file.

    Code is not shown, nor what cells tagged ``progress`` printed. Where the notebook did not
    reach its answer, or a cell ended in an error, the page begins by saying so.

    Parameters
    ----------
    notebook
        The executed notebook.
    html
        Where to write; beside the notebook, as ``.html``, if not given.

    Returns
    -------
    pathlib.Path
        The file that was written.

    Raises
    ------
    ParameterError
        If the notebook does not exist or is not one.
    LabError
        If the page cannot be written.
    """
    notebook = Path(notebook)
    executed = _read(notebook)
    target = Path(html) if html is not None else notebook.with_suffix(".html")
    if target.resolve() == notebook.resolve():
        raise ParameterError(
            f"the report would overwrite the notebook {notebook}; give html another name."
        )
    page = _page(executed, notebook.stem)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with drafted(target) as draft:
            draft.write_text(page, encoding="utf-8")
    except OSError as error:
        raise LabError(
            f"the report {target} cannot be written ({error.strerror}); give a folder that can."
        ) from None
    return target


def _read(notebook: Path) -> Any:
    advice = "give the path of an executed notebook, such as outputs/sweep.ipynb."
    try:
        text = notebook.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ParameterError(f"{str(notebook)!r} does not exist; {advice}") from None
    except (OSError, ValueError) as error:
        raise ParameterError(f"{str(notebook)!r} cannot be read ({error}); {advice}") from None
    try:
        cells = json.loads(text)["cells"]
        found = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
    except Exception:  # nbformat fails in many ways on what is no notebook
        raise ParameterError(f"{str(notebook)!r} is not a notebook; {advice}") from None
    if not cells:
        raise ParameterError(f"{str(notebook)!r} has no cells; {advice}")
    return found


def _page(notebook: Any, stem: str) -> str:
    banner = _incomplete(notebook)
    title = _title(notebook) or stem
    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        template_name="basic",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        mathjax_url="",
        require_js_url="",
        jupyter_widgets_base_url="",
        widget_renderer_url="",
        mermaid_js_url="",
    )
    readable = _for_readers(notebook)
    while banner and len(readable.cells) > 1 and readable.cells[-1].cell_type == "markdown":
        readable.cells.pop()  # the introduction of what never came
    readable.cells = _answer_first(readable.cells)
    body, _ = exporter.from_notebook_node(readable)
    said = markup.escape(without_folders(visible(banner)))
    warning = f'<p class="banner" role="alert">{said}</p>' if banner else ""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{markup.escape(visible(title))}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{warning}\n{harmless(body)}\n</main>\n</body>\n</html>\n"
    )


def _incomplete(notebook: Any) -> str:
    """Return why the notebook is not complete; empty if it is.

    papermill calls every cell completed after a kernel was killed, so the proof is our own mark,
    which the answer leaves in the metadata of its output.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    for output in outputs:
        if output.output_type == "error":
            return f"INCOMPLETE: the notebook stopped with an error. {_sentence(output)}"
    if not any(_marked(output.get("metadata", {})) for output in outputs):
        return (
            "INCOMPLETE: the notebook never reached its answer, because its kernel died or it "
            "was not run. Run it again with the same run_id to go on."
        )
    idle = sum(1 for cell in code if cell.source.strip() and cell.execution_count is None)
    if idle:
        return f"INCOMPLETE: {idle} of the notebook's cells were not run. Run it again."
    return ""


def _marked(metadata: Any) -> bool:
    # Jupyter keeps metadata by kind of output, and older versions flat.
    return MARKER in metadata or any(MARKER in m for m in metadata.values() if isinstance(m, dict))


def _sentence(error: Any) -> str:
    """Return an error as a sentence: our own are sentences, others need their name."""
    value = re.sub(r"\x1b\[[0-9;]*m", "", str(error.get("evalue") or "")).strip()
    name = str(error.get("ename") or "error")
    if name in {LabError.__name__, ParameterError.__name__} and value:
        return value
    return f"{name}: {value}" if value else name


def _title(notebook: Any) -> str:
    return next(filter(None, (_heading(cell, "#") for cell in notebook.cells)), "")


def _heading(cell: Any, level: str = "#+") -> str:
    """Return the last heading in a cell's text, without its marks; empty if it has none."""
    text = cell.source if cell.cell_type == "markdown" else ""
    found = re.findall(rf"(?m)^{level}\s+(.+)$", text)
    return re.sub(r"[*`]", "", found[-1]).strip() if found else ""


def _answer_first(cells: list[Any]) -> list[Any]:
    """Return the cells with what teaches behind what was found."""
    lessons: list[Any] = []
    others: list[Any] = []
    chosen = others
    for cell in cells:
        if heading := _heading(cell):
            chosen = lessons if heading in TEACHING else others
        elif any(_marked(output.get("metadata", {})) for output in cell.get("outputs", ())):
            chosen = others  # the notices, which stand before the answer
        chosen.append(cell)
    headings = [_heading(cell) for cell in others]
    place = headings.index(LIMITS) if LIMITS in headings else len(others)
    return [*others[:place], *lessons, *others[place:]]


def _for_readers(notebook: Any) -> Any:
    """Return a copy without what readers do not need: progress, tracebacks, widgets, scripts."""
    tag_filter = TagRemovePreprocessor(**TAG_FILTER)  # type: ignore[no-untyped-call]
    copy, _ = tag_filter.preprocess(deepcopy(notebook), {})  # type: ignore[no-untyped-call]
    kept, heading = [], ""
    for cell in copy.cells:
        heading = _heading(cell) or heading
        if heading == FOR_WHO_RUNS_IT:
            continue
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if _wanted(o)]
            # Pictures are told to those who cannot see them by the heading above them.
            cell.metadata["alt"] = f"Figure: {heading}" if heading else "Figure"
            if not cell.outputs:
                continue
        kept.append(cell)
    copy.cells = kept
    copy.metadata.pop("widgets", None)
    return copy


def _wanted(output: Any) -> bool:
    if output.output_type == "stream":
        return bool(output.text.strip())
    if output.output_type == "error":
        return False  # quoted in the banner; the traceback is in the notebook
    for kind in set(output.data) - SHOWN:
        del output.data[kind]
    if words := output.data.get("text/markdown"):  # lines to paste hold the path for who ran it
        output.data["text/markdown"] = without_folders(words)
    return any(str(content).strip() for content in output.data.values())
