"""Numbers, settings and foreign text as readers see them: ms, MiB, tok/s, and escaped.

SI units in the data, ms and MiB on the screen: this is the one place where they change.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

MARKER = "llm_latency"
"""Key of the metadata by which a report knows that a notebook reached its answer."""
MS = 1e3
"""Seconds to ms."""
MIB = 2.0**-20
"""Bytes to MiB."""


def decimals(value: float) -> int:
    """Return how many decimals show three significant digits."""
    size = abs(value)
    if not math.isfinite(size) or size == 0 or size >= 99.95:
        return 0
    return 1 if size >= 9.995 else 2 if size >= 0.9995 else 3


def number(value: float, places: int | None = None) -> str:
    """Return a number to three significant digits, thousands set apart; a dash if missing."""
    if not math.isfinite(value):
        return "–"
    return f"{value:,.{decimals(value) if places is None else places}f}"


def span(low: float, high: float, unit: str = "") -> str:
    """Return two bounds as one text, ``398–410 ms``, or one number where both read alike."""
    places = decimals(high)
    first, last = number(low, places), number(high, places)
    text = first if first == last else f"{first}–{last}"
    return f"{text} {unit}".rstrip()


def percent(fraction: float) -> str:
    """Return a fraction as a percentage with two significant digits."""
    if not math.isfinite(fraction):
        return "–"
    value = 100 * fraction
    return f"{value:.0f} %" if abs(value) >= 9.95 else f"{value:.1f} %"


def duration(seconds: float) -> str:
    """Return how long something takes in the unit in which it reads well: ms, s, minutes, hours."""
    for unit, unit_s, least in (("hours", 3600.0, 2), ("minutes", 60.0, 2), ("s", 1.0, 1)):
        if seconds >= least * unit_s:
            return f"{number(seconds / unit_s)} {unit}"
    return f"{number(seconds * MS)} ms"


def missing(value: Any) -> bool:
    """Return whether a value is ``None`` or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def setting(value: Any) -> str:
    """Return a setting's value as it is written in Python; ``default`` where none was given."""
    if missing(value):
        return "default"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def cpu_list(cpus: Iterable[int]) -> str:
    """Return numbers of CPUs as Linux lists them: ``0-3,8``."""
    ranges: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if ranges and cpu == ranges[-1][-1] + 1:
            ranges[-1][1:] = [cpu]
        else:
            ranges.append([cpu])
    return ",".join("-".join(map(str, ends)) for ends in ranges)


def cpus_listed(text: str) -> set[int]:
    """Return the CPUs of a list as Linux writes it."""
    ends = [part.partition("-") for part in text.split(",") if part.strip()]
    return {cpu for low, _, high in ends for cpu in range(int(low), int(high or low) + 1)}


def several(count: int, word: str, plural: str | None = None) -> str:
    """Return ``1 cell`` or ``3 cells``."""
    return f"{count:,} {word if count == 1 else plural or word + 's'}"


def enumerate_words(items: Sequence[str], most: int = 3) -> str:
    """Return ``a, b and c``; beyond ``most`` items the rest is counted."""
    shown = list(items[:most])
    if len(items) > most:
        shown.append(f"{len(items) - most} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def counts(words: Iterable[str]) -> str:
    """Return ``ok 5, oom 1``: how often each word occurs, the most frequent first."""
    tally: dict[str, int] = {}
    for word in words:
        tally[word] = tally.get(word, 0) + 1
    ranked = sorted(tally.items(), key=lambda item: (item[0] != "ok", -item[1], item[0]))
    return ", ".join(f"{word} {count}" for word, count in ranked)


def visible(text: Any) -> str:
    """Return foreign text with every sign that is not seen written out, as Python writes it.

    A sign that turns the direction of writing, moves a terminal's cursor or has no width can hide
    or forge what a reader sees. Spaces and the ends of lines stay.
    """
    return "".join(
        repr(sign)[1:-1] if unicodedata.category(sign) in UNSEEN and sign not in "\n\t" else sign
        for sign in str(text)
    )


UNSEEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
"""Unicode's categories of signs that are not seen: controls, formats, halves, unknown, ends."""


FOLDER = r"""[^\s/\\<>"'`:|~,;]+(?: [^\s/\\<>"'`:|~,;]+)*"""
HOME = re.compile(rf"(?:(?<!\w)/home|(?:[A-Za-z]:)?[/\\]Users)[/\\](?:{FOLDER}(?=[/\\])|[\w.-]*\w)")
FOLDERS = re.compile(
    rf"~[/\\](?:{FOLDER}[/\\])*|(?<![\w.:/<])/(?!(?:dev|etc|proc|sys|usr)/)(?:{FOLDER}/)+"
    rf"|(?<!\w)[A-Za-z]:[/\\](?:{FOLDER}[/\\])+"
)
"""A person's own folder, and any others; those of the system are the same everywhere."""


def file_name(model: str) -> str:
    """Return a model's name without the folders of the machine that measured it."""
    if model.startswith(("synthetic:", "package:", "hf:")):
        return model
    windows = re.match(r"[A-Za-z]:\\|\\\\", model)
    return (PureWindowsPath(model) if windows else PurePosixPath(model)).name or model


def without_folders(text: str) -> str:
    """Return text in which paths are files' names: folders tell of a machine, and of who uses it.

    The whole path stays in ``run.json``, in the logs, and in what a terminal is told.
    """
    return FOLDERS.sub("", HOME.sub("~", text))


def escape(text: Any) -> str:
    """Return foreign text so that neither HTML nor Markdown sees anything but letters in it.

    Names of models, reasons and logs come from outside. Backslashes before Markdown's signs are
    not enough (``$`` begins a formula in Jupyter), so every sign becomes a character reference,
    which neither language takes for its own. Of paths the files' names are left.
    """
    flat = " ".join(without_folders(visible(text)).split())
    plain = re.sub(
        r"[^\w\s.,;:'%=/()+?°–×-]",
        lambda sign: html.escape(sign[0]) if sign[0] in "<>&" else f"&#{ord(sign[0])};",
        flat,
    )
    # An address would become a link.
    plain = plain.replace("_", "&#95;").replace("://", "&#58;//")
    return re.sub(r"(?i)\bwww\.", lambda found: f"{found[0][:-1]}&#46;", plain)
