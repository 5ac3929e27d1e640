"""Where a GGUF file comes from, and what its header says.

A model is named by a path, by ``synthetic:<shape>[:<quantisation>]``, by
``package:<name>[/<file>]`` that an installed Python package carries, or by
``hf:owner/repo/file.gguf[@revision]`` on the Hugging Face Hub. A name is checked at once and
costs nothing; the file is made or fetched when a run begins, and goes on being that file: a run
that is resumed uses the commit that it began with.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import Field, ValidationError

from llm_latency.base import Part
from llm_latency.errors import ParameterError, did_you_mean
from llm_latency.model import download, hub, package, parts, synthetic, weights
from llm_latency.model import header as gguf_header
from llm_latency.model.header import Header, read_header
from llm_latency.records.files import drafted

CARDS = 4
"""Rises when more or something else is read of a file: what the cache keeps is then read anew."""
KINDS = "the path of a GGUF file, synthetic:tiny, package:NAME or hf:owner/repo/file.gguf"
"""What a model can be named by, for refusals."""


class ModelCard(Part):
    """What is measured: the file, its checksum, and the header's own words."""

    name: str
    path: str
    size_bytes: int
    sha256: str
    revision: str | None = Field(None, description="Commit on the Hub, where it came from there")
    notice: str | None = Field(None, description="What a reader must know of this model")
    why: str | None = Field(None, description="Why the header could not be read")
    architecture: str | None = None
    title: str | None = None
    quantisation: str | None = None
    parameters: int | None = None
    n_layer: int | None = None
    n_embd: int | None = None
    n_head: int | None = None
    n_head_kv: int | None = None
    n_ff: int | None = None
    n_vocab: int | None = None
    n_ctx_train: int | None = None
    kv_bytes_per_token: int | None = Field(
        None, description="In f16: over all layers, KV heads x (width of K + width of V) x 2"
    )


class Described(Part):
    """A model's card, and what its memory is foretold from; ``None``: its file says too little."""

    card: ModelCard
    header: Header | None
    checksums: tuple[str, ...] = Field(description="SHA-256 of each of its files")


def cache_dir() -> Path:
    """Return the folder for synthetic models and model cards (``LLM_LATENCY_CACHE``)."""
    named = os.environ.get("LLM_LATENCY_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("llm-latency-lab"))


def check(name: str) -> str:
    """Refuse a model's name that cannot be right, before anything is made, fetched or loaded.

    Returns
    -------
    str
        The name, in its canonical form.

    Raises
    ------
    ParameterError
        One sentence that names the value and what to do.
    """
    if not isinstance(name, str) or not name.strip():
        raise ParameterError(f"model={name!r} is not a name; give {KINDS}")
    if synthetic.is_synthetic(name):
        try:
            return synthetic.parse_name(name).canonical
        except ValueError as error:
            raise ParameterError(f"model={name!r}: {error}") from None
    if name.startswith("hf:"):
        parts.check_first(name, Path(hub.parse_name(name).file))
        return name
    if package.is_packaged(name):
        parts.check(name, package.find(name))
        return name
    path = _path(name)
    if path.is_file():
        parts.check(name, path)
        return str(path)
    folder = path.parent
    near = [p.name for p in folder.glob("*.gguf")] if folder.is_dir() else []
    what = "is a folder" if path.is_dir() else "does not exist"
    raise ParameterError(
        f"model={name!r} {what} (looked in {folder.resolve()})"
        f"{did_you_mean(path.name, near)} Give {KINDS}."
    )


def _path(name: str) -> Path:
    """Return the path that a name is, if it can be one."""
    try:
        path = Path(name).expanduser()
        path.is_file()
        path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # too long; ~nobody; a zero byte
        why = getattr(error, "strerror", None) or error
        raise ParameterError(f"model={name!r} is no path ({why}); give {KINDS}") from None
    return path


def resolve(name: str, *, progress: bool = False) -> Path:
    """Return the model's file: made if synthetic, fetched and verified if on the Hub.

    Raises
    ------
    ParameterError
        If the name is wrong.
    LabError
        If the Hub cannot be reached, does not have the file, or the file is not the Hub's.
    """
    name = check(name)
    if synthetic.is_synthetic(name):
        return synthetic.model_path(name, cache_dir=cache_dir(), progress=progress)
    if package.is_packaged(name):
        return package.find(name)
    if not name.startswith("hf:"):
        return Path(name)
    every = download.fetch(hub.parse_name(name), progress=progress)
    first = every[0].path
    assert first is not None
    for place, sha256 in zip(every, describe(name, first).checksums, strict=True):
        download.verify(place, sha256)
    return first


def file_bytes(name: str) -> int:
    """Return the size of a model's file, which need not be there yet if it is synthetic.

    Raises
    ------
    ParameterError
        If it is on the Hub, where its size is not known before it is fetched.
    """
    if synthetic.is_synthetic(name):
        named = synthetic.parse_name(name)
        kind = weights.check_quantisation(named.quantisation)
        return sum(weights.stored_bytes(tensor, kind) for tensor in weights.tensors(named.shape))
    if name.startswith("hf:"):
        raise ParameterError(
            f"the size of model={name!r} is not known before it is fetched; give an amount such as "
            "'4 GiB' in place of a share of its file"
        )
    return parts.size_bytes(resolve(name))


def pinned(name: str, info: Mapping[str, Any]) -> str:
    """Return a model's name with the commit that a stored run began with.

    Parameters
    ----------
    name
        As the plan has it: a branch may have moved since.
    info
        The content of the run's ``run.json``.
    """
    commit = (info.get("model") or {}).get("revision")
    return hub.parse_name(name).at(commit) if commit and name.startswith("hf:") else name


@contextlib.contextmanager
def skeleton(model: str) -> Iterator[tuple[Path, Header]]:
    """Yield a file with a model's header, and the header; behind it there may be a hole.

    Parameters
    ----------
    model
        A path, ``package:<name>``, ``synthetic:<shape>`` (written if it is not there) or
        ``hf:owner/repo/file.gguf@revision`` (its first few MB are read over the network).

    Raises
    ------
    ParameterError
        If the name or the file cannot be right.
    LabError
        If the Hub cannot be reached.
    """
    name = check(model)
    if name.startswith("hf:"):
        with download.skeleton(hub.find_all(hub.parse_name(name))) as found:
            yield found
    else:
        path = resolve(name)
        yield path, read_header(path)


def header_of(model: str) -> Header:
    """Return the header of a model by its name; see :func:`skeleton`."""
    with skeleton(model) as (_, header):
        return header


def card(name: str, path: Path) -> ModelCard:
    """Return the card of a model's file."""
    return describe(name, path).card


def describe(name: str, path: Path) -> Described:
    """Return a model's card and header; a file is read once, and they are kept in the cache.

    A file whose header cannot be read still gets a card: that llama.cpp refuses it is a result.
    """
    every = parts.of(path)
    stats = [part.stat() for part in every]
    content_of = "\n".join(f"{stat.st_size}\n{stat.st_mtime_ns}" for stat in stats)
    key = f"{CARDS}\n{path.resolve()}\n{content_of}"
    stored = cache_dir() / "cards" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    # What the file's content says is kept; what its name says is said anew.
    named = {
        "name": name,
        "revision": _revision(path) if name.startswith("hf:") else None,
        "notice": synthetic.RANDOM_WEIGHTS_NOTICE if synthetic.is_synthetic(name) else None,
    }
    try:
        kept = Described.model_validate_json(stored.read_text(encoding="utf-8"))
        return kept.model_copy(update={"card": kept.card.model_copy(update=named)})
    except (OSError, ValidationError):
        pass
    about, file_header = gguf_header.describe(path)
    sha256, checksums = _sha256(every)
    content = {
        "path": str(path.resolve()),
        "size_bytes": sum(stat.st_size for stat in stats),
        "sha256": sha256,
    }
    described = Described(
        card=ModelCard(**content, **named, **about), header=file_header, checksums=checksums
    )
    stored.parent.mkdir(parents=True, exist_ok=True)
    with drafted(stored) as draft:
        draft.write_text(described.model_dump_json(), encoding="utf-8")
    return described


def _sha256(every: Sequence[Path]) -> tuple[str, tuple[str, ...]]:
    """Return the checksum of all files behind one another, and that of each."""
    whole, each = hashlib.sha256(), list[str]()
    for path in every:
        own = hashlib.sha256() if each else whole  # most models have one file: hashed once
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                for digest in {whole, own}:
                    digest.update(chunk)
        each.append(own.hexdigest())
    return whole.hexdigest(), tuple(each)


def _revision(path: Path) -> str | None:
    # The Hub's cache keeps a file under snapshots/<commit>/.
    return next((p.name for p in path.parents if p.parent.name == "snapshots"), None)
