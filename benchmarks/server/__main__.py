"""What llama-server takes on the line that is advised: ``python -m benchmarks.server``.

Different prompts of 512 tokens, one after another: the server's resident memory after each, on the
lab's line and on one that leaves the server's own defaults in force, but for the settings.

python -m benchmarks.server --build-only                 # llama-server, out of the engine's source
python -m benchmarks.server --model synthetic:125m --prompts 20
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import psutil

from benchmarks.engine_tools import build
from llm_latency.engine import prompts
from llm_latency.engine.served import ServedModel
from llm_latency.errors import LabError
from llm_latency.model import names
from llm_latency.plan import serving
from llm_latency.plan.settings import Settings

MIB = 2**20
SETTLED = 1
"""The prompt, from 0, after which everything has been touched once."""


def resident(model: Path, settings: Settings, count: int, length: int) -> list[float]:
    """Return the server's resident memory after each of several prompts, in MiB."""
    served = ServedModel(model, settings)
    words = prompts.passage(served, length)
    taken = []
    try:
        for number in range(count):
            # Each begins otherwise, so that none finds anything of those before it.
            body = words[1:]
            random.Random(number).shuffle(body)
            served.generate([words[0], *body], 8, length="fixed")
            taken.append(psutil.Process(served.pid).memory_info().rss / MIB)
    finally:
        served.close()
    return taken


def main(arguments: list[str] | None = None) -> int:
    """Build, measure, print; return the exit code."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--build-only", action="store_true", help="build llama-server and stop")
    parser.add_argument("--source", type=Path, help="llama-cpp-python's source package, if at hand")
    parser.add_argument("--whole", action="store_true", help="build all of llama.cpp anew")
    parser.add_argument("--model", default="synthetic:125m", help="default: synthetic:125m")
    parser.add_argument("--prompts", type=int, default=20, help="default: 20")
    parser.add_argument("--tokens", type=int, default=512, help="of each prompt; default: 512")
    options = parser.parse_args(arguments)
    try:
        build("llama-server", options.source, whole=options.whole)
        if options.build_only:
            return 0
        model, settings = names.resolve(options.model), Settings(n_ctx=2048)
        for line in ("the lab's line", "without what it pins"):
            if line != "the lab's line":
                serving.PINNED.clear()
            taken = resident(model, settings, options.prompts, options.tokens)
            grown = taken[-1] - taken[SETTLED]
            print(f"{line}: {taken[SETTLED]:.1f} MiB after 2 prompts, {taken[-1]:.1f} MiB after ")
            print(f"  {len(taken)}: {grown:+.1f} MiB; {[round(mib, 1) for mib in taken]}")
    except LabError as error:
        print(f"\n{error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
