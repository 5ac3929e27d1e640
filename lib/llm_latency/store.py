"""A run's folder: written once, line by line, and read as often as one likes.

::

    outputs/runs/<run_id>/
        run.json            plan, machine, versions, model, engine
        trials.jsonl        one record a line, appended and flushed; never rewritten
        trials.torn         what a crash left half-written: kept, not trusted
        logs/<trial_id>.log llama.cpp's words of each trial
"""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_latency.errors import LabError, ParameterError, did_you_mean
from llm_latency.record import FINAL, Record
from llm_latency.rows import rows
from llm_latency.spec import Plan

if TYPE_CHECKING:
    import pandas as pd


def outputs_dir() -> Path:
    """Return the folder for all that runs leave: the project's own ``outputs``.

    The notebooks run in ``notebooks/`` as well as in the project's root, and their runs belong
    in one place. ``LLM_LATENCY_OUTPUTS`` names another one.
    """
    if named := os.environ.get("LLM_LATENCY_OUTPUTS"):
        return Path(named).expanduser()
    return (project_dir() or Path.cwd()) / "outputs"


def project_dir() -> Path | None:
    """Return the project's root, if the working folder is it or lies in it."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "lib" / "llm_latency").is_dir():
            return folder
    return None


class RunStore:
    """One run: its plan, what is known of machine and model, and its records.

    Attributes
    ----------
    path : Path
        The run's folder.
    info : dict
        The content of ``run.json``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.info: dict[str, Any] = json.loads((path / "run.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise ParameterError(
                f"run {path.name!r} is not in {path.parent}{did_you_mean(path.name, near)} "
                "Give the run_id of a stored run."
            ) from None
        except (OSError, ValueError) as error:
            raise LabError(
                f"{path / 'run.json'} cannot be read ({error}); restore it from a copy, or "
                "measure again under a new run_id"
            ) from None

    @classmethod
    def create(cls, path: Path, info: dict[str, Any]) -> RunStore:
        """Make the folder of a new run; ``run.json`` appears whole or not at all."""
        try:
            (path / "logs").mkdir(parents=True, exist_ok=True)
            draft = path / f"run.json.{os.getpid()}"
            draft.write_text(json.dumps(info, indent=1, default=str), encoding="utf-8")
            draft.replace(path / "run.json")
        except OSError as error:
            raise LabError(
                f"the run's folder {path} cannot be written ({error.strerror}); "
                "set LLM_LATENCY_OUTPUTS to a folder that can"
            ) from None
        return cls(path)

    @property
    def run_id(self) -> str:
        """Name of the run."""
        return self.path.name

    @property
    def plan(self) -> Plan:
        """The plan that this run carries out."""
        return Plan.model_validate_json(json.dumps(self.info["plan"]))

    @property
    def planned(self) -> int:
        """How many trials the plan holds; attempts made again are not counted."""
        plan = self.info["plan"]
        return len(plan["cells"]) * int(plan["rounds"])

    @property
    def final(self) -> int:
        """How many planned trials have a final record."""
        return len(self.done() & {trial.trial_id for trial in self.plan.trials()})

    @property
    def complete(self) -> bool:
        """Whether every planned trial has a final record."""
        return self.final >= self.planned

    def log_path(self, trial_id: str) -> Path:
        """Return where llama.cpp's words of a trial go."""
        return self.path / "logs" / f"{trial_id}.log"

    def state_path(self, cell_id: str) -> Path:
        """Return where the stored KV cache of a cell's prompt lies while it is needed."""
        return self.path / "states" / f"{cell_id}.state"

    def drop_states(self) -> None:
        """Delete the stored KV caches, which can be large; the records keep their sizes."""
        shutil.rmtree(self.path / "states", ignore_errors=True)

    def append(self, record: Record) -> None:
        """Add one record; it is on the disk when this returns."""
        with (self.path / "trials.jsonl").open("a", encoding="utf-8") as file:
            file.write(record.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())

    def mend(self) -> None:
        """Set a line aside that a crash left half-written, so that the next one starts anew."""
        file = self.path / "trials.jsonl"
        if not file.exists():
            return
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with (self.path / "trials.torn").open("ab") as torn:
                torn.write(content[whole:] + b"\n")
            os.truncate(file, whole)

    def records(self) -> list[Record]:
        """Return every whole record, in the order of writing."""
        try:
            content = (self.path / "trials.jsonl").read_bytes()
        except FileNotFoundError:
            return []
        lines = content[: content.rfind(b"\n") + 1].splitlines()
        return [Record.model_validate_json(line) for line in lines if line.strip()]

    def done(self) -> set[str]:
        """Return the trials that need no further attempt."""
        return {r.trial.trial_id for r in self.records() if r.status in FINAL}

    def frame(self) -> pd.DataFrame:
        """Return one tidy row per generation; a trial without any is one row of its state."""
        return to_frame(self.records())

    def __repr__(self) -> str:
        state = "complete" if self.complete else "INCOMPLETE"
        return f"<run {self.run_id}: {self.final} of {self.planned} trials, {state}>"


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return the records as a tidy frame.

    A disturbed trial that was measured again has both records: the first is ``superseded`` and
    enters no estimate.
    """
    import pandas as pd

    kept = [record for record in records if record.status in FINAL]
    # Replaced because the machine was disturbed, never because of what was measured.
    again = {_first(record) for record in kept if record.trial.attempt and record.status == "ok"}
    return pd.DataFrame(
        [
            row | {"superseded": not record.trial.attempt and _first(record) in again}
            for record in kept
            for row in rows(record)
        ]
    )


def _first(record: Record) -> tuple[str, str]:
    """Return what a trial and its second attempt have in common."""
    return record.run_id, record.trial.model_copy(update={"attempt": 0}).trial_id


def load_runs(place: str | Path) -> pd.DataFrame:
    """Return the rows of one run or many as one frame.

    Parameters
    ----------
    place
        A run's folder, its ``run_id``, or a pattern such as ``"outputs/runs/*"``.

    Raises
    ------
    ParameterError
        If there is no run in that place.
    """
    import pandas as pd

    folders = [Path(p) for p in sorted(glob.glob(str(Path(place).expanduser())))]
    folders = [p for p in folders if (p / "run.json").is_file()]
    if not folders and (outputs_dir() / "runs" / str(place) / "run.json").is_file():
        folders = [outputs_dir() / "runs" / str(place)]
    if not folders:
        raise ParameterError(
            f"{str(place)!r} holds no run; give a run's folder, its run_id, or a pattern such as "
            "'outputs/runs/*'"
        )
    frames = []
    for folder in folders:
        run = RunStore(folder)
        frame = run.frame()
        frame["model_sha256"] = (run.info.get("model") or {}).get("sha256")
        frame["machine_id"] = (run.info.get("machine") or {}).get("machine_id")
        frames.append(frame)
    return pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)


def open_run(place: str | Path) -> RunStore:
    """Return a stored run by its folder or its ``run_id``."""
    path = Path(place).expanduser()
    return RunStore(path if (path / "run.json").is_file() else outputs_dir() / "runs" / str(place))
