"""An executed notebook to one HTML file that opens offline, anywhere, for years.

No code, no script, no address of the network: what is on the page is in the file. nbconvert
turns cells into HTML, from which everything is taken out that is not on a short list of tags;
a Content-Security-Policy then forbids the browser what might have slipped through.
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
from nbconvert.preprocessors.sanitize import SanitizeHTML

from llm_latency.errors import LabError, ParameterError
from llm_latency.words import MARKER, visible

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

TAGS = [
    *("h1", "h2", "h3", "h4", "h5", "h6", "p", "div", "span", "br", "hr", "blockquote", "pre"),
    *("a", "abbr", "b", "code", "del", "em", "i", "kbd", "s", "small", "strong", "sub", "sup", "u"),
    *("ul", "ol", "li", "dl", "dt", "dd", "img", "figure", "figcaption"),
    *("table", "caption", "colgroup", "col", "thead", "tbody", "tfoot", "tr", "th", "td"),
]
ATTRIBUTES = {"class", "id", "title", "alt", "width", "height", "colspan", "rowspan", "scope"}
PICTURE = re.compile(r'src="(data:image/(?:png|jpeg|svg\+xml);base64,[A-Za-z0-9+/=\s]*)"')
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
    draft = target.with_name(f".{target.name}.draft")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(page, encoding="utf-8")
        draft.replace(target)
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
    body, _ = exporter.from_notebook_node(readable)
    said = markup.escape(visible(banner))
    warning = f'<p class="banner" role="alert">{said}</p>' if banner else ""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{markup.escape(visible(title))}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{warning}\n{_harmless(body)}\n</main>\n</body>\n</html>\n"
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
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := re.search(r"(?m)^#\s+(.+)$", cell.source)):
            return _plain(found[1])
    return ""


def _plain(heading: str) -> str:
    return re.sub(r"[*`]", "", heading).strip()


def _for_readers(notebook: Any) -> Any:
    """Return a copy without what readers do not need: progress, tracebacks, widgets, scripts."""
    tag_filter = TagRemovePreprocessor(**TAG_FILTER)  # type: ignore[no-untyped-call]
    copy, _ = tag_filter.preprocess(deepcopy(notebook), {})  # type: ignore[no-untyped-call]
    kept, heading = [], ""
    for cell in copy.cells:
        if cell.cell_type == "markdown" and (found := re.findall(r"(?m)^#+\s+(.+)$", cell.source)):
            heading = found[-1]
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if _wanted(o)]
            # Pictures are told to those who cannot see them by the heading above them.
            cell.metadata["alt"] = f"Figure: {_plain(heading)}" if heading else "Figure"
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
    return any(str(content).strip() for content in output.data.values())


def _harmless(body: str) -> str:
    """Take everything out of HTML that is not on the list; pictures are the file's own."""
    pictures: list[str] = []

    def set_aside(found: re.Match[str]) -> str:
        pictures.append(found[1])
        return f'src="picture-{len(pictures) - 1}"'

    # What is not seen is written out: NUL ends a text in some readers, and others turn it round.
    body = visible(PICTURE.sub(set_aside, body))
    body = re.sub(r"(?is)<(script|style)\b.*?(</\1\s*>|\Z)", "", body)
    cleaner = SanitizeHTML(  # type: ignore[no-untyped-call]
        tags=TAGS, attributes=_allowed, strip=True
    )
    clean: str = cleaner.sanitize_html_tags(body)  # type: ignore[no-untyped-call]
    clean = re.sub(r"<img(?![^>]*\ssrc=)[^>]*>", "", clean)
    return re.sub(
        r'src="picture-(\d+)"',
        lambda found: f'src="{pictures[int(found[1])]}"' if int(found[1]) < len(pictures) else "",
        clean,
    )


def _allowed(tag: str, name: str, value: str) -> bool:
    if name == "src":
        return tag == "img" and re.fullmatch(r"picture-\d+", value) is not None
    return name in ATTRIBUTES
