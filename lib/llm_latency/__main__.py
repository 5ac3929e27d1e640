"""``python -m llm_latency doctor | report | runs``."""

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


if __name__ == "__main__":
    sys.exit(main())
