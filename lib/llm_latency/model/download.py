"""A model from the Hub onto this disk: whole, proven, and with nothing fetched twice.

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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llm_latency.errors import LabError, ParameterError
from llm_latency.model import header, hub, kinds
from llm_latency.model.gguf import outline
from llm_latency.model.hub_errors import explain

BY_RANGE = 50 * 10**9
"""Largest file that the Hub gives by ranges, in bytes; a larger one comes through Xet alone."""
FIRST_BYTES = 4 << 20
"""How much is asked for first of a file of which only the header is wanted; a vocabulary of
150,000 tokens needs as much."""
FIRST_BYTES_OF_PART = 1 << 16
"""The same of a model's later parts, whose headers are a table of some hundred tensors."""
LAST_BYTES = 1 << 28
"""How much is asked for at most, for a header."""


def fetch(name: hub.HubName, *, progress: bool = False) -> list[hub.Place]:
    """Have a model of the Hub on this disk, and return the places of its files, in order.

    Parameters
    ----------
    name
        Its first file; without a revision it is the one that the main branch has now.
    progress
        Show a bar, and say which commit it is.

    Raises
    ------
    LabError
        If a file cannot be had, or is not what the Hub says; one sentence with what to do.
    """
    from huggingface_hub import constants

    every = hub.find_all(name)
    commit, file = every[0].commit, name.file.rpartition("/")[2]
    if progress and commit != name.revision:
        hub.say(f"{name.at(name.revision or 'main')} stands for {name.at(commit)}")
    home = Path(constants.HF_HUB_CACHE)
    try:
        total, have = _awaited(every)
        _room(home, total - have, file)
        hidden = not progress or have == total
        with tqdm(
            desc=file, total=total, initial=have, unit="B", unit_scale=True, disable=hidden
        ) as bar:
            every = [p if p.path else p._replace(path=_download(p, bar)) for p in every]
    except OSError as error:
        raise LabError(
            f"{file} cannot be written to {home} ({error.strerror or error}); "
            "free some space, or set HF_HUB_CACHE to a folder that can be written"
        ) from None
    _remember(every[0])
    return every


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
def skeleton(every: Sequence[hub.Place]) -> Iterator[tuple[Path, header.Header]]:
    """Yield a file with the header of a model on the Hub, without fetching all, and the header.

    Beside it lie those of the model's other parts, under the names that llama.cpp looks for.

    Raises
    ------
    ParameterError
        If a file has none.
    LabError
        If the Hub cannot be reached.
    """
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(folder) / place.name.file.rpartition("/")[2] for place in every]
        here = [place.path for place in every if place.path]
        if len(here) < len(every):
            for place, copy in zip(every, copies, strict=True):
                _read_head(place, copy, FIRST_BYTES_OF_PART if copy != copies[0] else FIRST_BYTES)
            here = copies
        yield here[0], header.read_header(here[0])


def _read_head(place: hub.Place, copy: Path, wanted: int) -> None:
    """Read as much of a file on the Hub as its header needs, and leave a hole behind it."""
    address = place.name.at(place.commit)
    if place.size is None:
        raise LabError(f"the Hub does not say how large {address} is; fetch it and give its path")
    have = 0
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
            outline(copy, have)
            return
        except Exception as error:  # what is cut short or damaged can fail anywhere
            if have >= min(place.size, LAST_BYTES):
                raise ParameterError(
                    f"model={copy.name!r} has no header that could be read ({error}); give a whole "
                    "GGUF file"
                ) from None
            wanted *= 2


def _content(place: hub.Place) -> Path | None:
    """Return where a file's content belongs; ``None`` where only the Hub's client brings it."""
    if not place.checksum or place.size is None or place.size > BY_RANGE:
        return None
    return _folder(place.name) / "blobs" / place.checksum


def _awaited(every: Sequence[hub.Place]) -> tuple[int, int]:
    """Return the bytes of the files that are not in the cache, and how many of them have come."""
    total = have = 0
    for place in every:
        content = _content(place)
        if content and place.size and place.path is None:
            total += place.size
            for file in content.parent.glob(f"{content.name}*"):
                with contextlib.suppress(FileNotFoundError):  # another process may complete it
                    have += min(file.stat().st_size, place.size)
    return total, have


def _download(place: hub.Place, bar: tqdm[Any]) -> Path:
    """Bring a file into the cache and return its path there."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    if content := _content(place):
        folder = Path(constants.HF_HUB_CACHE) / ".locks" / _folder(place.name).name
        lock = folder / f"{content.name}.lock"
        for made in (content, lock):
            made.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if not content.exists():
                part = content.with_name(f"{content.name}.incomplete")
                _complete(place, part, bar)
                part.replace(content)
    try:
        # The content is there: this only gives it its name, in the way that the system allows.
        name = place.name
        return Path(hf_hub_download(name.repo, name.file, revision=place.commit))
    except Exception as error:  # the Hub's client fails in many ways
        raise explain(error, *place.name) from None


def _complete(place: hub.Place, part: Path, bar: tqdm[Any]) -> None:
    """Fetch what is missing of a file, and check the whole."""
    assert place.size is not None and place.checksum is not None
    size, name = place.size, place.name.file.rpartition("/")[2]
    digest = _digest(place.checksum, size)
    with part.open("a+b") as file:
        have = file.tell()
        if have > size:
            have = file.truncate(0)
        file.seek(0)
        while chunk := file.read(1 << 22):
            digest.update(chunk)
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
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    free = shutil.disk_usage(there).free
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
