"""A calibration's folder: what either tool left, and which results belong together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from llm_latency.base import Part
from llm_latency.engine.probe import Costs
from llm_latency.errors import LabError
from llm_latency.questions.calibration.planning import CalibrationPlan, Tool
from llm_latency.records import files, llama_bench, versions
from llm_latency.records.folders import outputs_dir
from llm_latency.records.generation import Generation
from llm_latency.records.record import Record
from llm_latency.records.rows import to_frame
from llm_latency.records.store import RunStore

if TYPE_CHECKING:
    import pandas as pd

TRIALS = "trials.jsonl"
LINES = "llama-bench.jsonl"
PAIRS = "pairs.jsonl"
HOME = "calibration"
"""The folder in the outputs where calibrations lie."""
COLUMNS = (
    "pair_id", "test", "tokens", "n_depth", "n_threads", "pair", "first", "tool", "sample",
    "status", "reason", "seconds", "engine_s", "sampling_s", "disturbed",
)  # fmt: skip
"""Columns of :func:`rows`."""
NUMBERS = ("sample", "seconds", "engine_s", "sampling_s")
"""Those of them that are numbers, or missing."""


def folder_of(run_id: str) -> Path:
    """Return where a calibration of that name lies, or would lie."""
    return outputs_dir() / HOME / run_id


class Pair(Part):
    """One line of ``pairs.jsonl``: which two results belong together."""

    pair_id: str
    test: str
    tokens: int
    n_depth: int = Field(0, description="Tokens in the context beforehand")
    n_threads: int
    pair: int
    first: Tool
    trial_line: int = Field(description="Line of trials.jsonl, counted from 1")
    llama_bench_line: int | None = Field(description="Line of llama-bench.jsonl, counted from 1")
    llama_bench_reason: str | None = Field(None, description="Why there is none")
    llama_bench_s: float = Field(description="Life of llama-bench's process")
    llama_bench_disturbed: list[str] = Field(default_factory=list)
    probe: Costs | None = Field(None, description="What sampling and calls cost; decode only")


class CalibrationRun:
    """A calibration's folder, ``outputs/calibration/<run_id>/``.

    ``run.json`` and ``trials.jsonl`` are those of any run of the lab; ``llama-bench.jsonl`` holds
    llama-bench's own lines, untouched; ``pairs.jsonl`` says which belong together.

    Attributes
    ----------
    path : Path
        The folder.
    info : dict
        The content of ``run.json``.
    """

    def __init__(self, path: Path) -> None:
        self.store = RunStore(path)
        self.path, self.info = path, self.store.info

    @property
    def plan(self) -> CalibrationPlan:
        """What is compared."""
        return CalibrationPlan.model_validate_json(json.dumps(self.info["plan"]))

    @property
    def planned(self) -> int:
        """How many pairs the plan holds."""
        return len(self.plan.planned())

    @property
    def final(self) -> int:
        """How many pairs have been measured."""
        return len(self.pairs())

    def pairs(self) -> list[Pair]:
        """Return the pairs that have been measured, in the order of writing."""
        return stored_pairs(self.path)

    def records(self) -> list[Record]:
        """Return the lab's record of each pair."""
        lines = whole_lines(self.path / TRIALS)
        return [versions.record(lines[pair.trial_line - 1]) for pair in self.pairs()]

    def frame(self) -> pd.DataFrame:
        """Return the lab's half: one tidy row per generation, as of any run."""
        return to_frame(self.records())

    def samples(self) -> pd.DataFrame:
        """Return one tidy row per sample of either tool, see :func:`rows`."""
        import pandas as pd

        lines = whole_lines(self.path / LINES)
        made: list[dict[str, Any]] = []
        for pair, record in zip(self.pairs(), self.records(), strict=True):
            number = pair.llama_bench_line
            line = None if number is None else json.loads(lines[number - 1])
            made += rows(pair.model_dump(), record, line)
        frame = pd.DataFrame(made, columns=list(COLUMNS))
        return frame.astype(dict.fromkeys(NUMBERS, float))

    def __repr__(self) -> str:
        return f"<calibration {self.path.name}: {self.final} of {self.planned} pairs>"


def rows(
    pair: Mapping[str, Any], record: Record, line: Mapping[str, Any] | None
) -> Iterator[dict[str, Any]]:
    """Return the samples of a pair as rows: one per run of either tool, in seconds.

    ``seconds`` is the time of all the pair's ``tokens``, ``engine_s`` what llama.cpp itself
    counted of it, ``sampling_s`` one sampling, as the pair's probe clocked it. A process that
    failed is one row without them.

    Parameters
    ----------
    pair
        A line of ``pairs.jsonl``.
    record
        The lab's record; its first generation is left out, as llama-bench leaves out its own.
    line
        llama-bench's line; ``None`` where it failed.
    """
    common = {key: pair[key] for key in COLUMNS if key in pair}
    common |= dict.fromkeys(set(COLUMNS) - set(common))
    mine = common | {
        "tool": "lab",
        "status": record.status,
        "reason": record.reason,
        "disturbed": "; ".join(record.disturbed),
        "sampling_s": (pair["probe"] or {}).get("sampling_s"),
    }
    later = [g for g in record.generations if g.repeat > 0]
    for generation in later:
        yield mine | {"sample": generation.repeat} | _times(pair["test"], generation)
    if not later:
        yield mine
    other = common | {
        "tool": "llama-bench",
        "status": "crashed" if line is None else "ok",
        "reason": pair["llama_bench_reason"],
        "disturbed": "; ".join(pair["llama_bench_disturbed"]),
    }
    if line is None:
        yield other
        return
    for row in llama_bench.rows(line):
        yield other | {"sample": row["repeat"], "seconds": row["total_s"]}


def _times(test: str, generation: Generation) -> dict[str, float | None]:
    times = generation.timings
    if test.startswith("pp"):
        return {"seconds": times.prefill_s, "engine_s": times.engine_prefill_s}
    return {"seconds": times.total_s, "engine_s": times.engine_s}


def stored_pairs(folder: Path) -> list[Pair]:
    """Return the pairs that a calibration's folder holds, in the order of writing."""
    return [Pair.model_validate_json(text) for text in whole_lines(folder / PAIRS)]


def open_run(run_id: str) -> CalibrationRun:
    """Return a stored calibration by its ``run_id`` or its folder; nothing is measured."""
    path = Path(run_id).expanduser()
    here = (path / "run.json").is_file()
    return CalibrationRun(path if here else folder_of(run_id))


def append(file: Path, text: str) -> int:
    """Add one line, on the disk when this returns; return its number, counted from 1."""
    try:
        files.append(file, text)
    except OSError as error:
        raise LabError(
            f"{file} cannot be written ({error.strerror}); what was stored before is whole: make "
            f"room, and run again with run_id={file.parent.name!r} to go on"
        ) from None
    return len(whole_lines(file))


def mend(file: Path) -> None:
    """Set aside what a crash left half-written: the pair it belongs to is measured again."""
    files.mend(file, file.with_suffix(".torn"))


def whole_lines(file: Path) -> list[str]:
    """Return the lines that were written to their end; none where there is no file."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return []
    # Not splitlines(): a string in JSON may hold other signs that end a line.
    return content[: content.rfind(b"\n") + 1].decode("utf-8").split("\n")[:-1]
