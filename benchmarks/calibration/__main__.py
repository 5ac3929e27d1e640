"""Compare the lab with llama-bench: build llama-bench, measure in turn, print the ratios.

python -m benchmarks.calibration                    # build, then six pairs of every test
python -m benchmarks.calibration --build-only
python -m benchmarks.calibration --pairs 2 --n-threads 1 --model synthetic:tiny
"""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path

from benchmarks.engine_tools import build
from llm_latency.errors import LabError
from llm_latency.questions import calibration


def main(arguments: list[str] | None = None) -> int:
    """Build, measure, print; return the exit code."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.calibration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--build-only", action="store_true", help="build llama-bench and stop")
    parser.add_argument("--source", type=Path, help="llama-cpp-python's source package, if at hand")
    parser.add_argument("--whole", action="store_true", help="build all of llama.cpp anew")
    defaults = {k: p.default for k, p in inspect.signature(calibration.plan).parameters.items()}
    for name, default in defaults.items():
        option = f"--{name.replace('_', '-')}"
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        text = f"default: {shown}" if shown != "" else "a name for the results"
        if isinstance(default, tuple):
            parser.add_argument(option, type=int, nargs="+", default=list(default), help=text)
        else:
            parser.add_argument(option, type=type(default), default=default, help=text)
    options = parser.parse_args(arguments)
    try:
        plan = calibration.plan(**{name: getattr(options, name) for name in defaults})
        build("llama-bench", options.source, whole=options.whole)
        if options.build_only:
            return 0
        run = calibration.run(plan)
    except LabError as error:
        print(f"\n{error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped; give the same --run-id to go on.", file=sys.stderr)
        return 130
    view = calibration.View(run)
    for table in (calibration.table(view), calibration.parts_table(view)):
        print(f"\n{table.to_string(index=False)}\n{table.attrs['caption']}")
    print(f"\n{calibration.answer(view).text}\n{run.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
