"""Programs of llama.cpp's own that measure the same engine: where they lie, and who makes them.

They are built out of the source package of the installed llama-cpp-python, once, and kept in the
cache under a name that says for which engine; those of another engine are never used.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from llm_latency.errors import LabError
from llm_latency.machine import host
from llm_latency.model import names

LAB = Path(__file__).resolve().parents[3]
"""The lab's folder, where it is used from one: there are the builders."""


def engine_libraries() -> Path:
    """Return the folder of the installed llama-cpp-python's shared libraries.

    Raises
    ------
    LabError
        If llama-cpp-python is not installed.
    """
    # Found, not imported: that would load llama.cpp into this process.
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.origin is None:
        raise LabError("llama-cpp-python is not installed; run 'make setup'.")
    return Path(found.origin).parent / "lib"


def place(name: str) -> Path:
    """Return where a program for the installed engine is kept, made or not."""
    build = host.engine_build()
    parts = [
        metadata.version("llama_cpp_python"),
        *(build.get(key) for key in ("key", "cmake_args", "compiler")),
        # It is linked against these very files.
        str(engine_libraries()),
    ]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    file = f"{name}.exe" if sys.platform == "win32" else name
    return names.cache_dir() / name / key / file


def found(name: str, how: str) -> Path:
    """Return a program that has been made, or the one that the environment names.

    Parameters
    ----------
    name
        Such as ``llama-bench``; ``LLM_LATENCY_LLAMA_BENCH`` is the variable then.
    how
        What makes it, in words that can be typed.

    Raises
    ------
    LabError
        If it is not there.
    """
    variable = f"LLM_LATENCY_{name.upper().replace('-', '_')}"
    named = os.environ.get(variable)
    path = Path(named).expanduser() if named else place(name)
    if path.is_file():
        return path
    if named:
        raise LabError(f"{variable}={named!r} is not a file; give the path of {name}, or unset it.")
    raise LabError(f"{name} has not been built for the installed engine; run {how}.")


def llama_server(*, build: bool = False) -> Path:
    """Return llama-server for the installed engine.

    Parameters
    ----------
    build
        Make it where it is not there: some minutes, once.

    Raises
    ------
    LabError
        If it is not there and cannot be made, with what to do.
    """
    command = ["-m", "benchmarks.server", "--build-only"]
    try:
        return found("llama-server", f"'{' '.join(['python', *command])}' in the lab's folder")
    except LabError:
        makeable = build and (LAB / "benchmarks" / "server").is_dir()
        if not makeable or "LLM_LATENCY_LLAMA_SERVER" in os.environ:
            raise
    print("llama-server is built out of the engine's own source: some minutes, once", flush=True)
    made = subprocess.run([sys.executable, *command], cwd=LAB, capture_output=True, text=True)
    if made.returncode:
        said = (made.stderr or made.stdout).strip().splitlines()
        why = said[-1] if said else f"exit code {made.returncode}"
        raise LabError(f"llama-server could not be built: {why}")
    return place("llama-server")
