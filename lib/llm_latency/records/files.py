"""Files that are whole or not there, whatever ends their writer: a kill, a full disk, a power cut.

A process can be killed between any two of its instructions, and a machine can lose its power
while the file system still holds what was written in memory. So a line counts only with the
sign that ends it, a text takes its name only when it is on the disk, and what was left
half-done is set aside: kept, not trusted.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from pathlib import Path


def append(file: Path, text: str) -> None:
    """Add one line; it is on the disk when this returns.

    Raises
    ------
    OSError
        If the disk is full or fails; nothing of the line is left then.
    """
    left = memoryview(f"{text}\n".encode())
    new = not file.exists()
    # No buffer of Python's own: after a failure it would try once more while it is closed.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
    descriptor = os.open(file, flags, 0o666)
    try:
        before = os.fstat(descriptor).st_size
        try:
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)
    if new:
        sync_folder(file.parent)


def write(file: Path, text: str) -> None:
    """Write a file that appears whole, on the disk, or not at all; what was there is replaced.

    A kill meanwhile leaves a draft beside it, of the same name with the process's number behind.
    """
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    with draft.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)
    sync_folder(file.parent)


def lines(file: Path) -> list[bytes]:
    """Return the whole lines of a file, none where there is no file.

    A damaged one, as file systems leave it after a power cut (zeros in place of what was
    written), is left out with a warning; so is, without one, what follows the last whole line.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return []
    found = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].split(b"\n")[:-1], start=1):
        if sound(line):
            found.append(line)
        elif line.strip():
            warnings.warn(
                f"line {number} of {file} is damaged and left out; what it held is measured again "
                "when the run goes on",
                stacklevel=3,
            )
    return found


def sound(line: bytes) -> bool:
    """Return whether a line is one JSON object, as it was written."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def mend(file: Path, aside: Path) -> None:
    """Move what stands damaged or half-written at a file's end to another, and cut it off.

    Raises
    ------
    OSError
        If one of the two cannot be written; nothing is cut off before it is kept.
    """
    if not file.exists():
        return
    content = file.read_bytes()
    end = len(content)
    while end:
        start = content.rfind(b"\n", 0, end - 1) + 1
        if content.endswith(b"\n", start, end) and sound(content[start:end]):
            break
        end = start
    if end == len(content):
        return
    with aside.open("ab") as kept:
        kept.write(content[end:].rstrip(b"\n") + b"\n")
        kept.flush()
        os.fsync(kept.fileno())
    sync_folder(aside.parent)
    with file.open("r+b") as cut:
        cut.truncate(end)
        os.fsync(cut.fileno())


def sync_folder(folder: Path) -> None:
    """Have a folder's names on the disk; systems that know no such thing are left alone."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
