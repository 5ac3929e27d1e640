"""Parameters that cannot be right, through papermill: each is refused before anything is loaded.

Every notebook is given some of :data:`tests.wrong_parameters.WRONG`, as a user types them. Each
must stop with one sentence that names the parameter. That nothing was loaded is seen by three
things: no process imported llama_cpp, no model was made, no run has a folder.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from llm_latency.errors import LabError
from tests.support.wrong_parameters import WRONG, environment, left_behind, refuse_all


def report(count: int = 100) -> Iterator[str]:
    """Yield lines to print; the last one is the verdict.

    Parameters
    ----------
    count
        How many to try; fewer than all are taken from all over the list.

    Raises
    ------
    LabError
        If one is not refused as it must be.
    """
    chosen = [WRONG[number * len(WRONG) // count] for number in range(min(count, len(WRONG)))]
    notebooks = {wrong.notebook for wrong in chosen}
    yield f"{len(chosen)} wrong parameters of {len(notebooks)} notebooks, each through papermill"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _check_the_guard(folder / "guarded")
        bad = []
        for ended in refuse_all(chosen, folder):
            if ended.problem:
                bad.append(ended)
                yield f"{ended.wrong}: {ended.problem}"
    verdict = (
        f"{len(chosen)} wrong parameters through papermill: {len(chosen) - len(bad)} refused "
        "before a load"
    )
    if bad:
        raise LabError(f"{verdict}; see {', '.join(str(one.wrong) for one in bad)}")
    yield verdict


def _check_the_guard(folder: Path) -> None:
    """See that an import of llama_cpp would be noticed."""
    subprocess.run(
        [sys.executable, "-c", "import llama_cpp"],
        env=environment(folder),
        check=True,
        capture_output=True,
    )
    if not left_behind(folder):
        raise LabError("an import of llama_cpp leaves no mark here, so nothing would be proven")
