"""Build llama-bench out of the source package of the installed llama-cpp-python.

Two ways. *Linked*: compile llama-bench's own two files against the very libraries that the lab
loads, so that both measure the same machine code; takes seconds. *Whole*: where that cannot be
(Windows, a wheel without llama.cpp's ``common`` library), build llama.cpp with the flags of the
installed engine. Either way the executable is kept in the cache, under a name that depends on
the version, the flags and the compiler.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

import bootstrap
from llm_latency.errors import LabError
from llm_latency.machine import host
from llm_latency.questions.calibration import bench

OFF = ("TESTS", "EXAMPLES", "SERVER", "APP", "UI")
"""Parts of llama.cpp that are not needed."""


def build(source: Path | None = None, *, whole: bool = False) -> Path:
    """Return the executable for the installed engine, built if it is not there.

    Parameters
    ----------
    source
        The source package, ``llama_cpp_python-<version>.tar.gz``; downloaded if not given.
    whole
        Do not try to link against the installed libraries.

    Raises
    ------
    LabError
        One sentence that says what is missing, or the end of the compiler's output.
    """
    target = bench.place()
    if target.is_file() and not whole:
        bootstrap.say(f"Nothing to build: {target}")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    log = target.parent / "build.log"
    with tempfile.TemporaryDirectory(prefix="llama-bench-") as name:
        folder = Path(name)
        try:
            tree = _source(source, folder, log)
            made, way = _made(tree, folder, log, whole)
        except bootstrap.SetupError as error:
            raise LabError(str(error)) from None
        check = subprocess.run([str(made), "--version"], capture_output=True, text=True)
        if check.returncode:
            raise LabError(
                f"llama-bench was built and does not start: {(check.stdout + check.stderr).strip()}"
                f" Read {log}, or build it with --whole."
            )
        facts = {
            "way": way,
            "llama_cpp_python": metadata.version("llama_cpp_python"),
            "cmake_args": host.engine_build().get("cmake_args"),
            "compiler": bootstrap.compiler_line(os.environ, "portable"),
            "says": " ".join((check.stdout + check.stderr).split()),
            "libraries": _checksums() if way == "linked" else {},
            "built_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        draft = target.with_name(target.name + ".new")
        shutil.copy2(made, draft)
        (target.parent / "build.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        draft.replace(target)
    bootstrap.say(f"Built llama-bench ({way}): {target}")
    return target


def _made(tree: Path, folder: Path, log: Path, whole: bool) -> tuple[Path, str]:
    common = bench.engine_libraries().parents[1] / "lib"
    if not whole and any(common.glob("libllama-common.*")):
        try:
            return _linked(tree, common, folder, log), "linked"
        except bootstrap.SetupError as error:
            bootstrap.say(f"Linking against the installed libraries failed: {error}")
    return _whole(tree, folder, log), "whole"


def _source(given: Path | None, folder: Path, log: Path) -> Path:
    """Return llama.cpp's source, out of the source package that the lock names."""
    lock = (bootstrap.ROOT / "requirements.lock").read_text(encoding="utf-8")
    version, entry = bootstrap.lock_entry(lock)
    installed = metadata.version("llama_cpp_python")
    if installed != version:
        raise LabError(
            f"llama-cpp-python {installed} is installed and requirements.lock names {version}; "
            "run 'make setup'."
        )
    if given is None:
        wanted = folder / "requirements.txt"
        wanted.write_text(entry, encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
        command += ["--no-binary", bootstrap.PACKAGE, "-r", str(wanted), "-d", str(folder)]
        _run(f"Fetching the source of llama-cpp-python {version}", command, log)
        given = next(folder.glob("*.tar.gz"))
    digest = hashlib.sha256(given.read_bytes()).hexdigest()
    if f"sha256:{digest}" not in entry:
        raise LabError(
            f"{given} is not the source package that requirements.lock names (sha256 {digest}); "
            "give that one, or leave --source out to have it downloaded."
        )
    bootstrap.say("Unpacking")
    with tarfile.open(given) as archive:
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder / "source", **safe)  # type: ignore[arg-type]
    return next((folder / "source").iterdir()) / "vendor" / "llama.cpp"


def _linked(tree: Path, common: Path, folder: Path, log: Path) -> Path:
    """Compile llama-bench's own files against the installed libraries."""
    made, libraries = folder / "llama-bench", bench.engine_libraries()
    includes = ("include", "ggml/include", "common", "vendor", "tools/llama-bench")
    command = shlex.split(os.environ.get("CXX", "c++"))
    command += ["-O3", "-DNDEBUG", "-std=c++17", "-pthread", "-o", str(made)]
    command += [f"-I{tree / part}" for part in includes]
    command += [
        str(tree / "tools" / "llama-bench" / name) for name in ("main.cpp", "llama-bench.cpp")
    ]
    # The engine's own folder first: what is there is what the lab loads.
    for place in (libraries, common):
        command += [f"-L{place}", f"-Wl,-rpath,{place}"]
    if sys.platform == "linux":
        # libllama-common has no path of its own to the others: they must be loaded before it.
        command.append("-Wl,--no-as-needed")
    command += ["-lllama", "-lllama-common", "-lggml", "-lggml-base"]
    _run("Compiling llama-bench (about half a minute)", command, log)
    return made


def _whole(tree: Path, folder: Path, log: Path) -> Path:
    """Build llama.cpp and llama-bench with the flags of the installed engine."""
    cmake, build_folder = _cmake(folder, log), folder / "build"
    flags = shlex.split(host.engine_build().get("cmake_args", ""))
    flags = [flag for flag in flags if not flag.startswith("-DLLAVA_BUILD")]
    flags += [f"-DLLAMA_BUILD_{part}=OFF" for part in OFF]
    flags += ["-DLLAMA_BUILD_TOOLS=ON", "-DLLAMA_BUILD_COMMON=ON", "-DLLAMA_OPENSSL=OFF"]
    # One file that can be kept, without libraries beside it.
    flags += ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF"]
    _run("Configuring llama.cpp", [cmake, "-S", str(tree), "-B", str(build_folder), *flags], log)
    command = [cmake, "--build", str(build_folder), "--config", "Release"]
    command += ["--target", "llama-bench", "--parallel", str(bootstrap.available_cpus())]
    bootstrap.say("Compiling all of llama.cpp takes 3 to 15 minutes, once")
    _run("Compiling llama.cpp", command, log, bootstrap.build_progress)
    name = bench.place().name
    files = [path for path in build_folder.rglob(name) if path.is_file()]
    if not files:
        raise LabError(f"the build left no {name}; read {log}.")
    return files[0]


def _cmake(folder: Path, log: Path) -> str:
    """Return the system's cmake, or one in a virtual environment that is thrown away."""
    if system := shutil.which("cmake"):
        return system
    place = folder / "cmake"
    binaries = place / ("Scripts" if sys.platform == "win32" else "bin")
    _run("Making room for cmake", [sys.executable, "-m", "venv", str(place)], log)
    python = str(binaries / ("python.exe" if sys.platform == "win32" else "python"))
    _run("Fetching cmake", [python, "-m", "pip", "install", "cmake", "ninja"], log)
    os.environ["PATH"] = os.pathsep.join([str(binaries), os.environ.get("PATH", "")])
    return str(binaries / "cmake")


def _checksums() -> Mapping[str, str]:
    """Return the checksums of the libraries that llama-bench shares with the lab."""
    files = sorted(path for path in bench.engine_libraries().iterdir() if path.is_file())
    digests = {hashlib.sha256(path.read_bytes()).hexdigest(): path.name for path in reversed(files)}
    # A library lies there under several names; the shortest is enough.
    return {name: digest for digest, name in sorted(digests.items(), key=lambda item: item[1])}


def _run(
    label: str,
    command: list[str],
    log: Path,
    progress: Callable[[str], float | None] = bootstrap.no_progress,
) -> None:
    bootstrap.say(label)
    env = bootstrap.build_environment(os.environ, "", bootstrap.available_cpus())
    del env["CMAKE_ARGS"]
    bootstrap.run_logged(label, command, env, log, progress)
