"""Tables beside the answers on warm-ups and warm runs: every figure with its interval."""

from __future__ import annotations

import pandas as pd

from llm_latency.report.tables import CAPTION, short
from llm_latency.views.first_replies import FirstReplies
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
