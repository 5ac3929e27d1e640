"""A run's folder: written once, line by line, and read as often as one likes.

::

    outputs/runs/<run_id>/
        run.json            plan, machine, versions, model, engine
        trials.jsonl        one record a line, appended and flushed; never rewritten
        trials.torn         what a crash left half-written: kept, not trusted
        run.lock            held by the process that goes on with the run
        logs/<trial_id>.log llama.cpp's words of each trial
        frame.parquet       the rows as they were read last, see records/cache.py

or all of it in one file, see ``records/pack.py``, which is read and never written.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
import zipfile
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from llm_latency.errors import LabError, ParameterError, did_you_mean
from llm_latency.plan.spec import Plan
from llm_latency.records import archive, files, versions
from llm_latency.records.folders import LOGS, STATES, make_folder, outputs_dir, unwritable
from llm_latency.records.machines import Rows, by_machine
from llm_latency.records.record import Record
from llm_latency.records.rows import to_frame

if TYPE_CHECKING:
    import pandas as pd


class RunStore:
    """One run: its plan, what is known of machine and model, and its records.

    ``run.json`` is read once, and each line of ``trials.jsonl`` is parsed once: asked again, a
    run looks only at what was appended since.

    Attributes
    ----------
    path : Path
        The run's folder, or the archive that holds it.
    info : dict
        The content of ``run.json``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._home: Path | zipfile.Path = archive.opened(path) if archive.is_one(path) else path
        self._records: list[Record] = []
        self._lines = files.Lines(self._home / "trials.jsonl")
        try:
            found = json.loads((self._home / "run.json").read_text(encoding="utf-8"))
            self.info: dict[str, Any] = _run_info(found)
        except FileNotFoundError:
            near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise ParameterError(
                f"run {path.name!r} is not in {path.parent}{did_you_mean(path.name, near)} "
                "Give the run_id of a stored run."
            ) from None
        except versions.SchemaError as error:
            raise LabError(f"{path / 'run.json'} cannot be read: {error}") from None
        except (OSError, ValueError) as error:
            raise LabError(
                f"{path / 'run.json'} cannot be read ({error}); restore it from a copy, or "
                "measure again under a new run_id"
            ) from None

    @classmethod
    def create(cls, path: Path, info: dict[str, Any]) -> RunStore:
        """Make the folder of a new run; ``run.json`` appears whole or not at all.

        Raises
        ------
        LabError
            If the folder cannot be written, or holds trials of which nothing is known.
        """
        trials = path / "trials.jsonl"
        if trials.exists() and not (path / "run.json").exists():
            raise LabError(
                f"{path} holds trials, and no run.json that says what they measured; put run.json "
                "back from a copy, or give a new run_id"
            )
        make_folder(path / LOGS)
        try:
            for draft in path.glob("run.json.*"):  # of processes that were killed
                draft.unlink()
            files.write(path / "run.json", json.dumps(info, indent=1, default=str))
        except OSError as error:
            raise unwritable(path, error) from None
        return cls(path)

    @property
    def run_id(self) -> str:
        """Name of the run: that of its folder, or of its archive."""
        return self.path.name if self._home == self.path else self.path.stem

    @property
    def folder(self) -> Path:
        """The run's folder, to write to.

        Raises
        ------
        LabError
            If the run is an archive.
        """
        if self._home != self.path:
            raise LabError(
                f"{self.path} is a run in one file, which is read and never written; go on in the "
                "folder that it was made of, or give a new run_id"
            )
        return self.path

    @property
    def whole(self) -> bool:
        """Whether every line that was read is sound."""
        return self._lines.whole

    @cached_property
    def plan(self) -> Plan:
        """The plan that this run carries out."""
        try:
            return Plan.model_validate_json(json.dumps(self.info["plan"]))
        except ValidationError as error:
            why = versions.why(error)
            raise LabError(f"the plan in {self.path / 'run.json'} cannot be read: {why}") from None

    @property
    def planned(self) -> int:
        """How many trials the plan holds; attempts made again are not counted."""
        return len(self.plan.trials())

    @property
    def final(self) -> int:
        """How many planned trials have a final record."""
        return len(self.done() & {trial.trial_id for trial in self.plan.trials()})

    @property
    def complete(self) -> bool:
        """Whether every planned trial has a final record."""
        return self.final >= self.planned

    def log_path(self, name: str) -> Path:
        """Return where the words of a trial go, or of another process that is named."""
        return self.folder / LOGS / f"{name}.log"

    def drop_states(self) -> None:
        """Delete the stored KV caches, which can be large; the records keep their sizes."""
        if self._home == self.path:
            shutil.rmtree(self.path / STATES, ignore_errors=True)

    def tell(self, **more: Any) -> None:
        """Add to ``run.json``, which is replaced whole.

        Raises
        ------
        LabError
            If it cannot be written; it is as it was then.
        """
        try:
            info = self.info | more
            files.write(self.path / "run.json", json.dumps(info, indent=1, default=str))
        except OSError as error:
            raise unwritable(self.path, error) from None
        self.info = info

    def append(self, record: Record) -> None:
        """Add one record; it is on the disk when this returns.

        Raises
        ------
        LabError
            If the disk is full or fails, or the run is an archive; nothing of the record is left
            then.
        """
        try:
            # A record of one's own is not parsed again, unless others stand before it.
            next_one = self._lines.at_end()
            files.append(self.folder / "trials.jsonl", record.model_dump_json())
            if next_one:
                self._lines.skip()
                self._records.append(record)
        except OSError as error:
            raise LabError(
                f"trial {record.trial.trial_id} cannot be stored in {self.path} "
                f"({error.strerror}); what was stored before is whole: make room, and run again "
                f"with run_id={self.run_id!r} to go on"
            ) from None

    def mend(self) -> None:
        """Set aside what a crash left half-done, so that the next record starts anew."""
        try:
            file, aside = self.folder / "trials.jsonl", self.folder / "trials.torn"
            files.mend(file, aside, self._lines.end)
            for draft in (self.folder / STATES).glob("*"):
                if draft.suffix not in (".state", ".json"):
                    draft.unlink()
        except OSError as error:
            raise unwritable(self.path, error) from None

    def records(self) -> list[Record]:
        """Return every whole record, in the order of writing."""
        try:
            self._records += [versions.record(line) for line in self._lines.new()]
        except versions.SchemaError as error:
            self._records, self._lines = [], files.Lines(self._lines.file)  # refused again if asked
            raise LabError(f"{self._lines.file} cannot be read: {error}") from None
        return list(self._records)

    def done(self) -> set[str]:
        """Return the trials that need no further attempt."""
        return {r.trial.trial_id for r in self.records()}

    def frame(self) -> pd.DataFrame:
        """Return one tidy row per generation; a trial without any is one row of its state.

        Where the run looks after every round whether it is to end, ``attrs["looks"]`` tells how
        many rounds there will be at most, 0 where only time ends it: comparisons read it.
        """
        rows = framed(_once(self.records()), self.plan)
        # Records of before this was kept with each are of the one machine that the run had.
        here = (self.info.get("machine") or {}).get("machine_id")
        rows["machine_id"] = rows["machine_id"].where(rows["machine_id"].notna(), here)
        return rows

    def on(self, machine: str) -> Rows:
        """Return the part of the run that one machine measured, as a run of its own.

        Raises
        ------
        ParameterError
            If no trial was measured on a machine of that name.
        """
        if machine not in (parts := by_machine(self)):
            raise ParameterError(
                f"no trial of run {self.run_id!r} was measured on {machine!r}; give one of "
                f"{', '.join(map(repr, parts))}."
            )
        return parts[machine]

    def __repr__(self) -> str:
        state = "complete" if self.complete else "INCOMPLETE"
        if self.plan.looked_at:
            state = "looked at after every round"
        return f"<run {self.run_id}: {self.final} of {self.planned} trials, {state}>"


def framed(records: Iterable[Record], plan: Plan) -> pd.DataFrame:
    """Return records of a plan's run as rows that know whether the run is looked at."""
    rows = to_frame(records)
    if plan.looked_at:
        rows.attrs["looks"] = 0 if plan.minutes else plan.rounds
    return rows


def _once(records: Iterable[Record]) -> list[Record]:
    """Return the records without a second one of the same trial, which nothing accounts for."""
    kept: dict[str, Record] = {}
    for record in records:
        name = record.trial.trial_id
        if kept.setdefault(name, record) is not record:
            warnings.warn(
                f"trial {name} of run {record.run_id!r} is stored twice; the first record counts",
                stacklevel=3,
            )
    return list(kept.values())


def open_run(place: str | Path) -> RunStore:
    """Return a stored run by its folder, its archive or its ``run_id``.

    A folder may have been copied from another machine, and may have another name than the run
    had there: its records keep the ``run_id`` under which they were measured.

    Raises
    ------
    ParameterError
        If there is no such run.
    LabError
        If it cannot be read, or an archive is not as it was packed.
    """
    places = paths_of(place)
    return RunStore(next((path for path in places if holds_run(path)), places[-1]))


def paths_of(place: str | Path) -> list[Path]:
    """Return where a run may lie that is named by a path or by its ``run_id``."""
    path = Path(place)
    with contextlib.suppress(RuntimeError):  # ~nobody is a name like any other
        path = path.expanduser()
    return [path, outputs_dir() / "runs" / path]


def holds_run(path: Path) -> bool:
    """Return whether a run lies here: in a folder, or in an archive by its name."""
    try:
        return (path / "run.json").is_file() or archive.is_one(path)
    except OSError:  # a name that is too long for this file system
        return False


def _run_info(found: Any) -> dict[str, Any]:
    """Return the content of ``run.json``, whichever version wrote it."""
    if not isinstance(found, dict) or not isinstance(found.get("plan"), dict):
        raise ValueError("it does not hold a run's plan")
    return versions.forward(found, versions.RUNS)
