"""Memory three times over: sentences that follow the data, bars, and the real thing."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import pytest

import llm_latency as lab
from llm_latency import answers, experiments, plots
from llm_latency.errors import ParameterError
from llm_latency.memory.predict import predict
from llm_latency.model.header import read_header
from llm_latency.plan.spec import Settings
from llm_latency.records.record import Buffers, ProcessMemory
from llm_latency.records.rows import rows
from llm_latency.views.ledger import ledgers
from tests.support import factories

MIB = 2**20
LOADED = {"model_file": 100, "engine": 40, "heap": 10, "python": 20, "code": 30}


@pytest.fixture
def header(tiny: Path) -> dict[str, Any]:
    return read_header(tiny).model_dump(mode="json")


def info(header: dict[str, Any] | None, **parameters: object) -> dict[str, Any]:
    found = factories.info()
    found["plan"]["parameters"] |= parameters
    return found | {"header": header}


def frame(grown: dict[str, int], error: float = 1.0, tiny: Path | None = None) -> Any:
    """Return the rows of a process that grows in some places, predicted with some error."""
    memory = {}
    for phase in ("after_load", "after_first", "after_last"):
        lie = {k: v * MIB for k, v in LOADED.items()}
        if phase != "after_load":
            lie = {k: lie.get(k, 0) + grown.get(k, 0) * MIB for k in {*lie, *grown}}
        memory[phase] = ProcessMemory(rss_bytes=sum(lie.values()), places=lie)
    settings = Settings(n_ctx=1024, n_batch=512, n_ubatch=512, n_gpu_layers=0)
    more: dict[str, Any] = {"memory": memory}
    if tiny is not None:
        parts = predict(read_header(tiny), settings).host.model_dump()
        sizes = {k: round(v / error) if k != "kv_bytes" else v for k, v in parts.items()}
        sizes.pop("overhead_bytes")
        more["buffers"] = Buffers(**sizes)
    return factories.to_frame([factories.record(settings, more=more)])


def said(df: Any, about: dict[str, Any]) -> str:
    text = html.unescape(str(answers.memory_ledger(df, about).data))
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("**", "")


def test_a_prediction_that_is_off_says_by_how_much(tiny: Path, header: dict[str, Any]) -> None:
    exact = said(frame({"engine": 20}, 1.0, tiny), info(header))
    assert "KV cache was predicted exactly" in exact
    off = said(frame({"engine": 20}, 1.25, tiny), info(header))
    assert "% more" in off and "% less" not in off
    less = said(frame({"engine": 20}, 0.8, tiny), info(header))
    assert "% less" in less
    assert "could not be predicted" in said(frame({"engine": 20}), info(None))


def test_growth_is_told_where_it_is(header: dict[str, Any]) -> None:
    touched = said(frame({"engine": 20, "heap": 1}), info(header))
    assert "first generation added 21.0 MiB" in touched
    assert "20.0 MiB in the engine's buffers" in touched and "explained" in touched
    assert "No weights were paged in" in touched
    paged = said(frame({"model_file": 433}), info(header))
    assert "433 MiB of the weights came into RAM only then" in paged
    assert "No weights" not in paged
    assert "added nothing" in said(frame({}), info(header))


def test_a_budget_is_answered_and_only_when_asked(tiny: Path, header: dict[str, Any]) -> None:
    df = frame({"engine": 20}, 1.0, tiny)
    assert "fit by the prediction" not in said(df, info(header))
    assert "1 of 1 cell fit" in said(df, info(header, budget="6 GiB"))
    small = said(df, info(header, budget="20 MiB"))
    assert "0 of 1 cell fit" in small
    with pytest.raises(ParameterError, match="budget='much'"):
        experiments.memory_ledger(budget="much")


def test_nothing_measured_and_all_failed() -> None:
    failed = factories.to_frame([factories.record(Settings(), failure=("oom", "no room"))])
    assert "No cell could be measured" in said(failed, info(None))
    ax = plots.memory_ledger(failed, info(None))
    assert "Nothing was measured" in ax.texts[0].get_text()


def test_bars_are_what_the_ledger_holds(tiny: Path, header: dict[str, Any]) -> None:
    df = frame({"engine": 20}, 1.0, tiny)
    (one,) = ledgers(df, info(header))
    assert one.growth()["engine"] == 20 * MIB
    ax = plots.memory_ledger(df, info(header))
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [
        "predicted", "allocated", "resident, loaded", "resident, first answer",
        "resident, last answer",
    ]  # fmt: skip
    texts = {text.get_text() for text in ax.texts}
    assert {"200", "220"} <= texts


@pytest.mark.engine
def test_a_real_run_is_predicted_and_explained(outputs: Path) -> None:
    plan = experiments.memory_ledger(n_ctx=1024, n_ubatch=[64, 512], prompt_tokens=520, rounds=1)
    run = lab.run(plan, progress=False)
    found = ledgers(run.frame(), run.info)
    assert len(found) == 2
    for one in found:
        assert 0.97 < one.ratio < 1.03
    text = said(run.frame(), run.info)
    assert "KV cache was predicted exactly" in text
    assert ", explained." in text
    assert len(answers.memory_ledger_table(run.frame(), run.info)) == 2
    assert rows(run.records()[0])[0]["engine_after_load_bytes"] > 0
