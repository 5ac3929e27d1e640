"""Break everything that can break, and count what was lost: ``python -m benchmarks.faults``.

Each part breaks the real thing, prints what it did and ends in a verdict with its figures:
``kills`` ends children, parents and kernels at random moments and goes on; ``files`` measures
mutated and truncated models; ``parameters`` gives notebooks what cannot be right through
papermill; ``ends`` makes a process end in every way there is; ``hostile`` renders a report of
strings that would break a page, in a real browser; ``downloads`` breaks connections.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Iterator

from llm_latency.errors import LabError

PARTS = ("kills", "files", "parameters", "ends", "hostile", "downloads")


def lines(part: str) -> Iterator[str]:
    """Carry one part out, and yield what it says."""
    yield from importlib.import_module(f"benchmarks.faults.{part}").report()


def main() -> None:
    """Print what each part says; exit with 1 where one of them broke its promise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all of them")
    broken = []
    for part in parser.parse_args().parts or PARTS:
        start_s = time.monotonic()
        try:
            for line in lines(part):
                print(f"{part}: {line}", flush=True)
        except LabError as error:
            broken.append(part)
            print(f"{part}: BROKEN: {error}", flush=True)
        print(f"{part}: {time.monotonic() - start_s:.0f} s", flush=True)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
