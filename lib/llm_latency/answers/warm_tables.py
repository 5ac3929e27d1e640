"""Tables beside the answers on warm-ups and warm runs: every figure with its interval."""

from __future__ import annotations

from typing import Any

import pandas as pd

from llm_latency.report.tables import CAPTION, short
from llm_latency.views.first_replies import FirstReplies
from llm_latency.views.runs_of_process import WHEN, Question, Runs, When
from llm_latency.words import MIB, MS, number


def warm_up_table(df: pd.DataFrame) -> pd.DataFrame:
    """Return one row per page cache, prompt and strategy: load, warm-up, TTFT, RAM, disk.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    replies = FirstReplies(df)
    rows = []
    for place, kinds in replies.measured.items():
        for kind in kinds:
            at = (place, kind)
            rows.append(
                {
                    "page cache": place.page_cache,
                    "first prompt, tokens": f"{place.prompt:.0f}",
                    "warm-up": kind,
                    "load with it, ms": short(replies.estimate("load_s", *at), MS),
                    "load without it, ms": short(replies.estimate("proper_s", *at), MS),
                    "warm-up, ms": short(replies.estimate("warm_up_s", *at), MS),
                    "first TTFT, ms": short(replies.estimate("ttft_s", *at), MS),
                    "later TTFT, ms": short(replies.estimate("ttft_s", *at, later=True), MS),
                    "RAM after load, MiB": number(
                        replies.estimate("rss_after_load_bytes", *at).median * MIB
                    ),
                    "RAM peak, MiB": number(replies.estimate("rss_peak_bytes", *at).median * MIB),
                    "file, MiB": number(replies.estimate("state_bytes", *at).median * MIB),
                }
            )
    table = pd.DataFrame(rows)
    table.attrs["caption"] = CAPTION
    return table


def warm_runs_table(df: pd.DataFrame) -> pd.DataFrame:
    """Return one row per prompt and mode: first and warm, in time, tokens and speed.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    runs = Runs(df)
    rows = []
    for question in runs.measured:
        row: dict[str, Any] = {"prompt, tokens": f"{question.prompt:.0f}", "cache": question.mode}
        for when in WHEN:
            at: tuple[Question, When] = (question, when)
            speed = 1 / runs.estimate("per_token_s", *at).median
            row |= {
                f"{when}: evaluated": number(runs.estimate("evaluated_tokens", *at).median, 0),
                f"{when}: TTFT, ms": short(runs.estimate("ttft_s", *at), MS),
                f"{when}: total, ms": short(runs.estimate("total_s", *at), MS),
                f"{when}: tok/s": number(speed),
            }
        rows.append(row)
    table = pd.DataFrame(rows)
    table.attrs["caption"] = f"{CAPTION} warm: a process counts with the median of its warm runs."
    return table


def warm_runs_one_process(df: pd.DataFrame) -> pd.DataFrame:
    """Return the warm runs of one process as a benchmark of one process reports them.

    Parameters
    ----------
    df
        Rows of a run, ``run.frame()``.
    """
    runs = Runs(df)
    rows = []
    for question in runs.measured:
        one = runs.held(question)
        if one is None:
            continue
        times = one.totals * MS
        rows.append(
            {
                "prompt, tokens": f"{question.prompt:.0f}",
                "cache": question.mode,
                "runs": str(len(times)),
                "mean, ms": number(times.mean()),
                "median, ms": number(times.median()),
                "min, ms": number(times.min()),
                "max, ms": number(times.max()),
                "sd, ms": number(times.std()),
                "mean's 95 % if independent, ± ms": number(one.half_s * MS),
                "holds other processes": f"{one.held} of {one.others}",
                "over processes, ms": short(runs.estimate("total_s", question, "warm"), MS),
            }
        )
    table = pd.DataFrame(rows)
    table.attrs["caption"] = (
        "Total latency of the warm runs of one process, that of the first round; how many medians "
        "of other processes the interval of its mean holds; and the estimate over all processes."
    )
    return table
