"""Jobs for tests and benchmarks, of the smallest model unless another file is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_latency.measure.job import Job, ModelFile
from llm_latency.model import names
from llm_latency.plan.spec import Trial


def model_file(path: Path | None = None) -> ModelFile:
    """Return a file as jobs name it; the smallest synthetic model where none is given."""
    name = "synthetic:tiny" if path is None else str(path)
    if path is not None and not path.exists():
        return ModelFile(name, sha256="", size_bytes=0)  # gone since it was named
    return ModelFile.of(names.card(name, path or names.resolve(name)))


def job(folder: Path, trial: Trial, *, model: Path | None = None, **changed: Any) -> Job:
    """Return a trial as a job whose files lie in a folder."""
    return Job("run", trial, model_file(model), folder, **{"timeout_s": 30.0} | changed)
