"""llama.cpp's own source, out of the source package of the installed llama-cpp-python.

It is fetched once and kept in the cache: whoever builds something beside the engine (llama-bench,
the second device) builds it from the very release that the lab measures.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
import tarfile
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from filelock import FileLock

import bootstrap
from llm_latency.errors import LabError
from llm_latency.model import names


def compiler() -> list[str]:
    """Return the command of the C++ compiler."""
    return shlex.split(os.environ.get("CXX", "c++"))


def archive(given: Path | None = None) -> Path:
    """Return the source package that the lock names, fetched where it is not in the cache yet.

    Parameters
    ----------
    given
        A copy of it that is at hand.

    Raises
    ------
    LabError
        If it cannot be fetched, or what is given is another one.
    """
    lock = (bootstrap.ROOT / "requirements.lock").read_text(encoding="utf-8")
    version, entry = bootstrap.lock_entry(lock)
    installed = metadata.version("llama_cpp_python")
    if installed != version:
        raise LabError(
            f"llama-cpp-python {installed} is installed and requirements.lock names {version}; "
            "run 'make setup'."
        )
    kept = names.cache_dir() / "engine-source" / f"llama_cpp_python-{version}.tar.gz"
    kept.parent.mkdir(parents=True, exist_ok=True)
    if given is None:
        with FileLock(kept.with_suffix(".lock")):
            if not kept.is_file():
                _fetch(version, entry, kept)
    source = given or kept
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    if f"sha256:{digest}" not in entry:
        raise LabError(
            f"{source} is not the source package that requirements.lock names (sha256 {digest}); "
            "remove it or give that one, to have it downloaded."
        )
    return source


def _fetch(version: str, entry: str, kept: Path) -> None:
    with tempfile.TemporaryDirectory(dir=kept.parent) as name:
        wanted = Path(name) / "requirements.txt"
        wanted.write_text(entry, encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
        command += ["--no-binary", bootstrap.PACKAGE, "-r", str(wanted), "-d", name]
        try:
            run(f"Fetching the source of llama-cpp-python {version}", command, kept.parent / "log")
        except bootstrap.SetupError as error:
            raise LabError(str(error)) from None
        next(Path(name).glob("*.tar.gz")).replace(kept)


def unpack(source: Path, folder: Path) -> Path:
    """Unpack a source package into a folder, and return where llama.cpp's source lies there."""
    bootstrap.say("Unpacking")
    with tarfile.open(source) as packed:
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        packed.extractall(folder / "source", **safe)  # type: ignore[arg-type]
    return next((folder / "source").iterdir()) / "vendor" / "llama.cpp"


def run(
    label: str,
    command: list[str],
    log: Path,
    progress: Callable[[str], float | None] = bootstrap.no_progress,
) -> None:
    """Run one long command of a build, with what it prints in a log.

    Raises
    ------
    SetupError
        If it fails: the end of what it printed, and what to do.
    """
    bootstrap.say(label)
    env = bootstrap.build_environment(os.environ, "", bootstrap.available_cpus())
    del env["CMAKE_ARGS"]
    bootstrap.run_logged(label, command, env, log, progress)
