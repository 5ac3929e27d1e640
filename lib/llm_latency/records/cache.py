"""Rows kept beside the records they came from, so that many runs are read as fast as one table.

``frame.parquet`` holds a run's rows. Each column of each run is a thing to open, so there are few:
one with the same value throughout, as most are within a run, is a word of the metadata, and all
numbers and flags are one column, as they lie in memory, cut into as many pieces as there are rows.

Records are what counts: a cache is read only where it names the very files that lie beside it, and
the code and libraries that read them now; and it is kept only where it says exactly what the
records say. Whatever goes wrong with it, the records are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from llm_latency.records.files import drafted
from llm_latency.records.rows import COLUMNS
from llm_latency.words import missing

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

FILE = "frame.parquet"
OF = ("run.json", "trials.jsonl")
"""The files that rows are read from."""
KEY = b"llm_latency"
NUMBERS = "numbers"
"""The column that holds all numbers and flags, one after another: eight bytes each."""
ALWAYS = "trial_id"
"""A column that is one in any case: a table has to have some."""

State: TypeAlias = "dict[str, Any]"
"""What rows depend on, as JSON."""


@dataclass(frozen=True)
class Kept:
    """The rows of one run out of its cache.

    Attributes
    ----------
    columns
        Names, in their order.
    values
        The value that all rows of a column have, or theirs in turn; of all but the numbers.
    numbers
        The line of each column of numbers, these as they lie in memory.
    looked_at
        Whether the run looked after every round whether it was to end.
    """

    columns: list[str]
    values: dict[str, Any]
    numbers: dict[str, np.ndarray[Any, Any]]
    looked_at: bool

    def __len__(self) -> int:
        return len(self.values[ALWAYS])

    def fill(self, columns: dict[str, Any], at: slice) -> None:
        """Put the rows at their place in columns where everything is missing so far."""
        for name, value in self.values.items():
            if not missing(value):
                columns[name][at] = value
        for name, line in self.numbers.items():
            columns[name][at] = line if columns[name].dtype == float else line.view("int64")


def known(runs: Sequence[Path]) -> Iterator[Kept | None]:
    """Yield the rows of runs that are kept and still true, ``None`` where there are none."""
    with ThreadPoolExecutor(2) as pool:  # more only wait for each other: most of it is Python
        for found in pool.map(_known, runs):
            yield _unpacked(*found) if found else None  # while the next ones are read


def state(run: Path) -> State | None:
    """Return what a run's rows depend on; ``None`` where there is nothing to keep."""
    files: dict[str, list[int]] = {}
    try:
        for name in OF:
            now = (run / name).stat()
            # The third changes with whatever is done to a file, and nobody can set it.
            files[name] = [now.st_size, now.st_mtime_ns, now.st_ctime_ns]
    except OSError:
        return None
    return {"files": files, **_readers()}


def keep(run: Path, as_of: State, rows: pd.DataFrame) -> None:
    """Keep a run's rows, whole or not at all, where a folder lets itself be written.

    Parameters
    ----------
    run
        The run's folder.
    as_of
        Its state before it was read.
    rows
        What was read.
    """
    # pyarrow fails in ways of its own. Without a cache all is slower, and as right.
    with contextlib.suppress(Exception):
        if (table := _packed(rows, as_of)) is None:
            return
        from pyarrow import parquet

        texts = [f.name for f in table.schema if str(f.type).startswith("dictionary")]
        with drafted(run / FILE) as draft:
            parquet.write_table(table, draft, use_dictionary=texts, write_page_checksum=True)


def _known(run: Path) -> tuple[pa.Table, dict[str, Any]] | None:
    """Return what a run's cache holds, and what it says of that, if it is still true."""
    now = state(run)
    if now is None or not (run / FILE).is_file():
        return None
    with contextlib.suppress(Exception):  # a broken cache is none
        from pyarrow import parquet

        with parquet.ParquetFile(run / FILE, page_checksum_verification=True) as file:
            said = _said(file.metadata.metadata[KEY])
            if said["state"] == now:
                table = file.read(use_threads=False)
                if _shape(table) == said["shape"]:
                    return table, said
    return None


def _signed(said: dict[str, Any]) -> bytes:
    """Return what metadata says with its checksum: pages have their own, metadata has none."""
    text = json.dumps(said).encode()
    return hashlib.sha256(text).hexdigest().encode() + text


def _said(signed: bytes) -> dict[str, Any]:
    text = signed[64:]
    if hashlib.sha256(text).hexdigest().encode() != signed[:64]:
        raise ValueError("it was damaged")
    return dict(json.loads(text))


def _shape(table: pa.Table) -> list[Any]:
    """Return how many rows a table has, and the names and types of its columns."""
    return [table.num_rows, [[field.name, str(field.type)] for field in table.schema]]


@cache
def _readers() -> dict[str, str]:
    """Return what makes rows of records: the lab's own code, by its bytes, and libraries."""
    code = hashlib.sha256()
    home = Path(__file__).parents[1]
    for file in sorted([*home.glob("records/*.py"), *home.glob("plan/*.py"), home / "words.py"]):
        code.update(file.read_bytes())
    return {"code": code.hexdigest()} | {n: version(n) for n in ("pandas", "pyarrow", "pydantic")}


def _packed(rows: pd.DataFrame, as_of: State) -> pa.Table | None:
    """Return rows as they are kept; ``None`` where something in them could not be."""
    import numpy as np
    import pyarrow as pa

    columns: dict[str, pa.Array] = {}
    numbers: dict[str, np.ndarray[Any, Any]] = {}
    alike: dict[str, Any] = {}
    for name in map(str, rows):
        values = rows[name].to_numpy()
        if values.dtype != COLUMNS.get(name, "object"):
            return None
        if name != ALWAYS and _one(values):
            alike[name] = values[0].item() if values.dtype != object else values[0]
        elif values.dtype == float:
            numbers[name] = values
        elif values.dtype != object:
            numbers[name] = values.astype("int64").view(float)
        elif (kind := _kind(values)) is None:
            return None
        else:
            columns[name] = pa.array(values, kind)
            if kind == pa.string():
                columns[name] = columns[name].dictionary_encode()
    if numbers:
        packed = pa.py_buffer(np.concatenate(list(numbers.values())).tobytes())
        kind = pa.binary(len(numbers) * 8)
        columns[NUMBERS] = pa.Array.from_buffers(kind, len(rows), [None, packed])
    table = pa.table(columns)
    said = {
        "state": as_of,
        "shape": _shape(table),
        "columns": list(rows),
        "numbers": list(numbers),
        "alike": alike,
        "looked_at": "looks" in rows.attrs,
    }
    return table.replace_schema_metadata({KEY: _signed(said)})


def _one(values: np.ndarray[Any, Any]) -> bool:
    """Return whether values are all the same, to the bit, and such as JSON tells them."""
    if not len(values):
        return False
    if values.dtype == object:
        first = values[0]
        kind = type(first)
        return kind in (type(None), str, bool) and all(
            type(value) is kind and value == first for value in values
        )
    bits = values.view("int64") if values.dtype == float else values
    return bool((bits == bits[0]).all())


def _kind(values: np.ndarray[Any, Any]) -> pa.DataType | None:
    """Return in which type objects are kept and come back as they were, ``None`` if in none."""
    import pyarrow as pa

    found = set(map(type, values)) - {type(None)}
    if found == {str}:
        return pa.string()
    if found == {bool}:
        return pa.bool_()
    inside = set(map(type, chain.from_iterable(v for v in values if v))) if found == {list} else {0}
    # "element" is what the file calls it.
    return pa.list_(pa.field("element", pa.float64())) if inside <= {float} else None


def _unpacked(table: pa.Table, said: dict[str, Any]) -> Kept:
    """Return what a table holds as it was."""
    import numpy as np

    values, numbers = dict(said["alike"]), dict[str, "np.ndarray[Any, Any]"]()
    for name in table.column_names:
        if name != NUMBERS:
            values[name] = _objects(table[name])
    if names := said["numbers"]:
        packed = table[NUMBERS].combine_chunks().buffers()[1]
        lines = np.frombuffer(packed, dtype=float, count=len(names) * len(table))
        numbers = dict(zip(names, lines.reshape(len(names), -1), strict=True))
    return Kept(said["columns"], values, numbers, said["looked_at"])


def _objects(column: pa.ChunkedArray) -> Any:
    """Return the objects of a column as they were."""
    import numpy as np
    import pyarrow as pa

    array = column.combine_chunks()
    if pa.types.is_dictionary(array.type):
        words = np.array([*array.dictionary.to_pylist(), None], dtype=object)
        places = array.indices
        return words[(places.fill_null(len(words) - 1) if places.null_count else places).to_numpy()]
    if pa.types.is_list(array.type):
        flat, ends = array.values.to_numpy().tolist(), array.offsets.to_pylist()
        lists = (
            flat[start:end] if there else None
            for start, end, there in zip(ends, ends[1:], array.is_valid().to_pylist(), strict=False)
        )
        return np.fromiter(lists, dtype=object, count=len(array))
    return array.to_numpy(zero_copy_only=False)
