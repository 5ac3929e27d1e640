"""``python -m llm_latency doctor | run | report | runs``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llm_latency.errors import LabError


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
            from llm_latency.report import write_report

            print(write_report(asked.notebook, asked.html))
        else:
            from llm_latency.store import RunStore, outputs_dir

            for info in sorted((outputs_dir() / "runs").glob("*/run.json")):
                print(RunStore(info.parent))
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def run_notebook(notebook: Path, output: Path, options: list[str]) -> int:
    """Let papermill execute a notebook, then write its report, also of one that stopped."""
    from click.exceptions import ClickException
    from papermill.cli import papermill
    from papermill.exceptions import PapermillException, PapermillExecutionError

    from llm_latency.report import write_report

    arguments = [str(notebook), str(output), *options]
    failed: str | None = None
    try:
        papermill.main(args=arguments, prog_name="papermill", standalone_mode=False)
    except PapermillExecutionError as error:
        failed = error.evalue or error.ename
    except (ClickException, PapermillException, OSError) as error:
        print(getattr(error, "message", None) or error, file=sys.stderr)
        return 2
    print(write_report(output))
    if failed:
        print(failed, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
