"""One file that holds the files of a run, and proves on being read that they are as they were.

A zip whose ``manifest.json`` names every other member with its size and SHA-256. Equal contents
make equal archives: no time and no order of a disk goes into one. The checksums show what was
damaged or edited; who edits a member and the manifest alike is found by the checksum of the whole,
which ``python -m llm_latency pack`` prints.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from llm_latency.errors import LabError
from llm_latency.records.files import drafted

MANIFEST = "manifest.json"
SUFFIX = ".zip"
FORMAT = 1
"""Of the manifest; a later lab may write another."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every member: the first that a zip can tell."""
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError)
"""What zipfile raises at a member that is cut, changed, encrypted or packed by other means."""


def is_one(path: Path) -> bool:
    """Return whether a path is that of an archive, by its name and kind alone."""
    return path.suffix == SUFFIX and path.is_file()


def write(file: Path, members: Mapping[str, bytes], about: Mapping[str, Any]) -> None:
    """Write an archive that appears whole or not at all; one of that name is replaced.

    Parameters
    ----------
    file
        Where to write.
    members
        Contents by name.
    about
        What else the manifest says.

    Raises
    ------
    LabError
        If it cannot be written.
    """
    listed = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in sorted(members.items())
    }
    manifest = {"format": FORMAT, **about, "files": listed}
    contents = {MANIFEST: json.dumps(manifest, indent=1).encode()} | dict(sorted(members.items()))
    try:
        with drafted(file) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in contents.items():
                member = zipfile.ZipInfo(name, EPOCH)
                member.external_attr = 0o644 << 16
                packed.writestr(member, content, zipfile.ZIP_DEFLATED)
    except OSError as error:
        raise LabError(
            f"{file} cannot be written ({error.strerror}); give the pack another place"
        ) from None


def opened(file: Path) -> zipfile.Path:
    """Return what an archive holds, every member of it checked.

    It is read into memory, packed as it is: what was checked is what is read.

    Raises
    ------
    LabError
        If it is no archive of the lab's, or not as it was packed; the member is named.
    """
    try:
        packed = zipfile.ZipFile(io.BytesIO(file.read_bytes()))
    except OSError as error:
        raise LabError(f"{file} cannot be read ({error.strerror}); give a pack that can") from None
    except zipfile.BadZipFile as error:
        raise LabError(
            f"{file} is no whole archive ({str(error).rstrip('.')}); get it again from where it "
            "came"
        ) from None
    listed = _listed(file, packed)
    members = Counter(name for name in packed.namelist() if not name.endswith("/"))
    members.pop(MANIFEST)
    for name in listed:
        if name not in members:
            _refuse(file, name, "is missing")
    for name, times in members.items():
        if name not in listed:
            _refuse(file, name, "was added")
        if times > 1 or not _as_listed(packed, name, listed[name]):
            _refuse(file, name, "was changed")
    return zipfile.Path(packed)


def _listed(file: Path, packed: zipfile.ZipFile) -> dict[str, Any]:
    """Return the manifest's list of members."""
    if packed.namelist().count(MANIFEST) != 1:
        raise LabError(
            f"{file} is no pack of a run: it has no {MANIFEST} of its own; make one with "
            "'python -m llm_latency pack RUN'"
        )
    try:
        manifest = json.loads(packed.read(MANIFEST))
        number, listed = manifest["format"], dict(manifest["files"])
    except (*DAMAGE, ValueError, KeyError, TypeError):
        _refuse(file, MANIFEST, "was changed")
    if type(number) is int and number > FORMAT:
        raise LabError(
            f"{file} was packed by a newer lab (format {number}; this lab reads {FORMAT}); update "
            "the lab to read it"
        )
    return listed


def _as_listed(packed: zipfile.ZipFile, name: str, listed: Any) -> bool:
    """Return whether a member has the size and the checksum that the manifest names."""
    try:
        if packed.getinfo(name).file_size != listed["size"]:
            return False
        with packed.open(name) as content:
            found = hashlib.sha256()
            while piece := content.read(2**20):
                found.update(piece)
    except (*DAMAGE, KeyError, TypeError):
        return False
    return bool(found.hexdigest() == listed["sha256"])


def _refuse(file: Path, name: str, how: str) -> NoReturn:
    raise LabError(
        f"{file} is not as it was packed: {name!r} {how}; get it again from where it came, or pack "
        "the run anew"
    )
