"""A file from the Hub onto this disk: whole, proven, and with nothing fetched twice.

What has come stays on the disk when the connection breaks or this process ends, and the next
call goes on behind it. That is why content is read by ranges and not through huggingface-hub's
own download, which removes what has come when it is stopped. A file comes under its name into
the cache only when its checksum is the Hub's, for every program trusts a file that is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llm_latency.errors import LabError, ParameterError
from llm_latency.model import header, hub, kinds
from llm_latency.model.hub_errors import explain

BY_RANGE = 50 * 10**9
"""Largest file that the Hub gives by ranges, in bytes; a larger one comes through Xet alone."""
FIRST_BYTES = 4 << 20
"""How much is asked for first of a file of which only the header is wanted; a vocabulary of
150,000 tokens needs as much."""
LAST_BYTES = 1 << 28
"""How much is asked for at most, for a header."""


def fetch(name: hub.HubName, *, progress: bool = False) -> hub.Place:
    """Have a file of the Hub on this disk, and return its place.

    Parameters
    ----------
    name
        The file; without a revision it is the one that the main branch has now.
    progress
        Show a bar, and say which commit it is.

    Raises
    ------
    LabError
        If the file cannot be had, or is not what the Hub says; one sentence with what to do.
    """
    place = hub.find(name)
    if progress and place.commit != name.revision:
        hub.say(f"{name.at(name.revision or 'main')} stands for {name.at(place.commit)}")
    if place.path is None:
        place = place._replace(path=_download(place, progress))
    _remember(place)
    return place


def verify(place: hub.Place, sha256: str) -> None:
    """Refuse a file that is not what the Hub said when it was named.

    Parameters
    ----------
    place
        The file, on this disk.
    sha256
        The SHA-256 of what is on this disk.

    Raises
    ------
    LabError
        If the checksums differ; it names both, and the file to delete.
    """
    assert place.path is not None
    found = sha256
    if place.checksum and len(place.checksum) != len(sha256):
        digest = _digest(place.checksum, place.path.stat().st_size)
        digest.update(place.path.read_bytes())
        found = digest.hexdigest()
    if place.checksum and found != place.checksum:
        raise _differs(place, found, place.path.resolve())


@contextlib.contextmanager
def skeleton(place: hub.Place) -> Iterator[tuple[Path, header.Header]]:
    """Yield a file with the header of one on the Hub, without fetching all of it, and the header.

    Raises
    ------
    ParameterError
        If the file has none.
    LabError
        If the Hub cannot be reached.
    """
    if place.path is not None:
        yield place.path, header.read_header(place.path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / place.name.file.rpartition("/")[2]
        yield copy, _read_head(place, copy)


def _read_head(place: hub.Place, copy: Path) -> header.Header:
    """Read as much of a file on the Hub as its header needs."""
    address = place.name.at(place.commit)
    if place.size is None:
        raise LabError(f"the Hub does not say how large {address} is; fetch it and give its path")
    have, wanted = 0, FIRST_BYTES
    while True:
        try:
            with copy.open("ab") as file:
                file.seek(file.truncate(have))
                for chunk in hub.stream(place, have, min(wanted, place.size)):
                    file.write(chunk)
                have = file.tell()
                # The header and a hole: the reader asks for tensors' places, not their content.
                file.truncate(place.size)
        except hub.Broken as broken:
            raise LabError(
                f"the header of {address} cannot be read: {broken}; check the network and call "
                "again, or give the path of a file that you have"
            ) from None
        kinds.check(copy, known_bytes=have)  # what is another kind of file stays one
        try:
            return header.read_header(copy, known_bytes=have)
        except ParameterError:
            if have >= min(place.size, LAST_BYTES):
                raise
            wanted *= 2


def _download(place: hub.Place, progress: bool) -> Path:
    """Bring a file into the cache and return its path there."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    home, folder = Path(constants.HF_HUB_CACHE), _folder(place.name)
    if place.checksum and place.size is not None and place.size <= BY_RANGE:
        content = folder / "blobs" / place.checksum
        lock = home / ".locks" / folder.name / f"{place.checksum}.lock"
        try:
            for made in (content, lock):
                made.parent.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(lock):
                if not content.exists():
                    part = content.with_name(f"{content.name}.incomplete")
                    _complete(place, part, progress)
                    part.replace(content)
        except OSError as error:
            raise LabError(
                f"{place.name.file} cannot be written to {home} ({error.strerror or error}); "
                "free some space, or set HF_HUB_CACHE to a folder that can be written"
            ) from None
    try:
        # The content is there: this only gives it its name, in the way that the system allows.
        name = place.name
        return Path(hf_hub_download(name.repo, name.file, revision=place.commit))
    except Exception as error:  # the Hub's client fails in many ways
        raise explain(error, *place.name) from None


def _complete(place: hub.Place, part: Path, progress: bool) -> None:
    """Fetch what is missing of a file, and check the whole."""
    assert place.size is not None and place.checksum is not None
    size, name = place.size, place.name.file.rpartition("/")[2]
    digest = _digest(place.checksum, size)
    with part.open("a+b") as file:
        have = file.tell()
        if have > size:
            have = file.truncate(0)
        _room(part.parent, size - have, name)
        file.seek(0)
        while chunk := file.read(1 << 22):
            digest.update(chunk)
        with tqdm(
            desc=name, total=size, initial=have, unit="B", unit_scale=True, disable=not progress
        ) as bar:
            try:
                for chunk in hub.stream(place, have, size):
                    file.write(chunk)
                    digest.update(chunk)
                    have += len(chunk)
                    bar.update(len(chunk))
            except hub.Broken as broken:
                raise LabError(
                    f"{have / 1e6:,.1f} of {size / 1e6:,.1f} MB of {name} have come, and then "
                    f"nothing more in {hub.TRIES} tries: {broken}; what has come is kept, and "
                    "the same call goes on behind it"
                ) from None
    if digest.hexdigest() != place.checksum:
        raise _differs(place, digest.hexdigest(), part)


def _digest(checksum: str, size: int) -> Any:
    """Return the empty digest of a checksum's kind: SHA-256, or git's for a small file."""
    return hashlib.sha256() if len(checksum) == 64 else hashlib.sha1(b"blob %d\0" % size)


def _differs(place: hub.Place, found: str, file: Path) -> LabError:
    return LabError(
        f"{place.name.at(place.commit)} has the checksum {place.checksum} on the Hub, but {found} "
        f"here: it is not the same file; delete {file} and call again"
    )


def _room(folder: Path, needed: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise LabError(
            f"{name} needs {needed / 1e9:,.1f} GB more in {folder}, where {free / 1e9:,.1f} GB are "
            "free; free some space, or set HF_HUB_CACHE to a folder on a larger disk"
        )


def _folder(name: hub.HubName) -> Path:
    """Return a repository's folder in huggingface-hub's cache."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name.repo, repo_type="model")


def _remember(place: hub.Place) -> None:
    """Note which commit the named branch or tag is, so that it is known without a network."""
    from huggingface_hub import constants

    revision = place.name.revision or constants.DEFAULT_REVISION
    if revision == place.commit:
        return
    note = _folder(place.name) / "refs" / revision
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(place.commit, encoding="utf-8")
    except OSError:
        pass  # a cache that is only read still serves
