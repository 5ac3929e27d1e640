"""Texts without who measured, and where: home folders, user names and hosts' names.

Folders are replaced wherever they stand; names as whole words only, and only where they tell of
somebody: whoever is called ``root``, ``model`` or ``ok`` by their system shares that name with
the data, which has to be read afterwards. What is of such a name is still gone from every path
of a home folder. Of JSON no key is changed but for a folder in it; pictures are left alone.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import platform
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from llm_latency.plan.spec import Plan
from llm_latency.records.record import Record
from llm_latency.words import FOLDER, escape

HOME, USER, HOST = "~", "USER", "HOST"
"""What stands for a home folder, a user's name and a machine's."""

HOMES = re.compile(
    rf"(?:\b[a-z]:)?[/\\]+(?:home|users)[/\\]+(?P<name>{FOLDER}(?=[/\\])|[\w.-]*\w)", re.IGNORECASE
)
"""Anybody's own folder, also where backslashes are doubled."""
KEPT = re.compile(
    r"(<style\b.*?</style>|data:[\w.+/-]+;base64,[A-Za-z0-9+/=\s]+)", re.DOTALL | re.IGNORECASE
)
"""Parts of a page in which a word is no word."""
MARKUP = re.compile(r"</?([\w-]+)|\s([\w-]+)\s*=|class=\"([^\"]*)\"")
"""Names of tags, of attributes and of classes."""
NOBODY = {
    *("admin", "administrator", "container", "debian", "docker", "guest", "jovyan", "linux"),
    *("localhost", "macos", "node", "nobody", "public", "root", "runner", "ubuntu", "user"),
    *(
        "code",
        "display_data",
        "execute_result",
        "markdown",
        "python",
        "stderr",
        "stdout",
        "windows",
    ),
}
"""Names that tell of nobody, that files of a run have, or that notebooks give to their parts."""


class Nameless:
    """Takes out of texts what tells of a person or a machine.

    Parameters
    ----------
    texts
        All that is to be written: whose folders stand in it is known by name.
    data
        The JSON of the run, whose keys, and whose plan's own words, are nobody's names.
    ids
        Identifiers that follow from a path, and what they are without it.
    """

    def __init__(
        self, texts: Iterable[str], data: Any, ids: Mapping[str, str] | None = None
    ) -> None:
        found = {home["name"] for text in texts for home in HOMES.finditer(text)}
        known = dict.fromkeys(found | set(_user_names()), USER) | dict.fromkeys(_hosts(), HOST)
        taken = _words() | NOBODY | set(_own_words(data))
        names = {n: sign for n, sign in known.items() if len(n) > 2 and n.lower() not in taken}
        written = {way.lower(): sign for n, sign in names.items() for way in _ways_to_write(n)}
        self.signs = written | dict(ids or {})
        self._homes = [(_folder(home), HOME) for home in _own_homes()]
        longest = sorted(map(re.escape, self.signs), key=len, reverse=True)
        self._names = re.compile(rf"(?<!\w)(?:{'|'.join(longest) or '(?!)'})(?!\w)", re.IGNORECASE)

    def text(self, text: str) -> str:
        """Return a text without any of it."""
        return self._names.sub(lambda found: self.signs[found[0].lower()], self._folders(text))

    def json(self, text: str) -> str:
        """Return JSON without any of it, the same to the byte where there is none in it."""
        value = json.loads(text)
        without = self._of(value)
        if without == value:
            return text
        # A notebook and run.json stand in many lines, a record in one.
        if "\n" in text.strip():
            return json.dumps(without, indent=1)
        return json.dumps(without, separators=(",", ":"))

    def page(self, html: str) -> str:
        """Return a page without any of it; its pictures, its style and its markup stay."""
        markup = {
            w.lower() for tag in MARKUP.findall(KEPT.sub("", html)) for w in " ".join(tag).split()
        }
        spared = {name: sign for name, sign in self.signs.items() if name not in markup}

        def sign(found: re.Match[str]) -> str:
            return spared.get(found[0].lower(), found[0])

        parts = KEPT.split(html)
        parts[::2] = [self._names.sub(sign, self._folders(part)) for part in parts[::2]]
        return "".join(parts)

    def _folders(self, text: str) -> str:
        for pattern, sign in self._homes:
            text = pattern.sub(sign, text)
        return HOMES.sub(HOME, text)

    def _of(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                self._folders(key): one if _picture(key) else self._of(one)
                for key, one in value.items()
            }
        if isinstance(value, list):
            return [self._of(one) for one in value]
        return self.text(value) if isinstance(value, str) else value


def _picture(key: str) -> bool:
    """Return whether a notebook keeps a picture's bytes under this key."""
    return key.startswith("image/") and key != "image/svg+xml"


def _user_names() -> Iterator[str]:
    yield from (os.environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER"))
    with contextlib.suppress(Exception):  # a container's user may have no name
        yield getpass.getuser()


def _hosts() -> Iterator[str]:
    yield platform.node()
    yield platform.node().partition(".")[0]


def _own_homes() -> list[Path]:
    """Return where this user's home folder lies, the longest name first."""
    found = set[Path]()
    with contextlib.suppress(RuntimeError, OSError):  # nobody's home
        found = {Path.home(), Path.home().resolve()}
    return sorted((p for p in found if len(p.parts) > 1), key=lambda p: -len(str(p)))


def _folder(home: Path) -> re.Pattern[str]:
    r"""Return what finds a folder, also as ``C:\\Users``, and none that only begins alike."""
    parts = [part.strip("/\\") for part in home.parts]
    joined = r"[/\\]+".join(
        "|".join(map(re.escape, _ways_to_write(p))).join(("(?:", ")")) for p in parts
    )
    # What holds homes may be mounted anywhere; /root alone is a folder's name like others.
    before = r"(?<!\w)" if len(parts) < 3 else ""
    return re.compile(rf"{before}{joined}(?!\w|[.-]\w)", re.IGNORECASE)


def _ways_to_write(name: str) -> set[str]:
    """Return a name as a page, an address and other systems write it."""
    forms = {unicodedata.normalize(form, name) for form in ("NFC", "NFD")}
    return forms | {escape(name), quote(name)} if name else {""}


@cache
def _words() -> frozenset[str]:
    """Return the words in which data is written: names of its parts, and what they may say."""
    shapes = (json.dumps(shape.model_json_schema()) for shape in (Record, Plan))
    return frozenset(re.findall(r"\w+", " ".join(shapes).lower()))


def _own_words(data: Any) -> Iterator[str]:
    """Yield what a run's JSON calls its parts, its experiment, and the kinds of models."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from re.findall(r"\w+", key.lower())
            made = isinstance(value, str) and value.startswith("synthetic:")
            if made or key in ("experiment", "architecture"):
                yield from re.findall(r"\w+", str(value).lower())
            yield from _own_words(value)
    elif isinstance(data, list):
        for value in data:
            yield from _own_words(value)
