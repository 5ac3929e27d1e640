"""One trial as a job: plain data that any executor can carry out, here or on another machine.

A job names its model by what it is and not by where it lies: whoever carries the job out finds
the file, or makes or fetches it, and sees that it is the same.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from llm_latency.engine.protocol import Request
from llm_latency.errors import LabError
from llm_latency.machine import interpreters
from llm_latency.model import names
from llm_latency.plan.spec import Trial
from llm_latency.records.folders import TrialFiles, place_folder

WORKER_VARIABLE = "LLM_LATENCY_WORKER"
"""Environment variable with another command line for the worker, as a JSON list: for tests."""


def worker_command(engine: str | None = None) -> tuple[str, ...]:
    """Return the command line of a worker on this machine, of a named engine or of this one."""
    if other := os.environ.get(WORKER_VARIABLE):
        return tuple(json.loads(other))
    return (str(interpreters.interpreter(engine)), "-m", "llm_latency.engine.worker")


@dataclass(frozen=True)
class ModelFile:
    """A model's file, by what it is: its name, and the content that this name stands for."""

    name: str
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, card: names.ModelCard) -> ModelFile:
        """Return the file that a card describes, its name pinned to what was found."""
        name = names.pinned(card.name, {"model": card.model_dump()})
        return cls(name, card.sha256, card.size_bytes)

    def find(self) -> Path:
        """Return where it lies on this machine; it is made or fetched where it is not there yet.

        Raises
        ------
        LabError
            If it cannot be had here, or is another file than was meant.
        """
        path = names.resolve(self.name)
        here = names.card(self.name, path)
        if here.sha256 != self.sha256:
            raise LabError(
                f"model={self.name!r} is another file than the run began with (SHA-256 "
                f"{self.sha256}, {path} has {here.sha256}); put that file back, or measure again "
                "under a new run_id"
            )
        return path


@dataclass(frozen=True)
class Job:
    """One trial to carry out, with all that it needs.

    Attributes
    ----------
    run_id : str
        The run that its record belongs to.
    trial : Trial
        What is measured.
    model : ModelFile
        The model, by what it is.
    folder : Path or None
        The run's folder, for the trial's own files; ``None``: the run is kept by another machine,
        and they lie in the outputs of the one that carries the job out.
    timeout_s : float
        Longest life of its process, in seconds.
    worker : tuple of str
        The worker's command line; empty: that of the machine that carries the job out.
    """

    run_id: str
    trial: Trial
    model: ModelFile
    folder: Path | None
    timeout_s: float
    worker: tuple[str, ...] = ()

    @property
    def files(self) -> TrialFiles:
        """The trial's own files."""
        return TrialFiles(self.home, self.trial)

    @property
    def home(self) -> Path:
        """The folder of the trial's own files on this machine."""
        return self.folder or place_folder(self.run_id)

    @property
    def command(self) -> tuple[str, ...]:
        """The worker's command line on this machine."""
        return self.worker or worker_command(self.trial.start.engine)

    @property
    def hides_gpu(self) -> bool:
        """Whether the worker is to see no GPU."""
        return self.trial.settings.n_gpu_layers == 0

    def request(self, model: Path) -> Request:
        """Return what the worker is asked to do with the model's file."""
        return Request(
            trial=self.trial,
            model_path=str(model),
            log_path=str(self.files.log),
            state_path=str(self.files.state),
        )
