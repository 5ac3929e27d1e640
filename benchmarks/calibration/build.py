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
import tempfile
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import bootstrap
from llm_latency.errors import LabError
from llm_latency.machine import host
from llm_latency.questions.calibration import bench
from tests.support import engine_source

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
        tree = engine_source.unpack(engine_source.archive(source), folder)
        try:
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
            return linked(tree, "llama-bench", folder, log), "linked"
        except bootstrap.SetupError as error:
            bootstrap.say(f"Linking against the installed libraries failed: {error}")
    return _whole(tree, folder, log), "whole"


def linked(tree: Path, tool: str, folder: Path, log: Path) -> Path:
    """Compile one of llama.cpp's tools, its own files, against the installed libraries."""
    made, libraries = folder / tool, bench.engine_libraries()
    common = libraries.parents[1] / "lib"
    includes = ("include", "ggml/include", "common", "vendor", f"tools/{tool}")
    command = engine_source.compiler()
    command += ["-O3", "-DNDEBUG", "-std=c++17", "-pthread", "-o", str(made)]
    command += [f"-I{tree / part}" for part in includes]
    command += map(str, sorted((tree / "tools" / tool).glob("*.cpp")))
    # The engine's own folder first: what is there is what the lab loads.
    for place in (libraries, common):
        command += [f"-L{place}", f"-Wl,-rpath,{place}"]
    if sys.platform == "linux":
        # libllama-common has no path of its own to the others: they must be loaded before it.
        command.append("-Wl,--no-as-needed")
    command += ["-lllama", "-lllama-common", "-lggml", "-lggml-base"]
    engine_source.run(f"Compiling {tool} (about half a minute)", command, log)
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
    engine_source.run(
        "Configuring llama.cpp", [cmake, "-S", str(tree), "-B", str(build_folder), *flags], log
    )
    command = [cmake, "--build", str(build_folder), "--config", "Release"]
    command += ["--target", "llama-bench", "--parallel", str(bootstrap.available_cpus())]
    bootstrap.say("Compiling all of llama.cpp takes 3 to 15 minutes, once")
    engine_source.run("Compiling llama.cpp", command, log, bootstrap.build_progress)
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
    engine_source.run("Making room for cmake", [sys.executable, "-m", "venv", str(place)], log)
    python = str(binaries / ("python.exe" if sys.platform == "win32" else "python"))
    engine_source.run("Fetching cmake", [python, "-m", "pip", "install", "cmake", "ninja"], log)
    os.environ["PATH"] = os.pathsep.join([str(binaries), os.environ.get("PATH", "")])
    return str(binaries / "cmake")


def _checksums() -> Mapping[str, str]:
    """Return the checksums of the libraries that llama-bench shares with the lab."""
    files = sorted(path for path in bench.engine_libraries().iterdir() if path.is_file())
    digests = {hashlib.sha256(path.read_bytes()).hexdigest(): path.name for path in reversed(files)}
    # A library lies there under several names; the shortest is enough.
    return {name: digest for digest, name in sorted(digests.items(), key=lambda item: item[1])}
