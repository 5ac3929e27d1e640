"""``python -m llm_latency doctor | run | report | runs | pack | compare | export``."""

from __future__ import annotations

import argparse
import hashlib
import html
import sys
from pathlib import Path
from typing import Any

from llm_latency.errors import LabError, ParameterError, did_you_mean
from llm_latency.words import visible


def main(arguments: list[str] | None = None) -> int:
    """Carry out one command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m llm_latency", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="what the engine supports, and whether it runs")
    run = commands.add_parser("run", help="papermill with what follows, and then the report")
    run.add_argument("notebook", type=Path)
    run.add_argument("output", type=Path)
    run.add_argument("options", nargs=argparse.REMAINDER, help="papermill's: -f, -p, …")
    report = commands.add_parser("report", help="an executed notebook as one offline HTML file")
    report.add_argument("notebook", type=Path)
    report.add_argument("html", type=Path, nargs="?", help="default: beside the notebook")
    commands.add_parser("runs", help="the stored runs")
    beside = commands.add_parser("compare", help="stored runs side by side")
    beside.add_argument("runs", nargs="+", help="folders, packs, run_ids or reports; base first")
    export = commands.add_parser("export", help="stored runs for other tools")
    export.add_argument("format", choices=("bmf", "llama-bench"), help="Bencher's, llama-bench's")
    export.add_argument("file", type=Path, help="the file to write")
    export.add_argument("runs", nargs="+", help="folders, packs, run_ids or reports")
    packing = commands.add_parser("pack", help="a run in one file, without anybody's name")
    packing.add_argument("run", help="a run's folder or its run_id")
    packing.add_argument("file", type=Path, nargs="?", help="default: outputs/<run_id>.zip")
    packing.add_argument(
        "--report", type=Path, action="append", help="default: those in outputs that name the run"
    )
    packing.add_argument("--keep-names", action="store_true", help="users', hosts' and folders'")
    asked = parser.parse_args(arguments)
    try:
        if asked.command == "doctor":
            from llm_latency.doctor import examine

            lines, works = examine()
            print("\n".join(lines))
            return 0 if works else 1
        if asked.command == "run":
            return run_notebook(asked.notebook, asked.output, asked.options)
        if asked.command == "report":
            from llm_latency.report.html import write_report

            print(write_report(asked.notebook, asked.html))
        elif asked.command == "compare":
            print(compared(asked.runs))
        elif asked.command == "export":
            from llm_latency.questions.compare.exports import export as exported

            print(f"{asked.file}: {exported(asked.format, asked.file, asked.runs)}")
        elif asked.command == "pack":
            from llm_latency.records.pack import pack

            file = pack(asked.run, asked.file, reports=asked.report, keep_names=asked.keep_names)
            print(f"{file}\nSHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()}")
        else:
            return show_runs()
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def compared(runs: list[str]) -> str:
    """Return the page that compares stored runs, as text."""
    from llm_latency.questions import compare as question

    view = question.View(question.run(question.plan(runs)))
    pages = [question.notices(view).data, question.answer(view).text]
    for table in (question.differing(view), question.table(view)):
        if len(table):
            pages += [table.to_string(index=False), table.attrs["caption"]]
    text = html.unescape("\n\n".join(filter(None, pages))).replace("**", "")
    return visible(text.replace("\N{NO-BREAK SPACE}", " "))


def show_runs() -> int:
    """Print what is known of every stored run; return 1 if one of them cannot be read."""
    from llm_latency.records.folders import outputs_dir
    from llm_latency.records.store import RunStore

    code = 0
    for info in sorted((outputs_dir() / "runs").glob("*/run.json")):
        try:
            print(RunStore(info.parent))
        except LabError as error:
            print(error, file=sys.stderr)
            code = 1
    return code


def run_notebook(notebook: Path, output: Path, options: list[str]) -> int:
    """Let papermill execute a notebook, then write its report, also of one that stopped.

    Raises
    ------
    LabError
        If there is no such notebook, or papermill cannot even begin.
    """
    from click.exceptions import ClickException
    from papermill.cli import papermill
    from papermill.exceptions import PapermillException, PapermillExecutionError

    from llm_latency.report.html import write_report

    if not notebook.is_file():
        near = [path.name for path in notebook.parent.glob("*.ipynb")]
        raise ParameterError(
            f"{str(notebook)!r} is no file{did_you_mean(notebook.name, near)} Give the path of a "
            "notebook, such as notebooks/sweep.ipynb."
        )
    if not output.parent.is_dir():
        raise ParameterError(
            f"{str(output.parent)!r} is no folder; make it, or give another place for the notebook "
            "that is executed."
        )
    _encrypt_what_kernels_say()
    arguments = [str(notebook), str(output), *options]
    failed: str | None = None
    try:
        papermill.main(args=arguments, prog_name="papermill", standalone_mode=False)
    except PapermillExecutionError as error:
        failed = error.evalue or error.ename
        if error.ename == "SyntaxError":
            failed = (
                f"a parameter's name cannot be one ({failed}); give names as the notebook's first "
                "cell writes them, such as n_batch."
            )
    except (ClickException, PapermillException, OSError) as error:
        print(getattr(error, "message", None) or error, file=sys.stderr)
        return 2
    except Exception as error:  # what is no notebook, YAML or kernel fails in many ways
        first = next(iter(str(error).strip().splitlines()), "")
        raise LabError(
            f"papermill cannot run {str(notebook)!r} ({type(error).__name__}: {first}); check the "
            "notebook, and the files and options behind it."
        ) from None
    print(write_report(output))
    if failed:
        print(failed, file=sys.stderr)
    return 1 if failed else 0


def _encrypt_what_kernels_say() -> None:
    """Let papermill start kernels that encrypt; one that does not warns of it in its first line."""
    import zmq
    from papermill.engines import NBClientEngine, papermill_engines
    from traitlets.config import Config

    class EncryptedEngine(NBClientEngine):  # type: ignore[misc]
        """papermill's own engine, with another default of Jupyter's."""

        @classmethod
        def execute_managed_notebook(cls, *arguments: Any, **options: Any) -> Any:
            config = Config(KernelManager={"transport_encryption": "auto"})
            return super().execute_managed_notebook(*arguments, config=config, **options)

    if zmq.has("curve"):
        papermill_engines.register(None, EncryptedEngine)


if __name__ == "__main__":
    sys.exit(main())
