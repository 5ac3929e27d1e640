"""The lab's speed over llama-bench's: a ratio per pair of processes, and where the rest goes.

The process is the sample: each is reduced to its quickest run, each pair to one ratio, and
the estimate is the median of the ratios with its interval. What disturbs the machine for longer
than a pair falls on both sides of a ratio.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llm_latency.records import llama_bench
from llm_latency.records.record import Generation, Record

if TYPE_CHECKING:
    import pandas as pd

BAND = (0.98, 1.02)
"""Within these bounds the lab's figure is called llama.cpp's speed."""

COLUMNS = (
    "pair_id", "test", "tokens", "n_threads", "pair", "first", "tool", "sample", "status",
    "reason", "seconds", "engine_s", "sampling_s", "disturbed",
)  # fmt: skip
"""Columns of :func:`rows`."""

PREFILL, USER, ENGINE = "prefill", "decode, with sampling", "decode, evaluation alone"
MEASURES = {"pp": {PREFILL: "seconds"}, "tg": {USER: "seconds", ENGINE: "engine_s"}}
"""What is compared in each kind of test, and the lab's column for it."""

PARTS = ("llama-bench", "evaluation", "sampling", "binding", "lab")
"""Parts of a decoded token's time: from llama-bench's, by what is added, to the lab's."""


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
    return {
        "seconds": times.total_s,
        "engine_s": times.engine_prefill_s + times.engine_decode_s,
    }


def processes(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per pair: the quickest sample of its two processes, in seconds per token.

    What else happens on a machine only adds time, so the quickest is the least disturbed; see
    :mod:`llm_latency.stats.compare`.

    Columns: ``n_threads, test, pair``, ``lab``, ``engine``, ``sampling`` and ``llama_bench``
    (NaN where a process failed), ``failed`` and ``disturbed``.
    """
    import pandas as pd

    keys = ["n_threads", "test", "pair"]
    made = []
    for values, part in frame.groupby(keys, sort=True):
        good = part[part["status"] == "ok"]
        lab, other = (good[good["tool"] == tool] for tool in ("lab", "llama-bench"))
        tokens = part["tokens"].iloc[0]

        def quickest(rows: pd.DataFrame, column: str) -> float:
            return float(pd.to_numeric(rows[column]).min())

        made.append(
            dict(zip(keys, values, strict=True))
            | {
                "lab": quickest(lab, "seconds") / tokens,
                "engine": quickest(lab, "engine_s") / tokens,
                # One sampling is of one token already.
                "sampling": float(pd.to_numeric(part["sampling_s"]).median()),
                "llama_bench": quickest(other, "seconds") / tokens,
                "failed": bool((part["status"] != "ok").any()),
                "disturbed": bool((part["disturbed"] != "").any()),
            }
        )
    columns = [*keys, "lab", "engine", "sampling", "llama_bench", "failed", "disturbed"]
    return pd.DataFrame(made, columns=columns)


def ratios(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per test, threads and measure: the lab's speed over llama-bench's.

    Columns: ``n_threads, test, measure``; ``ratio, low, high, n, kind`` (above 1 the lab is the
    faster; see :mod:`llm_latency.stats.estimate`); ``lab_tps, llama_bench_tps`` (medians);
    ``failed`` and ``disturbed`` (how many pairs).

    Parameters
    ----------
    frame
        Rows of a calibration, ``run.frame()``.
    """
    import pandas as pd

    from llm_latency.stats.estimate import estimate

    made = []
    pairs = processes(frame)
    for (threads, test), part in pairs.groupby(["n_threads", "test"], sort=False):
        for measure, column in MEASURES[str(test)[:2]].items():
            mine = part["engine" if column == "engine_s" else "lab"]
            found = estimate(part["llama_bench"] / mine)
            made.append(
                {
                    "n_threads": threads,
                    "test": test,
                    "measure": measure,
                    "ratio": found.median,
                    "low": found.low,
                    "high": found.high,
                    "n": found.n,
                    "kind": found.kind,
                    "lab_tps": 1 / mine.median(),
                    "llama_bench_tps": 1 / part["llama_bench"].median(),
                    "failed": int(part["failed"].sum()),
                    "disturbed": int(part["disturbed"].sum()),
                }
            )
    columns = ["n_threads", "test", "measure", "ratio", "low", "high", "n", "kind"]
    columns += ["lab_tps", "llama_bench_tps", "failed", "disturbed"]
    table = pd.DataFrame(made, columns=columns)
    place = table["test"].str.extract(r"(?P<kind>\D+)(?P<size>\d+)").astype({"size": float})
    order = table.assign(kind_=place["kind"], size_=place["size"]).sort_values(
        ["n_threads", "kind_", "size_"], kind="stable"
    )
    return table.loc[order.index].reset_index(drop=True)


def parts(frame: pd.DataFrame) -> pd.DataFrame:
    """Return where a decoded token's time goes, in seconds per token, for each thread count.

    From ``llama-bench``'s time to the ``lab``'s: ``evaluation`` is llama.cpp's own count in the
    lab less llama-bench's time, ``sampling`` one choice over the whole vocabulary as the probe
    clocked it, ``binding`` what is left (Python, ctypes, the time stamps). Each part is the
    median over pairs of what was measured in that pair, so the parts add up only nearly.

    Parameters
    ----------
    frame
        Rows of a calibration, ``run.frame()``.
    """
    import pandas as pd

    from llm_latency.stats.estimate import estimate

    made = []
    pairs = processes(frame)
    decode = pairs[pairs["test"].str.startswith("tg")]
    for threads, part in decode.groupby("n_threads"):
        seconds = {
            "llama-bench": part["llama_bench"],
            "evaluation": part["engine"] - part["llama_bench"],
            "sampling": part["sampling"],
            "binding": part["lab"] - part["engine"] - part["sampling"],
            "lab": part["lab"],
        }
        for name in PARTS:
            found = estimate(seconds[name])
            bounds = {"median_s": found.median, "low_s": found.low, "high_s": found.high}
            made.append(
                {"n_threads": threads, "part": name, **bounds, "n": found.n, "kind": found.kind}
            )
    columns = ["n_threads", "part", "median_s", "low_s", "high_s", "n", "kind"]
    return pd.DataFrame(made, columns=columns)
