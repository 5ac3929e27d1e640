"""Where runs lie: the folder of all outputs, found from wherever one works, and made or refused."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from llm_latency.errors import LabError


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
        raise unwritable(path, error) from None
    return path


def unwritable(path: Path, error: OSError) -> LabError:
    """Say in one sentence why a run's folder cannot be written, and what to do."""
    return LabError(
        f"the run's folder {path} cannot be written ({error.strerror}); make room there, or set "
        "LLM_LATENCY_OUTPUTS to a folder that can"
    )
