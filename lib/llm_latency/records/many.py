"""Many runs as one frame, each by its records, or by what was kept of them."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_latency.errors import ParameterError
from llm_latency.records import cache
from llm_latency.records.store import RunStore, holds_run, paths_of

if TYPE_CHECKING:
    import pandas as pd


def load_runs(place: str | Path) -> pd.DataFrame:
    """Return the rows of one run or many as one frame.

    Three columns say where a row comes from: ``machine_id``, ``model_sha256`` and
    ``engine_version``. What estimates refuses rows of several machines, model files or engines
    in one frame: choose one, or take them apart with ``frame.groupby("machine_id")``.

    What a run's records say is kept beside them (``frame.parquet``) and read from there next
    time, for as long as nothing of the run has changed.

    Parameters
    ----------
    place
        A run's folder, a run in one file, a ``run_id``, or a pattern such as
        ``"outputs/runs/*"``.

    Raises
    ------
    ParameterError
        If there is no run in that place.
    """
    # A folder's own name may hold signs that mean something in a pattern.
    runs = [path for path in paths_of(place) if holds_run(path)][:1]
    if not runs:
        runs = [Path(p) for p in sorted(glob.glob(str(paths_of(place)[0]))) if holds_run(Path(p))]
    if not runs:
        raise ParameterError(
            f"{str(place)!r} holds no run; give a run's folder, its run_id, or a pattern such as "
            "'outputs/runs/*'"
        )
    return cache.joined(
        [known or _read(run) for run, known in zip(runs, cache.known(runs), strict=True)]
    )


def _read(path: Path) -> cache.Part:
    """Return a run's rows out of its records, and keep them beside these."""
    state = cache.state(path)  # before they are read: what is appended meanwhile makes another
    run = RunStore(path)
    rows = run.frame()
    model = (run.info.get("model") or {}).get("sha256")
    rows["model_sha256"] = _texts([model] * len(rows))
    rows["engine_version"] = _texts(_engine_versions(run.info, rows))
    stored_once = rows["process"].nunique() == len(run.records())
    if state is not None and run.whole and stored_once:  # else it warns, and does so each time
        cache.keep(path, state, rows)
    return rows


def _engine_versions(info: Mapping[str, Any], rows: pd.DataFrame) -> list[str | None]:
    """Return the version of the engine that each row was measured with."""

    def version(card: Mapping[str, Any]) -> str | None:
        return (card.get("engine") or {}).get("version")

    named = {name: version(card) for name, card in (info.get("engines") or {}).items()}
    there = {name: version(card) for name, card in (info.get("machines") or {}).items()}
    known = zip(rows["engine"], rows["machine_id"], strict=True)
    return [named.get(engine) or there.get(machine) or version(info) for engine, machine in known]


def _texts(values: Sequence[str | None]) -> pd.Series:
    """Return a column of texts, or of None, as all of a frame are."""
    import pandas as pd

    return pd.Series(values, dtype=object)
