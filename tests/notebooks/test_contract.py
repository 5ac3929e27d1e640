"""What every notebook keeps: thin, empty, and parameters that explain themselves."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path
from typing import Any

import nbformat
import pytest

from llm_latency import experiments
from llm_latency.plan.builder import OPTIONS
from llm_latency.questions import QUESTIONS, module
from llm_latency.questions.notebook import defaults, parameters_cell

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# What papermill --help-notebook can show; a union hides the parameter. object: something or None.
ANNOTATIONS = {"int", "float", "str", "bool", "object"} | {
    f"list[{kind}]" for kind in ("int", "float", "str", "bool")
}


def read(path: Path) -> Any:
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["stem"] = path.stem
    return notebook


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def any_notebook(request: pytest.FixtureRequest) -> Any:
    return read(request.param)


@pytest.fixture(params=QUESTIONS)
def notebook(request: pytest.FixtureRequest) -> Any:
    """One that asks a question, with parameters and a run."""
    return read(FOLDER / f"{request.param}.ipynb")


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook: Any, tag: str) -> list[Any]:
    return [cell for cell in code_cells(notebook) if tag in cell.metadata.get("tags", [])]


def python(source: str) -> ast.Module:
    lines = ["" if line.startswith("%") else line for line in source.splitlines()]
    return ast.parse("\n".join(lines))


def test_every_question_has_its_notebook_and_one_is_where_to_start() -> None:
    assert {path.stem for path in NOTEBOOKS} == {*QUESTIONS, "start_here"}


def test_parameters_are_annotated_literals_with_a_comment_each(notebook: Any) -> None:
    (cell,) = tagged(notebook, "parameters")
    tokens = tokenize.generate_tokens(io.StringIO(cell.source).readline)
    commented = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    for statement in ast.parse(cell.source).body:
        assert isinstance(statement, ast.AnnAssign), ast.unparse(statement)
        assert ast.unparse(statement.annotation) in ANNOTATIONS
        assert statement.value is not None
        ast.literal_eval(statement.value)
        assert statement.lineno == statement.end_lineno in commented, ast.unparse(statement)


def test_parameters_are_as_they_are_written(notebook: Any) -> None:
    (cell,) = tagged(notebook, "parameters")
    assert cell.source == parameters_cell(notebook.metadata["stem"]), "run make format"


def test_parameters_are_those_of_the_experiment(notebook: Any) -> None:
    (cell,) = tagged(notebook, "parameters")
    names = [s.target.id for s in ast.parse(cell.source).body]  # type: ignore[attr-defined]
    usual = defaults(module(notebook.metadata["stem"]).plan)
    own = set(usual) - set(OPTIONS)
    assert own <= set(names) <= set(usual)
    if notebook.metadata["stem"] != "compare":  # which measures nothing
        assert {"model", "seed", "run_id"} <= set(names)


def test_a_notebook_as_it_stands_asks_what_its_function_asks(notebook: Any) -> None:
    # So that a stored run, named alone, is known to be all that was asked for.
    (cell,) = tagged(notebook, "parameters")
    usual = defaults(module(notebook.metadata["stem"]).plan)
    for statement in ast.parse(cell.source).body:
        value = ast.literal_eval(statement.value)  # type: ignore[attr-defined]
        default = usual[statement.target.id]  # type: ignore[attr-defined]
        assert value == (list(default) if isinstance(default, tuple) else default)


def test_defaults_make_a_plan(notebook: Any) -> None:
    (cell,) = tagged(notebook, "parameters")
    values: dict[str, Any] = {}
    exec(cell.source, values)
    assert experiments.from_notebook(notebook.metadata["stem"], values)


def test_nothing_of_a_run_is_committed(any_notebook: Any) -> None:
    assert any_notebook.nbformat == 4 and any_notebook.nbformat_minor >= 5
    assert any_notebook.metadata["kernelspec"]["name"] == "python3"
    assert "papermill" not in any_notebook.metadata
    identities = [cell.id for cell in any_notebook.cells]
    assert len(set(identities)) == len(identities)
    for cell in code_cells(any_notebook):
        assert cell.outputs == [] and cell.execution_count is None
        assert "papermill" not in cell.metadata


def test_notebooks_are_thin(any_notebook: Any) -> None:
    for cell in code_cells(any_notebook):
        for node in ast.walk(python(cell.source)):
            kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
            assert not isinstance(node, kinds), cell.source
        parameters = "parameters" in cell.metadata.get("tags", [])  # a line for each
        assert len(cell.source.splitlines()) <= (60 if parameters else 30)


def test_the_question_comes_first(any_notebook: Any) -> None:
    assert any_notebook.cells[0].cell_type == "markdown"
    assert any_notebook.cells[0].source.startswith("# ")
    assert "?" in any_notebook.cells[0].source.splitlines()[0]


def test_the_run_is_one_cell(notebook: Any) -> None:
    (run,) = tagged(notebook, "progress")
    assert ".run(plan)" in run.source
    told = ("notices(",)
    assert any(word in cell.source for cell in code_cells(notebook) for word in told)
