"""Many runs as one frame, each by its records, or by what was kept of them."""

from __future__ import annotations

import contextlib
import gc
import glob
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from llm_latency.errors import ParameterError
from llm_latency.records import cache
from llm_latency.records.rows import COLUMNS
from llm_latency.records.store import RunStore, holds_run, paths_of

if TYPE_CHECKING:
    import pandas as pd

Part: TypeAlias = "pd.DataFrame | cache.Kept"


@contextlib.contextmanager
def _no_garbage_collected() -> Iterator[None]:
    """Keep Python from going through a million new lists, now and soon: none is garbage."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.freeze()  # together with unfreeze: among the oldest, without a look
            gc.unfreeze()
            gc.enable()


@_no_garbage_collected()
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
    from tqdm import tqdm

    # Records that are read for the first time take half a second per thousand rows.
    known = tqdm(cache.known(runs), "reading", len(runs), unit="run", delay=2, leave=False)
    return joined([kept or _read(run) for run, kept in zip(runs, known, strict=True)])


def joined(parts: Sequence[Part]) -> pd.DataFrame:
    """Return the rows of all runs as one frame, in their order."""
    import numpy as np
    import pandas as pd

    ends = np.cumsum([0, *map(len, parts)])
    names = dict.fromkeys(name for part in parts for name in part.columns)
    kinds = {name: COLUMNS.get(name, "object") for name in names}
    columns: dict[str, Any] = {
        name: np.full(ends[-1], np.nan) if kind == "float64" else np.empty(ends[-1], dtype=kind)
        for name, kind in kinds.items()
    }
    for part, start, end in zip(parts, ends, ends[1:], strict=False):
        if isinstance(part, cache.Kept):
            part.fill(columns, slice(start, end))
        else:
            for name, values in columns.items():
                values[start:end] = part[name].to_numpy()
    columns = {n: pd.Series(v, dtype=v.dtype, copy=False) for n, v in columns.items()}
    rows = pd.DataFrame(columns, copy=False)
    looked_at = (
        part.looked_at if isinstance(part, cache.Kept) else "looks" in part.attrs for part in parts
    )
    if any(looked_at):  # of one is enough for wider intervals
        rows.attrs["looks"] = 0
    return rows


def _read(path: Path) -> Part:
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
