"""Downloads that break: every file arrives whole, and nothing is fetched twice.

A Hub on this machine serves the file of synthetic:tiny and breaks each download at three seeded
places. Every file must be equal to its original, byte by byte, and the bytes that were served
must not exceed the file's size by more than :data:`MOST_AGAIN` for each break.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from llm_latency.errors import LabError
from llm_latency.model import download, hub, names
from tests.support.hub_server import hub_server, pointed_at

BREAKS = 3
MOST_AGAIN = 1 << 16
"""What a break may cost: one piece that was under way."""


def report(downloads: int = 50, seed: int = 0) -> Iterator[str]:
    """Yield lines to print; the last one is the verdict.

    Raises
    ------
    LabError
        If a file is not its original, or too much was fetched again.
    """
    content = names.resolve("synthetic:tiny").read_bytes()
    size = len(content)
    chance = random.Random(seed)
    yield f"{downloads} downloads of {size:,} bytes, each broken at {BREAKS} places, seed {seed}"
    equal, again = 0, []
    with hub_server() as server, tempfile.TemporaryDirectory() as folder:
        server.repository("lab/faults").commit({"tiny.gguf": content})
        for number in range(downloads):
            places = sorted(chance.randrange(size) for _ in range(BREAKS))
            server.faults.breaks = [b - a for a, b in zip([0, *places], places, strict=False)]
            server.served = 0
            cache = Path(folder) / str(number)
            with pointed_at(server.endpoint, cache):
                (place,) = download.fetch(hub.parse_name("hf:lab/faults/tiny.gguf"))
            assert place.path is not None
            equal += place.path.read_bytes() == content
            again.append(server.served - size)
            place.path.resolve().unlink()
    verdict = (
        f"{equal} of {downloads} arrived byte-equal after {downloads * BREAKS} breaks; "
        f"at most {max(again):,} bytes were fetched again, {sum(again):,} in all"
    )
    if equal < downloads or max(again) > BREAKS * MOST_AGAIN:
        raise LabError(f"broken downloads do not keep their promise: {verdict}; see hub.stream")
    yield verdict
