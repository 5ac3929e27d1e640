"""The engines on this machine: environments of bootstrap.py, and the interpreter of each.

A trial names its engine by the name of an environment; where that lies is this machine's affair.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from llm_latency.errors import ParameterError, did_you_mean
from llm_latency.plan.parameters import shown
from llm_latency.plan.spec import HOME

FOLDER_VARIABLE = "LLM_LATENCY_ENGINES"
"""Environment variable with another folder of environments; bootstrap.py reads it, too."""
WITHIN = ("", "bin/python", "Scripts/python.exe")
"""Where the interpreter lies in an environment, or is the path itself."""


def folder() -> Path:
    """Return the folder of this machine's named environments, beside the lab's own."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named or Path(__file__).resolve().parents[3] / ".engines").expanduser()


def there_are() -> list[str]:
    """Return the names of this machine's engines: the one at home first."""
    with contextlib.suppress(OSError):
        return [HOME, *sorted(p.name for p in folder().iterdir() if _python_of(p))]
    return [HOME]


def interpreter(engine: str | None) -> Path:
    """Return the interpreter of an engine.

    Parameters
    ----------
    engine
        A name, the path of an environment or of its interpreter; ``None``: this interpreter.

    Raises
    ------
    ParameterError
        If this machine has no such engine.
    """
    if engine is None:
        return Path(sys.executable)
    place = folder() / engine  # a whole path stands for itself
    if os.path.basename(engine) != engine:
        with contextlib.suppress(RuntimeError):  # ~nobody is a name like any other
            place = Path(engine).expanduser().absolute()
    if python := _python_of(place):
        return python
    names = there_are()
    raise ParameterError(
        f"engine={shown(engine)} is refused{did_you_mean(engine, names)} There are: "
        f"{', '.join(names)}; make another with 'python bootstrap.py --engine … --name …'."
    )


def _python_of(place: Path) -> Path | None:
    """Return the interpreter of an environment; not resolved, or it would be of no environment."""
    with contextlib.suppress(OSError):  # a name that is too long for this file system
        return next((python for part in WITHIN if (python := place / part).is_file()), None)
    return None
