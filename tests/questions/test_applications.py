"""What does the way in cost?"""

from __future__ import annotations

from typing import Any

import matplotlib
import pandas as pd
import pytest

from llm_latency.errors import ParameterError
from llm_latency.plan.settings import Settings
from llm_latency.plan.workload import Workload
from llm_latency.questions import applications
from llm_latency.records.record import Record
from llm_latency.report.page import Rows
from tests.support import factories

matplotlib.use("Agg")
INFO = factories.info()
TOKENS = 9
ADDED = {"engine": 0.0, "generate": 0.0001, "stream": 0.0005, "chat": 0.0006, "server": 0.002}
"""Seconds that a way adds to each token, besides sampling."""
EVALUATED, SAMPLED, TEMPLATE = 0.01, 0.001, 0.004


def trial(
    via: str, round: int, twin: bool = False, at_once: int | None = None, **options: Any
) -> Record:
    work = Workload(
        **{"prompt_tokens": 100, "template": "own", "max_tokens": TOKENS, "repeats": 0},
        via=via,
        at_once=at_once,
    )  # type: ignore[arg-type]
    one = factories.record(
        Settings(n_ctx=512), round=round, twin=twin, workload=work, order=round, **options
    )
    if not one.generations:
        return one
    drift = 1 + 0.0005 * round
    token = (EVALUATED + SAMPLED + ADDED[via]) * drift
    first = (0.1 + SAMPLED + TEMPLATE * (via == "chat")) * drift
    served = via == "server"
    times = one.generations[0].timings.model_copy(
        update={
            "ttft_s": first,
            "decode_s": token * (TOKENS - 1),
            "total_s": first + token * (TOKENS - 1),
            # The server counts its sampling as evaluation.
            "engine_prefill_s": (0.1 + SAMPLED * served) * drift,
            "engine_decode_s": (EVALUATED + SAMPLED * served) * drift * (TOKENS - 1),
            "sampling_s": None if served else SAMPLED * TOKENS * drift,
            "template_s": TEMPLATE * drift if via == "chat" else None,
        }
    )
    many = at_once or 1
    told = one.generations[0].model_copy(
        update={"timings": times, "together_tps": 50.0 * many**0.5 if served else None}
    )
    return one.model_copy(update={"generations": [told]})


def frame(
    ways: Any = tuple(ADDED), rounds: int = 6, failed: dict[str, Any] | None = None
) -> pd.DataFrame:
    records = [
        trial(via, round, failure=(failed or {}).get(via))
        for round in range(rounds)
        for via in ways
    ]
    return factories.to_frame([*records, *(trial("engine", r, twin=True) for r in range(rounds))])


def view(**options: Any) -> applications.View:
    return applications.View(Rows(frame(**options), INFO))


def test_what_each_way_adds_is_told_apart() -> None:
    seen = view()
    for via, added in ADDED.items():
        rest = seen.estimate(via, "token_rest_s").median
        assert rest == pytest.approx(added, abs=2e-5)
        first = seen.estimate(via, "first_rest_s").median
        assert first == pytest.approx(0, abs=2e-5)
    assert seen.added("chat", applications.FIRST)["template"] == pytest.approx(TEMPLATE, rel=0.01)
    verdicts = {way: seen.against(way, "token_s").verdict for way in seen.others}
    assert verdicts == {
        "generate": "same",
        "stream": "slower",
        "chat": "slower",
        "server": "slower",
    }
    told = applications.answer(seen)
    assert told.verdict == "slower" and told.line.startswith("server")
    assert len(told.sentences) == 5


def test_advice_follows_what_is_largest() -> None:
    sampling = applications.answer(view(ways=("engine", "generate"))).text
    assert "whole vocabulary" in sampling
    assert "HTTP" in applications.answer(view()).text


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({"ways": ("engine",)}, "undecided"),
        ({"failed": {"engine": ("crashed", "SIGSEGV")}}, "undecided"),
        ({"failed": {"server": ("refused", "it has not been built")}}, "slower"),
        ({"ways": ("chat",), "failed": {"chat": ("oom", "none left")}}, "none"),
        ({"rounds": 1}, "undecided"),
    ],
)
def test_a_page_survives_what_failed(options: dict[str, Any], verdict: str) -> None:
    seen = view(**options)
    assert applications.answer(seen).verdict == verdict
    assert len(applications.table(seen)) == len(seen.planned)
    applications.figure(seen)


def test_several_at_once_share_the_context() -> None:
    crowds = [trial("server", round, at_once=4) for round in range(6)]
    seen = applications.View(Rows(pd.concat([frame(), factories.to_frame(crowds)]), INFO))
    assert seen.crowds == [1, 4] and seen.measured == list(ADDED)
    told = applications.crowd(seen)
    assert list(told["n_ctx each"]) == ["512", "128"]
    assert [text.split()[0] for text in told["all together, tok/s"]] == ["50.0", "100"]
    assert "Of 4 requests at once" in applications.answer(seen).text
    with pytest.raises(ParameterError, match=r"give n_ctx=2048 or more"):
        applications.plan(at_once=[1, 8])


def test_the_base_is_always_measured_and_twice() -> None:
    plan = applications.plan(via="chat", temperature=0.7)
    assert [c.workload.via for c in plan.cells] == ["engine", "chat", "engine"]
    assert [
        c.workload.at_once for c in applications.plan().cells if c.workload.via == "server"
    ] == [*(None, 2, 4)]
    assert {c.workload.sampling.temperature for c in plan.cells if c.workload.sampling} == {0.7}
    assert [c.twin for c in plan.cells] == [False, False, True]
