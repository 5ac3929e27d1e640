"""llama-bench's results (``llama-bench -o jsonl`` or ``-o json``), read and written.

A result is one test of one process: ``pp`` evaluates a prompt, ``tg`` evaluates single tokens
without sampling, ``pg`` does one after the other. Read, it becomes one row per sample, under the
lab's names and in SI units; what has no name here keeps llama-bench's. Field names have changed
over the years: ``use_mmap`` became ``load_mode``, ``f16_kv`` became ``type_k`` and ``type_v``,
a flag per GPU library became ``backends``, and ``flash_attn`` was a bool before -1 meant auto.

How files are read as people have them: :mod:`llm_latency.records.bench_text`.

sweep-bench's rows are read, too: see :mod:`llm_latency.records.bench_text`.

Written, the lab's ``decode`` stands as ``tg`` at the depth of its prompt. It includes sampling,
which llama-bench's own does not: ``source`` says whose line it is.
"""

from __future__ import annotations

import json
import statistics
import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_latency.errors import ParameterError
from llm_latency.plan.loading import LOAD_MODES, load_mode
from llm_latency.records import bench_text
from llm_latency.words import several, visible

if TYPE_CHECKING:
    import pandas as pd

SOURCE = f"llm-latency-lab {metadata.version('llm-latency-lab')}"

COLUMNS = (
    "experiment", "trial_id", "status", "test", "model", "prompt_tokens", "generated_tokens",
    "n_depth", "n_ctx", "n_batch", "n_ubatch", "n_threads", "n_threads_batch", "n_gpu_layers",
    "use_mmap", "use_mlock", "flash_attn", "offload_kqv", "type_k", "type_v", "repeat",
    "prefill_s", "decode_s", "total_s", "prefill_tps", "decode_tps", "backends", "started_at",
)  # fmt: skip
"""Columns that :func:`read` always returns; a value that a line lacks is missing."""

_SAME = ("n_batch", "n_ubatch", "n_threads", "n_gpu_layers", "type_k", "type_v", "backends")
_TAKEN = frozenset(
    {"model_filename", "n_prompt", "n_gen", "n_depth", "no_kv_offload", "flash_attn", "f16_kv",
     "load_mode", "use_mmap", "use_mlock", "use_direct_io", "test_time", "avg_ns", "stddev_ns",
     "avg_ts", "stddev_ts", "samples_ns", "samples_ts", "experiment", *_SAME}
)  # fmt: skip
_OLD_BACKENDS = ("cuda", "opencl", "vulkan", "kompute", "metal", "sycl", "rpc", "gpu_blas", "blas")
DEFAULTS: dict[str, Any] = {
    "build_number": None, "cpu_info": "", "gpu_info": "", "cpu_mask": "0x0", "cpu_strict": False,
    "poll": 50, "split_mode": "layer", "main_gpu": 0, "devices": "auto",
    "tensor_split": "0.00", "tensor_buft_overrides": "none", "lazy_mode": "auto",
    "embeddings": False, "no_host": False, "repack": True, "fit_target": 0,
    "fit_min_ctx": 0,
}  # fmt: skip
"""llama-bench's defaults for what the lab does not change: tools for its lines ask for them.

What nobody here knows is empty: the number of llama.cpp's build."""


def read(source: str | Path | Iterable[str]) -> pd.DataFrame:
    """Return llama-bench's results as a tidy frame, one row per sample.

    Parameters
    ----------
    source
        A file of results, one a line or as one array, or its lines.

    Returns
    -------
    pandas.DataFrame
        The lab's columns (:data:`COLUMNS`), then llama-bench's own names for the rest.
        ``repeat`` counts from 1, since llama-bench drops a run before the first sample; a result
        that has only an average is one row without ``repeat``. ``attrs["stray_lines"]`` counts
        the lines that are no part of a result; a warning tells of them.

    Raises
    ------
    ParameterError
        If the file cannot be read, something in it is no result of llama-bench, or nothing is.
    """
    import pandas as pd

    if isinstance(source, str | Path):
        name, text = str(source), bench_text.read(Path(source))
    else:
        name, text = "llama-bench's output", "\n".join(line.rstrip("\r\n") for line in source)
    results, stray = bench_text.results(text, name)
    if stray and not results:
        raise ParameterError(
            f"{name} holds no result of llama-bench ({several(len(stray), 'line')} of other text); "
            "write it again with 'llama-bench -o jsonl'."
        )
    if stray:
        warnings.warn(
            f"{name} holds {several(len(stray), 'line')} beside llama-bench's results, left out; "
            f"the first: {visible(stray[0])[:80]!r}.",
            stacklevel=2,
        )
    found = [row for number, result in enumerate(results, 1) for row in rows(result, number)]
    others = dict.fromkeys(key for row in found for key in row if key not in COLUMNS)
    frame = pd.DataFrame(found, columns=[*COLUMNS, *others])
    frame.attrs["stray_lines"] = len(stray)
    return frame


def rows(line: Mapping[str, Any], number: int = 1) -> Iterator[dict[str, Any]]:
    """Return a line's samples as rows, under the lab's names and in SI units."""
    n_prompt, n_gen, n_depth = line["n_prompt"], line["n_gen"], line.get("n_depth", 0)
    test = "+".join(f"{k}{n}" for k, n in (("pp", n_prompt), ("tg", n_gen)) if n)
    flash_attn, offload = line.get("flash_attn"), line.get("no_kv_offload")
    use_mmap, use_mlock = _loaded(line)
    common: dict[str, Any] = {
        "experiment": line.get("experiment", "llama-bench"),
        "trial_id": f"llama-bench-{number}",
        "status": "ok",
        "test": test + f" @ d{n_depth}" * bool(n_depth),
        "model": line.get("model_filename"),
        "prompt_tokens": n_prompt,
        "generated_tokens": n_gen,
        "n_depth": n_depth,
        "n_ctx": n_prompt + n_gen + n_depth,
        **{name: line.get(name) for name in _SAME},
        "n_threads_batch": line.get("n_threads"),
        "use_mmap": use_mmap,
        "use_mlock": use_mlock,
        "flash_attn": None if flash_attn is None or int(flash_attn) < 0 else bool(flash_attn),
        "offload_kqv": None if offload is None else not offload,
        "started_at": line.get("test_time"),
    }
    if "f16_kv" in line:
        common |= dict.fromkeys(("type_k", "type_v"), "f16" if line["f16_kv"] else "f32")
    if common["backends"] is None and any(name in line for name in _OLD_BACKENDS):
        used = [name for name in _OLD_BACKENDS if line.get(name)]
        common["backends"] = ",".join(used).upper() or "CPU"
    common |= {key: value for key, value in line.items() if key not in _TAKEN}
    samples = line.get("samples_ns")
    for repeat, nanoseconds in enumerate(samples or [line["avg_ns"]], start=1):
        seconds = nanoseconds / 1e9
        alone = {"prefill": n_prompt if not n_gen else 0, "decode": n_gen if not n_prompt else 0}
        yield common | {
            "repeat": repeat if samples else None,
            "total_s": seconds,
            **{f"{phase}_s": seconds if tokens else None for phase, tokens in alone.items()},
            **{f"{phase}_tps": tokens / seconds or None for phase, tokens in alone.items()},
        }


def _loaded(line: Mapping[str, Any]) -> tuple[bool | None, bool | None]:
    if "load_mode" in line:
        return LOAD_MODES.get(line["load_mode"], (None, None))
    flags = (line.get(name) for name in ("use_mmap", "use_mlock"))
    use_mmap, use_mlock = (None if flag is None else bool(flag) for flag in flags)
    return use_mmap, use_mlock


def write(frame: pd.DataFrame, path: str | Path, **fields: Any) -> int:
    """Write a run's frame as llama-bench's JSON lines; return how many.

    Parameters
    ----------
    frame
        Rows of a run, ``run.frame()``.
    path
        The file to write.
    **fields
        More of llama-bench's fields, such as ``cpu_info="AMD EPYC"``.

    Raises
    ------
    ParameterError
        If the frame is not that of a run, or has no generation that ended well.
    """
    made = [json.dumps(line) for line in lines(frame, **fields)]
    if not made:
        raise ParameterError(
            "the frame has no generation with status ok, so there is nothing to write; "
            "give the frame of a run that measured something."
        )
    Path(path).expanduser().write_text("\n".join(made) + "\n", encoding="utf-8")
    return len(made)


def lines(frame: pd.DataFrame, **fields: Any) -> Iterator[dict[str, Any]]:
    """Return a run's processes as llama-bench's results: a ``pp`` and a ``tg`` line for each.

    Only generations with status ``ok``; the first of a process is left out where more follow,
    as llama-bench leaves out its warm-up.
    """
    _need(frame, "trial_id", "status", "started_at")
    good = frame[frame["status"] == "ok"]
    if good.empty:
        return
    _need(frame, "repeat", "prefill_s", "decode_s", "prompt_tokens", "evaluated_tokens")
    # The steps of a walk are tests of their own, as llama-bench's depths are.
    names = ("run_id", "trial_id", "started_at", "depth_tokens")
    process = [name for name in names if name in good]
    for _, part in good.groupby(process, sort=False, dropna=False):
        kept = part[part["repeat"] > 0] if (part["repeat"] > 0).any() else part
        first = kept.iloc[0].to_dict()
        common = DEFAULTS | _common(first) | fields
        prompt, decoded = int(first["prompt_tokens"]), int(first["generated_tokens"]) - 1
        # Prefill that the way through hides is missing; a natural end makes lengths differ.
        same = kept[kept["generated_tokens"] == decoded + 1]
        told = kept["evaluated_tokens"].dropna()  # not by every server
        evaluated = int(told.iloc[0]) if len(told) else 0
        if prefill := [float(s) for s in kept["prefill_s"].dropna() if evaluated and s > 0]:
            yield common | _result(prefill, n_prompt=evaluated, n_depth=prompt - evaluated)
        if decode := [float(s) for s in same["decode_s"].dropna() if decoded > 0 and s > 0]:
            yield common | _result(decode, n_gen=decoded, n_depth=prompt)


def _need(frame: pd.DataFrame, *names: str) -> None:
    for name in names:
        if name not in frame:
            raise ParameterError(
                f"the frame has no column {name!r}; give the frame of a run, run.frame()."
            )


def _common(row: Mapping[Any, Any]) -> dict[str, Any]:
    def known(name: str, otherwise: Any = None) -> Any:
        found = (row.get(key) for key in (f"effective_{name}", name))
        return next((v for v in found if v is not None and v == v), otherwise)

    loading = (bool(known("use_mmap", True)), bool(known("use_mlock", False)))
    size = known("weights_bytes")
    return {
        "source": SOURCE,
        "build_commit": SOURCE,
        "backends": known("backend", "unknown"),
        "model_filename": known("model"),
        "model_type": known("model"),
        "model_size": None if size is None else int(size),
        "model_n_params": None,
        **{name: int(known(name, 0)) for name in ("n_batch", "n_ubatch", "n_threads")},
        "n_gpu_layers": int(known("n_gpu_layers", -1)),
        "type_k": known("type_k", "f16"),
        "type_v": known("type_v", "f16"),
        "no_kv_offload": not known("offload_kqv", True),
        "flash_attn": int(bool(known("flash_attn", False))),
        "load_mode": load_mode(*loading),
        "n_cpu_moe": int(known("n_cpu_moe", 0)),
        "no_op_offload": int(not known("op_offload", True)),
        "test_time": str(known("started_at", "")),
    }


def _result(
    seconds: list[float], n_prompt: int = 0, n_gen: int = 0, n_depth: int = 0
) -> dict[str, Any]:
    nanoseconds = [round(s * 1e9) for s in seconds]
    speeds = [(n_prompt + n_gen) / s for s in seconds]
    several = len(seconds) > 1
    return {
        "n_prompt": n_prompt,
        "n_gen": n_gen,
        "n_depth": n_depth,
        "avg_ns": round(statistics.fmean(nanoseconds)),
        "stddev_ns": round(statistics.stdev(nanoseconds)) if several else 0,
        "avg_ts": statistics.fmean(speeds),
        "stddev_ts": statistics.stdev(speeds) if several else 0.0,
        "samples_ns": nanoseconds,
        "samples_ts": speeds,
    }
