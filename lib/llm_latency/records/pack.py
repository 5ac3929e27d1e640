"""A run in one file, to send and to keep: records, card, logs, report and figures."""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from llm_latency.errors import LabError, ParameterError
from llm_latency.plan.spec import Trial
from llm_latency.records import archive, versions
from llm_latency.records.files import sound
from llm_latency.records.folders import LOGS, outputs_dir
from llm_latency.records.nameless import Nameless
from llm_latency.records.store import RunStore, open_run

REPORTS = (".html", ".ipynb")
"""What a notebook leaves of a run."""
FIGURE = re.compile(r'src="data:image/(png|jpeg|svg\+xml);base64,([A-Za-z0-9+/=\s]+)"')


def pack(
    run: RunStore | str | Path,
    file: str | Path | None = None,
    *,
    reports: Iterable[str | Path] | None = None,
    keep_names: bool = False,
) -> Path:
    """Write a run as one archive, which ``load_runs`` and ``open_run`` read as it is.

    No user's name, host's name or home folder is in it, unless they are kept. Where a path leads
    through a home folder, the identifiers that follow from it are those of the path without it.

    Parameters
    ----------
    run
        A stored run, its folder or its ``run_id``.
    file
        Where to write; ``outputs/<run_id>.zip`` if not given.
    reports
        Executed notebooks and pages to put in; if not given, those in ``outputs`` that name the
        run.
    keep_names
        Leave every text as it is.

    Returns
    -------
    pathlib.Path
        The archive.

    Raises
    ------
    ParameterError
        If there is no such run or report.
    LabError
        If it cannot be read or written.
    """
    run = run if isinstance(run, RunStore) else open_run(run)
    if not run.path.is_dir():
        raise ParameterError(f"{run.path} is a run in one file already; copy it as it is.")
    texts = dict(_texts(run))
    for report in _reports(run.run_id) if reports is None else map(Path, reports):
        texts[f"report/{report.name}"] = _read(report)
    name = run.run_id
    if not keep_names:
        name, texts = _nameless(run, texts)
    members = {member: text.encode(errors="surrogateescape") for member, text in texts.items()}
    target = Path(file).expanduser() if file is not None else outputs_dir() / f"{name}.zip"
    if target.suffix != archive.SUFFIX:
        raise ParameterError(f"{str(target)!r} does not end in .zip; give the pack such a name.")
    about = {"run_id": name, "names": "kept" if keep_names else "left out"}
    archive.write(target, members | _figures(texts), about)
    if len(RunStore(target).records()) != len(run.records()):
        raise LabError(f"{target} does not hold all of the run; pack it with --keep-names")
    return target


def _texts(run: RunStore) -> Iterator[tuple[str, str]]:
    """Yield what a run's folder holds, by name: no locks, caches of prompts, or others' files."""
    kept = [*run.path.glob("*.json"), *run.path.glob("*.jsonl"), *run.path.glob("*.torn")]
    for path in [*sorted(kept), *sorted((run.path / LOGS).glob("*.log"))]:
        yield path.relative_to(run.path).as_posix(), _read(path)
    if not (run.path / "trials.jsonl").exists():
        yield "trials.jsonl", ""


def _reports(run_id: str) -> list[Path]:
    """Return the pages and executed notebooks in ``outputs`` that name a run."""
    named = re.compile(rf"(?<![\w.-]){re.escape(run_id)}(?![\w-])")
    found = [path for path in sorted(outputs_dir().glob("*")) if path.suffix in REPORTS]
    return [path for path in found if named.search(html.unescape(_read(path)))]


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="surrogateescape")
    except OSError as error:
        raise ParameterError(
            f"{str(path)!r} cannot be read ({error.strerror}); give the files of the run, such as "
            "outputs/sweep.html."
        ) from None


def _nameless(run: RunStore, texts: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Return the run's name, and its texts by their names, without anybody's."""
    lines, told = "trials.jsonl", [*texts.values(), *texts, run.run_id]
    names = Nameless(told, run.info)
    before, after = (_trials(text) for text in (texts[lines], _without(names, lines, texts[lines])))
    ids = {a.cell_id: b.cell_id for a, b in zip(before, after, strict=True)}
    names = Nameless(told, run.info, {a: b for a, b in ids.items() if a != b})
    without = {names.text(m): _without(names, m, text) for m, text in texts.items()}
    return names.text(run.run_id), without


def _trials(lines: str) -> list[Trial]:
    return [versions.record(line).trial for line in lines.split("\n") if sound(line.encode())]


def _without(names: Nameless, member: str, text: str) -> str:
    """Return a member's text without names, by what kind of text it is."""
    if member.endswith(".html"):
        return names.page(text)
    if member.endswith(".jsonl"):
        return "\n".join(_json(names, line) for line in text.split("\n"))
    return _json(names, text) if member.endswith((".json", ".ipynb")) else names.text(text)


def _json(names: Nameless, text: str) -> str:
    whole = text.rstrip()
    try:
        return names.json(whole) + text[len(whole) :]
    except ValueError:  # damaged, or cut by a crash
        return names.text(text)


def _figures(texts: dict[str, str]) -> dict[str, bytes]:
    """Return the pictures of the pages, each as a file of its own."""
    found = {}
    for member, text in texts.items():
        if not member.endswith(".html"):
            continue
        for number, (kind, content) in enumerate(FIGURE.findall(text), start=1):
            name = f"figures/{Path(member).stem}-{number}.{kind.partition('+')[0]}"
            try:
                found[name] = base64.b64decode(content)
            except binascii.Error:  # it was no picture on the page either
                continue
    return found
