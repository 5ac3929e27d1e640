"""A run for other tools: Bencher's metrics, or llama-bench's lines.

Bencher Metric Format (https://bencher.dev/docs/reference/bencher-metric-format) is JSON: a
benchmark's name, its measures, and of each a value with a lower and an upper one. A history goes on
under the same name, so that a cell's name holds its identifier and nothing that another run could
change; units stand at the end of a measure's name, SI as everywhere in the data.

llama-bench's lines are those of ``llama-bench -o jsonl``. llama.cpp's ``compare-llama-bench.py``
reads them into SQLite and tells builds apart by ``build_commit``, which is the run's name here: it
compares runs then.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_latency.errors import LabError, ParameterError
from llm_latency.questions.compare.opening import opened
from llm_latency.questions.compare.sides import MEASURES, Side, sides
from llm_latency.records import frame as fr
from llm_latency.records import llama_bench
from llm_latency.records.store import RunStore
from llm_latency.stats.estimate import Estimate
from llm_latency.words import file_name, setting, several

NAMED = ("n_ctx", "n_batch", "prompt_tokens", "max_tokens")
"""What a benchmark's name tells of its cell, for who reads it; the identifier tells it apart."""
LONGEST = 1024
"""Letters that Bencher takes of a name."""


def export(kind: str, file: Path, places: Sequence[str]) -> str:
    """Write stored runs for another tool, and return what was written.

    Parameters
    ----------
    kind
        ``bmf`` or ``llama-bench``.
    file
        The file to write.
    places
        Runs, as :func:`~llm_latency.questions.compare.opening.opened` finds them.

    Raises
    ------
    ParameterError
        If there is no such run, nothing in it to write, or the format takes one alone.
    LabError
        If the file cannot be written.
    """
    runs = [opened(place) for place in places]
    made, told = _bmf(runs) if kind == "bmf" else _llama_bench(runs, file)
    try:
        file.write_text(made, encoding="utf-8")
    except OSError as error:
        raise LabError(f"{file} cannot be written ({error.strerror}); give another file.") from None
    return told


def bencher(run: RunStore) -> dict[str, dict[str, dict[str, float]]]:
    """Return a run in Bencher Metric Format: medians over processes, with their intervals.

    Below six processes there is no interval, and a value stands alone.
    """
    every = sides([run])
    found: dict[str, dict[str, dict[str, float]]] = {}
    for side in every:
        memory = fr.memory_choice(fr.counted(side.rows))[0]
        for cell in side.cells:
            told = {
                _slug(column): _metric(value)
                for column in (*MEASURES.values(), memory)
                if (value := side.estimate(cell, column)).n
            }
            if told:
                found[_name(side, cell, several_machines=len(every) > 1)] = told
    return found


def _bmf(runs: Sequence[RunStore]) -> tuple[str, str]:
    if len(runs) != 1:
        raise ParameterError(
            f"{len(runs)} runs are refused: in Bencher's format a run is one report; export one at "
            "a time."
        )
    found = bencher(runs[0])
    if not found:
        raise ParameterError(
            f"run {runs[0].run_id!r} has no generation with status ok, so there is nothing to "
            "write; give a run that measured something."
        )
    return json.dumps(found, indent=1) + "\n", several(len(found), "benchmark")


def _name(side: Side, cell: str, *, several_machines: bool) -> str:
    row = side.first(cell)
    told = [f"{name}={setting(row[name])}" for name in NAMED]
    where = f" on {side.machine[0]}" * several_machines
    head = f"{row['experiment']} {file_name(str(row['model']))} {' '.join(told)} {cell}"
    return (head + where)[-LONGEST:]


def _slug(column: str) -> str:
    return column.replace("_", "-")


def _metric(value: Estimate) -> dict[str, float]:
    if value.kind == "range":
        return {"value": value.median}
    return {"value": value.median, "lower_value": value.low, "upper_value": value.high}


def _llama_bench(runs: Sequence[RunStore], file: Path) -> tuple[str, str]:
    shortest = min(len(run.run_id) for run in runs)
    builds = [run.run_id[:shortest] for run in runs]  # so short compare-llama-bench.py cuts them
    if len(set(builds)) < len(builds):
        raise ParameterError(
            f"the runs {', '.join(run.run_id for run in runs)} begin alike, and "
            "compare-llama-bench.py would take them for one build; rename a folder, or give each "
            "once."
        )
    made = (llama_bench.lines(fr.counted(run.frame()), **_of(run)) for run in runs)
    lines = [json.dumps(line) for of_run in made for line in of_run]
    if not lines:
        raise ParameterError(
            "the runs have no generation with status ok, so there is nothing to write; give runs "
            "that measured something."
        )
    told = several(len(lines), "line")
    if len(builds) > 1:
        told += f"; compare-llama-bench.py -t llama-bench -i {file} -b {builds[0]} -c {builds[1]}"
    return "\n".join(lines) + "\n", told


def _of(run: RunStore) -> dict[str, Any]:
    """Return what a run's card tells of llama-bench's fields."""
    machine, model = (run.info.get(name) or {} for name in ("machine", "model"))
    return {
        "build_commit": run.run_id,
        "cpu_info": machine.get("cpu") or "",
        "gpu_info": (machine.get("gpu") or {}).get("name") or "",
        "model_filename": file_name(run.plan.model),  # which lies elsewhere on each machine
        "model_n_params": model.get("parameters"),
    }
