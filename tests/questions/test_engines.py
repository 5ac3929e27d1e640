"""Which build of the engine is faster, and at what?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from llm_latency.errors import LabError, ParameterError
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Start
from llm_latency.questions import engines, module
from llm_latency.records.record import Record
from llm_latency.report import cards
from llm_latency.report.page import Rows
from tests.support import factories

CPU = "CPU : SSE3 = 1 | AVX = 1 | {}REPACK = 1 | "
CARD = {"versions": {"llama_cpp_python": "0.3.36"}, "build": {"engine": "portable"}}


def info(*names: str | None) -> dict[str, Any]:
    told = factories.info()
    cells = [{"start": {"engine": name}} for name in names]
    told["plan"] = told["plan"] | {"cells": cells, "experiment": "engines"}
    told["engine"] = told["engine"] | {"system_info": CPU.format("AVX2 = 1 | ")}
    others = {name: CARD | {"engine": {"system_info": CPU.format("")}} for name in names if name}
    return told | {"engines": others}


def trial(
    engine: str | None, round: int, rng: np.random.Generator, twin: bool = False,
    times: Mapping[str, float] | None = None, **options: Any,
) -> Record:  # fmt: skip
    """A trial whose decode, prefill and loading take some multiple of the usual time."""
    factor = float(np.exp(rng.normal(0, 0.002)))
    slower = {"decode": 1.0, "prefill": 1.0, "load": 1.0} | dict(times or {})
    return factories.record(
        Settings(n_ctx=512),
        round=round,
        twin=twin,
        rng=rng,
        start=Start(page_cache="resident", engine=engine),
        ttft=lambda _, count: count * 1e-3 * slower["prefill"] * factor,
        itl=lambda _, __: 0.01 * slower["decode"] * factor,
        load={"load_s": 0.06 * slower["load"] * factor},
        **options,
    )


def view(
    others: Mapping[str, Mapping[str, float]], rounds: int = 6,
    failed: Mapping[str | None, Any] | None = None, knows: bool = True,
) -> engines.View:  # fmt: skip
    rng = np.random.default_rng(0)
    names: list[str | None] = [None, *others]
    failed = dict(failed or {})
    made = [
        trial(name, round, rng, times=others.get(name or ""), failure=failed.get(name))
        for round in range(rounds)
        for name in names
    ]
    made += [
        trial(None, round, rng, twin=True, failure=failed.get(None)) for round in range(rounds)
    ]
    return engines.View(Rows(factories.to_frame(made), info(*names) if knows else {}))


@pytest.mark.parametrize("knows", [True, False])
def test_each_engine_is_told_at_what_it_is_faster(knows: bool) -> None:
    seen = view({"wide": {"prefill": 0.5, "load": 1.5}, "same": {}, "narrow": {"decode": 1.3}},
                knows=knows)  # fmt: skip
    assert (seen.base, seen.measured[0], set(seen.others)) == (
        "home", "home", {"wide", "same", "narrow"},
    )  # fmt: skip
    found = {
        name: [seen.against(name, column).verdict for column in ("token_s", "ttft_s", "load_s")]
        for name in seen.others
    }
    assert found == {
        "wide": ["same", "faster", "slower"],
        "same": ["same", "same", "same"],
        "narrow": ["slower", "same", "same"],
    }
    assert seen.against("narrow", "token_s").change == pytest.approx(0.3, abs=0.02)
    told = engines.answer(seen)
    assert told.verdict == "faster" and told.line.startswith("wide against home")
    assert len(told.sentences) == 5 and len(engines.deciding(seen)) == 6
    assert len(engines.table(seen)) == 4


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({"others": {}}, "undecided"),
        ({"others": {"b": {}}, "failed": {None: ("crashed", "SIGILL")}}, "undecided"),
        ({"others": {"b": {}}, "failed": {"b": ("crashed", "SIGILL")}}, "undecided"),
        ({"others": {"b": {}, "c": {"decode": 2.0}}, "failed": {"b": ("oom", "x")}}, "slower"),
        ({"others": {"b": {}}, "failed": {None: ("oom", "x"), "b": ("oom", "x")}}, "none"),
        ({"others": {"b": {"decode": 2.0}}, "rounds": 1}, "undecided"),
    ],
)
def test_a_page_survives_what_failed(options: dict[str, Any], verdict: str) -> None:
    seen = view(**options)
    assert engines.answer(seen).verdict == verdict
    assert len(engines.table(seen)) == len(seen.planned) == 1 + len(options["others"])
    engines.figure(seen)


def test_the_first_that_has_no_record_yet_is_still_the_first() -> None:
    rng = np.random.default_rng(0)
    rows = factories.to_frame([trial("wide", 0, rng)])
    seen = engines.View(Rows(rows, info(None, "wide")))
    assert seen.base == "home" and not seen.others
    assert engines.answer(seen).verdict == "undecided"
    engines.figure(seen)


def test_builds_stand_side_by_side_with_what_differs() -> None:
    table = cards.engines(info(None, "narrow")).set_index("")
    assert list(table.columns) == ["home", "narrow"]
    assert list(table.loc["AVX2"]) == ["1", "–"]
    assert table.loc["in force in all", "home"] == "SSE3, AVX, REPACK"
    assert "SSE3" not in table.index
    told = cards.features("CUDA : ARCHS = 860,900 | USE_GRAPHS = 1 | CPU : AVX = 1 | ")
    assert told == {"CUDA ARCHS": "860,900", "CUDA USE_GRAPHS": "1", "AVX": "1"}


def test_all_are_those_of_the_machine_and_the_first_is_measured_twice() -> None:
    plan = engines.plan()
    assert [c.start.engine for c in plan.cells] == [None, "again", None]
    assert [c.twin for c in plan.cells] == [False, False, True]
    assert plan.parameters["engine"] == ["home", "again"]
    turned = engines.plan(engine=["again", "home"])
    assert [c.start.engine for c in turned.cells] == ["again", None, "again"]
    with pytest.raises(ParameterError, match=r"engine=5 is refused: give a valid string"):
        engines.plan(engine=[5])


def test_a_sweep_takes_several_engines() -> None:
    plan = module("sweep").plan(n_ctx=512, n_batch=256, prompt_tokens=8, engine=["home", "again"])
    assert [c.start.engine for c in plan.cells] == [None, "again", "again"]


def test_releases_of_several_engines_are_told_apart_and_of_one_never_mixed() -> None:
    rng = np.random.default_rng(0)
    rows = factories.to_frame([trial(name, r, rng) for r in range(6) for name in (None, "old")])
    version = rows["engine"].map({"home": "0.3.36", "old": "0.3.30"})
    seen = engines.View(Rows(rows.assign(engine_version=version), info(None, "old")))
    assert seen.others == ["old"] and seen.against("old", "token_s").ratio.n == 6
    mixed = rows.assign(engine_version=["0.3.36"] * (len(rows) - 1) + ["0.3.30"])
    mixed = mixed[mixed["engine"] == "old"]
    with pytest.raises(LabError, match="2 versions of the engine"):
        engines.View(Rows(mixed, info(None, "old")))
