"""Where runs and the files of their trials lie: found from wherever one works, made or refused."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from llm_latency.errors import LabError
from llm_latency.plan.spec import Trial

LOGS, STATES = "logs", "states"
"""Folders in a run's folder: llama.cpp's words, and prompts' stored KV caches."""


def outputs_dir() -> Path:
    """Return the folder for all that runs leave: the project's own ``outputs``.

    The notebooks run in ``notebooks/`` as well as in the project's root, and their runs belong
    in one place. ``LLM_LATENCY_OUTPUTS`` names another one.
    """
    if named := os.environ.get("LLM_LATENCY_OUTPUTS"):
        try:
            return Path(named).expanduser()
        except RuntimeError as error:
            raise LabError(f"LLM_LATENCY_OUTPUTS={named!r}: {error}; give a path") from None
    return (project_dir() or Path.cwd()) / "outputs"


def project_dir() -> Path | None:
    """Return the project's root, if the working folder is it or lies in it."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "lib" / "llm_latency").is_dir():
            return folder
    return None


def place_folder(run_id: str) -> Path:
    """Return the folder for the files of a run's trials where another machine keeps the run."""
    return outputs_dir() / "places" / run_id


def make_folder(path: Path, *, new: bool = False) -> Path:
    """Make a folder with all above it, and return it.

    Raises
    ------
    FileExistsError
        If it is there and was to be ``new``.
    LabError
        If it cannot be made, or nothing can be written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=not new)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        if new and isinstance(error, FileExistsError):
            raise
        if path.is_file():
            raise LabError(
                f"{path} is a file, in which no run goes on; give a new run_id, or go on in the "
                "run's folder"
            ) from None
        raise unwritable(path, error) from None
    return path


def unwritable(path: Path, error: OSError) -> LabError:
    """Say in one sentence why a run's folder cannot be written, and what to do."""
    return LabError(
        f"the run's folder {path} cannot be written ({error.strerror}); make room there, or set "
        "LLM_LATENCY_OUTPUTS to a folder that can"
    )


@dataclass(frozen=True)
class TrialFiles:
    """The files that a trial has beside its record, in its run's folder."""

    folder: Path
    trial: Trial

    @property
    def log(self) -> Path:
        """llama.cpp's words."""
        return self.folder / LOGS / f"{self.trial.trial_id}.log"

    @property
    def state(self) -> Path:
        """The stored KV cache of its prompt, which all trials of a cell share."""
        return self.folder / STATES / f"{self.trial.cell_id}.state"

    @property
    def state_card(self) -> Path:
        """What is known of that cache; written when it is whole."""
        return self.state.with_suffix(".json")


def size_of(file: Path) -> int:
    """Return the size of a file in bytes; 0 where there is none."""
    return file.stat().st_size if file.exists() else 0
