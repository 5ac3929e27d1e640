"""Files on the Hugging Face Hub: found, read by ranges, and told apart from what is not there.

A name becomes one commit and one checksum before a byte of content is read. Whatever stops that
is one sentence: no network, no access, no such file. A file that is here already under the commit
that is asked for is not asked for again; without a network, the one that the cache knows under
the name is used. The cache is huggingface-hub's own, which other programs share.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llm_latency.errors import LabError, ParameterError
from llm_latency.model import parts
from llm_latency.model.hub_errors import DENIED, explain, is_missing, said, status_of

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

TRIES = 5
"""Breaks one after another, without a new byte between them, after which reading is given up."""
WAIT_S = 1.0
"""Pause after a break, doubled for each one before it that brought nothing."""
BUSY = (429, 500, 502, 503, 504)
"""Answers of a Hub that has too much to do: asked again after a pause."""
COMMIT = re.compile(r"[0-9a-f]{40}")
CHECKSUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""Of git for a small file, SHA-256 for a large one; also the name of its content in the cache."""


class HubName(NamedTuple):
    """The parts of ``hf:owner/repo/file.gguf@revision``."""

    repo: str
    file: str
    revision: str | None

    def at(self, commit: str) -> str:
        """Return the name of the same file at one commit."""
        return f"hf:{self.repo}/{self.file}@{commit}"


class Place(NamedTuple):
    """A file at one commit; ``path`` is ``None`` where its content is not here yet.

    ``checksum`` and ``size`` are the Hub's, or the cache's own; ``None`` where neither tells.
    """

    name: HubName
    commit: str
    checksum: str | None
    size: int | None
    path: Path | None


class Broken(LabError):
    """The Hub stopped in the middle of a file, again and again."""


def parse_name(name: str) -> HubName:
    """Take a Hub name apart.

    Raises
    ------
    ParameterError
        If it is not of the form ``hf:owner/repo/file.gguf[@revision]``.
    """
    place, _, revision = name.removeprefix("hf:").partition("@")
    steps = place.split("/")
    if len(steps) < 3 or not all(steps) or ".." in steps or not place.endswith(".gguf"):
        raise ParameterError(
            f"model={name!r} is not a file on the Hub; "
            "give hf:owner/repo/file.gguf, with @revision to pin a commit"
        )
    return HubName("/".join(steps[:2]), "/".join(steps[2:]), revision or None)


def find_all(name: HubName) -> list[Place]:
    """Find all files of a model, at the commit that the first is found at; see :func:`find`."""
    first = find(name)
    others = [part.as_posix() for part in parts.of(Path(name.file))[1:]]
    return [first, *(find(HubName(name.repo, file, first.commit)) for file in others)]


def find(name: HubName) -> Place:
    """Ask for a file's commit, checksum and size; none of its content is fetched.

    Raises
    ------
    LabError
        If the Hub does not have the file, or cannot be asked and the cache does not know it.
    """
    from huggingface_hub import constants, hf_hub_url

    revision = name.revision or constants.DEFAULT_REVISION
    kept = None
    try:
        kept = in_cache(name, revision)
        if kept is not None and COMMIT.fullmatch(revision):
            return kept
        url = hf_hub_url(name.repo, name.file, revision=revision, endpoint=constants.ENDPOINT)
        told = _told(url, TRIES if kept is None else 1)
        if told.commit_hash is None:
            raise OSError("the answer names no commit; if HF_ENDPOINT is set, it is no Hub")
    except Exception as error:  # the Hub's client fails in many ways
        if kept is None or is_missing(error):
            raise explain(error, *name) from None
        say(f"{said(error)}; hf:{name.repo}/{name.file} is used as the cache has it: {kept.commit}")
        return kept
    known = told.etag if told.etag and CHECKSUM.fullmatch(told.etag) else None
    here = in_cache(name, told.commit_hash)
    return Place(name, told.commit_hash, known, told.size, here.path if here else None)


def _told(url: str, tries: int) -> HfFileMetadata:
    """Return what the Hub says of a file, giving a busy one some time."""
    from huggingface_hub import get_hf_file_metadata

    for tried in range(tries - 1):
        try:
            return get_hf_file_metadata(url)
        except Exception as error:
            if status_of(error) not in BUSY:
                raise
            time.sleep(WAIT_S * 2**tried)
    return get_hf_file_metadata(url)


def in_cache(name: HubName, revision: str) -> Place | None:
    """Return a file as huggingface-hub's cache has it; ``None`` if it does not."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name.repo, name.file, revision=revision)
    if not isinstance(found, str):
        return None
    path = Path(found)
    # snapshots/<commit>/<file> is a link to blobs/<checksum>, where the system has links.
    commit = path.parents[name.file.count("/")].name
    content = path.resolve()
    known = content.name if CHECKSUM.fullmatch(content.name) else None
    return Place(name, commit, known, content.stat().st_size, path)


def stream(place: Place, start: int, stop: int) -> Iterator[bytes]:
    """Yield a file's bytes from ``start`` up to ``stop``, going on where a connection breaks.

    Raises
    ------
    Broken
        If :data:`TRIES` breaks follow one another without a new byte; the text says why.
    LabError
        If the Hub denies the file.
    """
    fruitless = 0
    while start < stop:
        came, why = 0, "the connection ended early"
        try:
            for chunk in _once(place, start, stop):
                came += len(chunk)
                yield chunk
        except Exception as error:  # the Hub's client fails in many ways
            if is_missing(error) or status_of(error) in DENIED:
                raise explain(error, *place.name) from None
            why = said(error)
        start += came
        fruitless = 0 if came else fruitless + 1
        if fruitless == TRIES:
            raise Broken(why)
        if start < stop:
            time.sleep(WAIT_S * 2**fruitless)


def _once(place: Place, start: int, stop: int) -> Iterator[bytes]:
    """Yield what one connection brings of a file's bytes."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        hf_raise_for_status,
        http_stream_backoff,
    )

    name = place.name
    url = hf_hub_url(name.repo, name.file, revision=place.commit, endpoint=constants.ENDPOINT)
    headers = build_hf_headers() | {
        "Range": f"bytes={start}-{stop - 1}",
        "Accept-Encoding": "identity",  # a range counts the bytes of the file, not of its zip
    }
    with http_stream_backoff(
        "GET",
        url,
        headers=headers,
        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        follow_redirects=True,
        retry_on_exceptions=(),
        retry_on_status_codes=(),
    ) as response:
        hf_raise_for_status(response)
        # A server that knows no ranges sends the file from its beginning.
        unwanted = 0 if response.status_code == 206 else start
        left = stop - start
        for chunk in response.iter_bytes():
            wanted = chunk[unwanted : unwanted + left]
            unwanted = max(0, unwanted - len(chunk))
            left -= len(wanted)
            if wanted:
                yield wanted
            if not left:
                return


def say(text: str) -> None:
    """Tell the user something that is no error, beside progress and results."""
    print(text, file=sys.stderr)
