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
import threading
import warnings
import zipfile
from collections.abc import Iterator
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
    """Write a file that appears whole, on the disk, or not at all; what was there is replaced."""
    with drafted(file) as draft, draft.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    sync_folder(file.parent)


@contextlib.contextmanager
def drafted(file: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes the file if nothing fails, and else is removed.

    No other process and no other thread of this one has the same. A kill meanwhile leaves it: the
    file's name with two numbers behind.
    """
    draft = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        yield draft
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


class Lines:
    """The whole lines of a file that is only ever appended to, each read once.

    Attributes
    ----------
    file : Path
        The file, which need not be there; a member of an archive is never appended to.
    end : int
        Bytes up to the end of the last line that was read and sound.
    whole : bool
        Whether every line that was read is sound.
    """

    def __init__(self, file: Path | zipfile.Path) -> None:
        self.file, self.end, self.whole = file, 0, True
        self._count = 0

    def new(self) -> list[bytes]:
        """Return the whole lines that stand behind those returned before.

        A damaged one, as file systems leave it after a power cut (zeros in place of what was
        written), is left out with a warning; so is, without one, what follows the last whole
        line.
        """
        if self.at_end():
            return []
        found, start = [], self.end
        with self.file.open("rb") as stream:
            stream.seek(start)
            content = stream.read()
        whole = content[: content.rfind(b"\n") + 1].split(b"\n")[:-1]
        for number, line in enumerate(whole, start=self._count + 1):
            start += len(line) + 1
            if sound(line):
                found.append(line)
                self.end, self._count = start, number
            elif line.strip():
                self.whole = False
                warnings.warn(
                    f"line {number} of {self.file} is damaged and left out; what it held is "
                    "measured again when the run goes on",
                    stacklevel=3,
                )
        return found

    def at_end(self) -> bool:
        """Return whether nothing stands behind the last line that was read."""
        try:
            return self._size() == self.end
        except (FileNotFoundError, KeyError):  # an archive has no such name
            return True

    def skip(self) -> None:
        """Take the one line that was just appended as read."""
        self.end, self._count = self._size(), self._count + 1

    def _size(self) -> int:
        if isinstance(self.file, zipfile.Path):
            return self.file.root.getinfo(self.file.at).file_size
        return self.file.stat().st_size


def sound(line: bytes) -> bool:
    """Return whether a line is one JSON object, as it was written."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def mend(file: Path, aside: Path, start: int = 0) -> None:
    """Move what stands damaged or half-written at a file's end to another, and cut it off.

    Parameters
    ----------
    file, aside
        The file, and the one that keeps what was cut off.
    start
        Bytes at the file's head that are known to be sound lines.

    Raises
    ------
    OSError
        If one of the two cannot be written; nothing is cut off before it is kept.
    """
    if not file.exists():
        return
    with file.open("rb") as stream:
        stream.seek(start)
        content = stream.read()
    end = len(content)
    while end:
        head = content.rfind(b"\n", 0, end - 1) + 1
        if content.endswith(b"\n", head, end) and sound(content[head:end]):
            break
        end = head
    if end == len(content):
        return
    with aside.open("ab") as kept:
        kept.write(content[end:].rstrip(b"\n") + b"\n")
        kept.flush()
        os.fsync(kept.fileno())
    sync_folder(aside.parent)
    with file.open("r+b") as cut:
        cut.truncate(start + end)
        os.fsync(cut.fileno())


def sync_folder(folder: Path) -> None:
    """Have a folder's names on the disk; systems that know no such thing are left alone."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
