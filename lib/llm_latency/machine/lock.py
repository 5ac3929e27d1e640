"""One run at a time: two that measured on one machine at once would measure each other.

While it measures, a run holds a lock of the machine and one in its own folder, which several
machines may share. The system takes both back when the process ends, however it ends. Beside
each lies a note of who holds it and how far that run is, for those who find it taken.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from pydantic import Field, ValidationError

from llm_latency.base import Frozen
from llm_latency.errors import LabError

VARIABLE = "LLM_LATENCY_LOCK"
"""Environment variable that names another file for the machine's lock."""
POLL_S = 0.5
"""How often one who waits looks again; a look costs next to nothing."""
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
"""What disks say that know no locks."""

_this_thread = threading.local()
"""The locks that each thread holds."""


class Note(Frozen):
    """Who holds a lock, and how far that run is; times in seconds since 1970."""

    run_id: str
    folder: str
    pid: int
    host: str
    since_s: float
    stored: int | None = Field(None, description="Trials with a record; None: none was begun")
    planned: int | None = None
    last_s: float | None = Field(None, description="When the last of them was stored")


def machine_path() -> Path:
    """Return the file that is the machine's lock: the same for all its users."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    # Not TMPDIR, which a user or a batch job may have for itself.
    place = Path("/tmp")
    if os.name != "posix" or not os.access(place, os.W_OK):
        place = Path(tempfile.gettempdir())
    # In a folder of its own: in /tmp itself nobody may open what belongs to another user.
    return place / "llm-latency-lab" / "machine.lock"


class Hold:
    """Locks that are held together, and what is told of their holder."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._notes: list[Path] = []
        self._note: Note | None = None
        self._since_s = time.time()

    def take(self, path: Path, wait_s: float) -> None:
        """Hold one more lock until all are given back; at once where this thread holds it.

        Raises
        ------
        LabError
            If another run holds it, and goes on to for ``wait_s`` seconds.
        """
        own: set[Path] = _this_thread.__dict__.setdefault("locks", set())
        path = path.absolute()
        note = path.with_name(f"{path.name}.json")
        if path not in own:
            lock = _taken(path, wait_s)
            self._stack.callback(lock.release)
            own.add(path)
            self._stack.callback(own.discard, path)
            self._stack.callback(_forget, note)
        self._notes.append(note)
        if self._note is not None:
            _write(note, self._note.model_dump_json())

    def tell(
        self,
        run_id: str,
        folder: Path,
        stored: int | None = None,
        planned: int | None = None,
        last_s: float | None = None,
    ) -> None:
        """Say who holds these locks, and how many of its planned trials are stored."""
        self._note = Note(
            run_id=run_id,
            folder=str(folder),
            pid=os.getpid(),
            host=platform.node(),
            since_s=self._since_s,
            stored=stored,
            planned=planned,
            last_s=last_s,
        )
        text = self._note.model_dump_json()
        for note in self._notes:
            _write(note, text)

    def beat(self) -> None:
        """Say that one more trial is stored."""
        if (note := self._note) is not None:
            stored = (note.stored or 0) + 1
            self.tell(note.run_id, Path(note.folder), stored, note.planned, time.time())

    def release(self) -> None:
        """Give all back."""
        self._stack.close()


@contextlib.contextmanager
def none() -> Iterator[Hold]:
    """Hold no lock yet, and while the context lasts whatever is taken."""
    hold = Hold()
    try:
        yield hold
    finally:
        hold.release()


@contextlib.contextmanager
def machine(wait_s: float = 0.0) -> Iterator[Hold]:
    """Hold this machine while the context lasts; others are refused, or wait.

    Parameters
    ----------
    wait_s
        How long to wait for a run that holds it, in seconds; 0 is refused at once.

    Raises
    ------
    LabError
        If another run holds it: says which, how far it is, and what to do.
    """
    path = machine_path()
    with none() as hold:
        if VARIABLE not in os.environ:
            with contextlib.suppress(OSError):
                path.parent.mkdir(exist_ok=True)
                path.parent.chmod(0o777)  # for all users; refused if it is another's already
        hold.take(path, wait_s)
        yield hold


def _taken(path: Path, wait_s: float) -> FileLock:
    """Return a lock that is held; where a disk knows no locks, one that is not."""
    lock = FileLock(path, mode=0o666)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if wait_s > 0:
                print(f"Waiting up to {wait_s:g} s: {_who(path)}.", file=sys.stderr, flush=True)
                lock.acquire(timeout=wait_s, poll_interval=min(POLL_S, wait_s))
            else:
                raise
    except Timeout:
        note = _read(path)
        waited = f", still after {wait_s:g} s" if wait_s > 0 else ""
        end = f"end process {note.pid}" if note else "end its process"
        raise LabError(
            f"{_who(path)}{waited}; two at once would disturb each other: wait until it has "
            f"ended, give wait_s=3600 to wait for it up to an hour, or {end}"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise LabError(
                f"the lock {path} that keeps two runs apart cannot be used ({error.strerror}); "
                f"name a file that you may write in the environment variable {VARIABLE}"
            ) from None
        warnings.warn(
            f"{path} cannot be locked on its disk ({error.strerror}): see to it that no other "
            "process goes on with the same run",
            stacklevel=2,
        )
    return lock


def _who(path: Path) -> str:
    """Say who holds a lock, and how far that run is."""
    note = _read(path)
    if note is None:
        return f"another run, which has not yet said what it is, holds {path}"
    if note.stored is None:
        far = "it is getting ready"
    elif note.last_s is None:
        far = f"{note.stored} of {note.planned} trials stored, none since it began"
    else:
        far = f"{note.stored} of {note.planned} trials stored, the last {_ago(note.last_s)} ago"
    where = "" if note.host == platform.node() else f" on {note.host}"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(note.since_s))
    return (
        f"run {note.run_id!r} is at work ({far}; since {since} by process {note.pid}{where}; "
        f"folder {note.folder})"
    )


def _ago(moment_s: float) -> str:
    seconds = max(0.0, time.time() - moment_s)
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _read(lock: Path) -> Note | None:
    """Return the note beside a lock; ``None`` if it is not that of a living process."""
    try:
        text = lock.with_name(f"{lock.name}.json").read_text(encoding="utf-8")
        note = Note.model_validate_json(text)
    except (OSError, ValueError, ValidationError):
        return None
    # Who was killed has left its note, and the next has not written one yet.
    here = note.host == platform.node()
    return None if here and not psutil.pid_exists(note.pid) else note


def _write(note: Path, text: str) -> None:
    """Replace a note in one step; it only helps others, and its failure stops nothing."""
    draft = note.with_name(f"{note.name}.draft")
    with contextlib.suppress(OSError):
        draft.unlink(missing_ok=True)
        with draft.open("x", encoding="utf-8") as out:  # never through another's link
            out.write(text)
        draft.chmod(0o644)
        draft.replace(note)


def _forget(note: Path) -> None:
    with contextlib.suppress(OSError):
        note.unlink()
