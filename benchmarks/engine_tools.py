"""Build a program of llama.cpp's out of the source package of the installed llama-cpp-python.

Two ways. *Linked*: compile the program's own files against the very libraries that the lab loads,
so that both measure the same machine code: llama-bench in seconds, llama-server in two minutes.
*Whole*: where that cannot be (Windows, a wheel without llama.cpp's ``common`` library), build
llama.cpp with the flags of the installed engine. Either way the executable is kept in the cache,
under a name that depends on the version, the flags and the compiler.
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

from filelock import FileLock

import bootstrap
from llm_latency.engine import programs
from llm_latency.errors import LabError
from llm_latency.machine import host
from tests.support import engine_source

OFF = ("TESTS", "EXAMPLES", "APP", "UI")
"""Parts of llama.cpp that are not needed."""
SERVER_LISTS = Path(__file__).with_name("server") / "CMakeLists.txt"
"""How llama-server is built against libraries that are there."""


def build(name: str, source: Path | None = None, *, whole: bool = False) -> Path:
    """Return the executable for the installed engine, built if it is not there.

    Parameters
    ----------
    name
        ``llama-bench`` or ``llama-server``.
    source
        The source package, ``llama_cpp_python-<version>.tar.gz``; downloaded if not given.
    whole
        Do not try to link against the installed libraries.

    Raises
    ------
    LabError
        One sentence that says what is missing, or the end of the compiler's output.
    """
    target = programs.place(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):  # another may be at it
        if target.is_file() and not whole:
            bootstrap.say(f"Nothing to build: {target}")
        else:
            _build(target, source, whole)
    return target


def _build(target: Path, source: Path | None, whole: bool) -> None:
    """Build the executable that is to lie there."""
    log = target.parent / "build.log"
    with tempfile.TemporaryDirectory(prefix=f"{target.stem}-") as name:
        folder = Path(name)
        tree = engine_source.unpack(engine_source.archive(source), folder)
        try:
            made, way = _made(target.stem, tree, folder, log, whole)
        except bootstrap.SetupError as error:
            raise LabError(str(error)) from None
        check = subprocess.run([str(made), "--version"], capture_output=True, text=True)
        if check.returncode:
            raise LabError(
                f"{target.stem} was built and does not start: "
                f"{(check.stdout + check.stderr).strip()} Read {log}, or build it with --whole."
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
    bootstrap.say(f"Built {target.stem} ({way}): {target}")


def _made(name: str, tree: Path, folder: Path, log: Path, whole: bool) -> tuple[Path, str]:
    common = programs.engine_libraries().parents[1] / "lib"
    if not whole and any(common.glob("libllama-common.*")):
        try:
            return _linked(name, tree, folder, log), "linked"
        except bootstrap.SetupError as error:
            bootstrap.say(f"Linking against the installed libraries failed: {error}")
    return _whole(name, tree, folder, log), "whole"


def _linked(name: str, tree: Path, folder: Path, log: Path) -> Path:
    if name == "llama-server":
        return _linked_server(tree, folder, log)
    return linked(tree, name, folder, log)


def linked(tree: Path, tool: str, folder: Path, log: Path) -> Path:
    """Compile one of llama.cpp's tools, its own files, against the installed libraries."""
    made, libraries = folder / tool, programs.engine_libraries()
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


def _linked_server(tree: Path, folder: Path, log: Path) -> Path:
    """Compile llama-server, and what of its parts is not installed, against what is."""
    shutil.copy2(SERVER_LISTS, tree / "CMakeLists.txt")
    installed = programs.engine_libraries()
    libraries = f"{installed};{installed.parents[1] / 'lib'}"
    return _cmade("llama-server", tree, folder, log, [f"-DENGINE_LIBRARIES={libraries}"])


def _whole(name: str, tree: Path, folder: Path, log: Path) -> Path:
    """Build llama.cpp and one of its programs with the flags of the installed engine."""
    flags = shlex.split(host.engine_build().get("cmake_args", ""))
    flags = [flag for flag in flags if not flag.startswith("-DLLAVA_BUILD")]
    flags += ["-DLLAMA_BUILD_TOOLS=ON", "-DLLAMA_BUILD_COMMON=ON"]
    bootstrap.say("Compiling all of llama.cpp takes 3 to 15 minutes, once")
    return _cmade(name, tree, folder, log, flags)


def _cmade(name: str, tree: Path, folder: Path, log: Path, flags: list[str]) -> Path:
    """Let cmake build one program, a file that can be kept without others beside it."""
    cmake, build_folder = _cmake(folder, log), folder / "build"
    flags += [f"-DLLAMA_BUILD_{part}=OFF" for part in OFF]
    flags += ["-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF", "-DMTMD_VIDEO=OFF"]
    flags += [f"-DLLAMA_BUILD_SERVER={'ON' if name == 'llama-server' else 'OFF'}"]
    flags += ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF"]
    command = [cmake, "-S", str(tree), "-B", str(build_folder), *flags]
    engine_source.run("Configuring", command, log)
    command = [cmake, "--build", str(build_folder), "--config", "Release"]
    command += ["--target", name, "--parallel", str(bootstrap.available_cpus())]
    engine_source.run(f"Compiling {name}", command, log, bootstrap.build_progress)
    file = programs.place(name).name
    files = [path for path in build_folder.rglob(file) if path.is_file()]
    if not files:
        raise LabError(f"the build left no {file}; read {log}.")
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
    """Return the checksums of the libraries that the program shares with the lab."""
    files = sorted(path for path in programs.engine_libraries().iterdir() if path.is_file())
    digests = {hashlib.sha256(path.read_bytes()).hexdigest(): path.name for path in reversed(files)}
    # A library lies there under several names; the shortest is enough.
    return {name: digest for digest, name in sorted(digests.items(), key=lambda item: item[1])}
