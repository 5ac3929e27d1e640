"""A second device without a GPU: llama.cpp's RPC backend, which computes in another process.

Layers are offloaded to it and memory can run out on it, as on a card. It is built out of the
installed engine's own source, once, and kept in the cache. llama.cpp calls its protocol insecure:
it listens on loopback, for tests.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

from llm_latency.engine import programs
from llm_latency.errors import LabError
from llm_latency.model import names
from tests.support import engine_source, second_device_worker

SERVER = Path(__file__).with_suffix(".cpp")


def worker(size_bytes: int) -> list[str]:
    """Return the command line of a worker that has a device of that size beside the CPU.

    Raises
    ------
    LabError
        If the device cannot be made on this machine.
    """
    port = _reserved().getsockname()[1]
    folder, script = str(_built()), second_device_worker.__file__
    return [sys.executable, script, folder, f"127.0.0.1:{port}", str(size_bytes)]


@functools.cache
def _reserved() -> socket.socket:
    """Keep a port free for the device, which has one name in all trials then.

    While this socket is bound and does not listen, the system gives its port to nobody but the
    server, which also asks for it with ``SO_REUSEADDR``.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


def _built() -> Path:
    """Return the folder with the server and the library, built where they are not there yet."""
    compiler = engine_source.compiler()
    if sys.platform != "linux":
        raise LabError("the second device's memory is limited by Linux; test it there.")
    if shutil.which(compiler[0]) is None:
        raise LabError(f"there is no C++ compiler {compiler[0]!r}; install one, or name it in CXX.")
    # The key of its programs names the engine's version, flags and compiler.
    engine = programs.place("llama-server").parent.name.encode()
    made_of = engine + SERVER.read_bytes() + Path(__file__).read_bytes()
    folder = names.cache_dir() / "second-device" / hashlib.sha256(made_of).hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            source = engine_source.archive()
            with tempfile.TemporaryDirectory(dir=folder.parent) as name:
                _build(compiler, engine_source.unpack(source, Path(name)) / "ggml", Path(name))
                (Path(name) / "made").replace(folder)
    return folder


def _build(compiler: list[str], ggml: Path, place: Path) -> None:
    """Compile the two against the libraries that the lab loads."""
    made, engine = place / "made", programs.engine_libraries()
    made.mkdir()
    common = [*compiler, "-O1", "-std=c++17", "-pthread", "-DGGML_BACKEND_SHARED", "-DGGML_SHARED"]
    common += [f"-I{ggml / part}" for part in ("include", "src")]
    linked = [f"-L{engine}", f"-Wl,-rpath,{engine}", "-Wl,-rpath,$ORIGIN"]
    sources = [str(ggml / "src" / "ggml-rpc" / name) for name in ("ggml-rpc.cpp", "transport.cpp")]
    log = place.parent / "build.log"
    library = [*common, "-fPIC", "-shared", "-DGGML_BACKEND_BUILD", *sources, *linked]
    library += ["-lggml-base", "-o", str(made / "libggml-rpc.so")]
    engine_source.run("Compiling llama.cpp's RPC backend", library, log)
    server = [*common, str(SERVER), f"-L{made}", "-lggml-rpc", *linked, "-lggml", "-lggml-base"]
    engine_source.run("Compiling a second device", [*server, "-o", str(made / "server")], log)
