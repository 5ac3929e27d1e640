"""A ballast in a GPU's memory, to learn how a card would do that had less of it.

A process of its own asks CUDA's driver library for memory until no more is free than was asked
for, and holds it until its parent lets go or dies: it waits for the end of its standard input.
What is free is what the driver says once the ballast's own context is there, so the ballast's
own cost is counted. The process that is measured makes its context out of what is left, as it
would on a smaller card.

It holds on Linux. Under Windows' WDDM the driver moves what is held into RAM when others need
VRAM, so there the limit is a wish and no wall.
"""

from __future__ import annotations

import contextlib
import ctypes
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from llm_latency.base import Part
from llm_latency.errors import LabError
from llm_latency.machine import devices

COMMAND = (sys.executable, "-m", "llm_latency.machine.vram_ballast")
"""The command line of a ballast; the bytes to leave follow."""
LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
GRAIN = 2 << 20
"""Device memory comes in pages of 2 MiB."""
NEAR = 32 * GRAIN
"""How far what is left free may be from what was asked for."""
START_S = 60.0
"""How long a ballast may take to be ready."""
OUT_OF_MEMORY = 2
"""CUDA_ERROR_OUT_OF_MEMORY of cuda.h."""


class Held(Part):
    """What a ballast holds, and what it leaves."""

    held_bytes: int
    free_bytes: int
    total_bytes: int


class _Answer(Part):
    """What a ballast tells its parent: what it holds, or why it does not."""

    held: Held | None = None
    why: str | None = None


class Cuda:
    """The few calls of CUDA's driver library that a ballast needs, on the first device it sees.

    Parameters
    ----------
    library
        The library; by default the one that NVIDIA's driver brings, no toolkit is needed.
    """

    def __init__(self, library: Any = None) -> None:
        self._library = library if library is not None else _load()
        count, device, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", ctypes.c_uint(0))
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if not count.value:
            raise LabError(
                "CUDA sees no card to put a ballast on; check CUDA_VISIBLE_DEVICES, or measure "
                "without one"
            )
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)

    def memory(self) -> tuple[int, int]:
        """Return how many bytes are free, and how many there are."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> bool:
        """Take that many bytes until this process ends; return whether they could be had."""
        place = ctypes.c_uint64()
        code = self._library.cuMemAlloc_v2(ctypes.byref(place), ctypes.c_size_t(size))
        if code not in (0, OUT_OF_MEMORY):
            raise self._error("cuMemAlloc_v2", code)
        return bool(code == 0)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise self._error(name, code)

    def _error(self, name: str, code: int) -> LabError:
        word = ctypes.c_char_p()
        self._library.cuGetErrorName(ctypes.c_int(code), ctypes.byref(word))
        text = (word.value or b"error").decode()
        return LabError(
            f"the ballast cannot use the card: {name} says {text} ({code}); check that "
            "nvidia-smi sees it, or measure without a ballast"
        )


def _load() -> Any:
    for name in LIBRARIES:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    raise LabError(
        f"a ballast needs NVIDIA's driver, whose library ({' or '.join(LIBRARIES)}) is not here; "
        "install the driver, or measure without a ballast"
    )


def fill(cuda: Cuda, leave: int) -> Held:
    """Take memory until that many bytes are left free, to a page or two.

    Raises
    ------
    LabError
        If fewer are free already, or what is taken does not make less free.
    """
    free, total = cuda.memory()
    if free < leave:
        raise LabError(
            f"{_mib(free)} of the card's {_mib(total)} are free, fewer than the {_mib(leave)} "
            "that are to be left; close what else uses the card, or leave less"
        )
    held_bytes, largest = 0, free
    while free - leave >= GRAIN and largest >= GRAIN:
        size = min(largest, free - leave) // GRAIN * GRAIN
        if not cuda.allocate(size):
            largest = size // 2  # what is free need not lie in one piece
            continue
        held_bytes += size
        before, (free, total) = free, cuda.memory()
        if before - free < size // 2:
            break
    if abs(free - leave) > NEAR:
        raise LabError(
            f"{_mib(free)} of VRAM stay free where {_mib(leave)} were to be left, although "
            f"{_mib(held_bytes)} are held: the driver does not let a ballast work here; measure "
            "without one"
        )
    return Held(held_bytes=held_bytes, free_bytes=free, total_bytes=total)


def serve(leave: int, library: Any = None) -> None:
    """Be the ballast: take memory, tell the parent, and hold it until the parent lets go."""
    try:
        answer = _Answer(held=fill(Cuda(library), leave))
    except LabError as error:
        answer = _Answer(why=str(error))
    print(answer.model_dump_json(), flush=True)
    if answer.held is not None:
        sys.stdin.buffer.read()  # ends when the parent closes the pipe, or is no more


@contextlib.contextmanager
def ballast(leave: int) -> Iterator[Held]:
    """Leave no more than that many bytes of VRAM free while the context lasts.

    Parameters
    ----------
    leave
        Bytes that are free for others.

    Raises
    ------
    LabError
        If there is no card, no driver, or less is free already; also if the ballast ended
        before the context did, for then what was measured in it had more.
    """
    process = subprocess.Popen(
        [*COMMAND, str(leave)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the parent, whose end ends the ballast
    )
    assert process.stdin is not None and process.stdout is not None
    devices.OURS.add(process.pid)
    limit = threading.Timer(START_S, process.kill)
    limit.start()
    try:
        line = process.stdout.readline()
        limit.cancel()
        held = _held(process, line)
        yield held
        if process.poll() is not None:
            raise LabError(
                f"the ballast ended before its time (exit code {process.returncode}): what was "
                "measured meanwhile had more VRAM than it should; run again to repeat it"
            )
    finally:
        limit.cancel()
        devices.OURS.discard(process.pid)
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def leaving(leave: int | None) -> contextlib.AbstractContextManager[Held | None]:
    """Return a ballast that leaves so much; none, where all of the card may be used."""
    return contextlib.nullcontext() if leave is None else ballast(leave)


def _held(process: subprocess.Popen[bytes], line: bytes) -> Held:
    """Return what a ballast says that it holds; raise what keeps it from holding."""
    try:
        answer = _Answer.model_validate_json(line)
    except ValidationError:
        code = process.wait()
        words = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
        last = words.splitlines()[-1] if words else "no words"
        raise LabError(
            f"the ballast died before it held anything (exit code {code}, {last}); measure "
            "without one"
        ) from None
    if answer.held is None:
        raise LabError(str(answer.why))
    return answer.held


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


if __name__ == "__main__":
    serve(int(sys.argv[1]))
