"""Engines of this machine: found by name or path, or refused with those that there are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llm_latency.errors import ParameterError
from llm_latency.machine import interpreters
from llm_latency.measure.job import worker_command
from llm_latency.plan.spec import Start, Trial
from llm_latency.questions import module


def test_a_name_is_an_environment_and_none_is_the_one_at_home(engine_beside: Path) -> None:
    (engine_beside / "not an environment").mkdir(exist_ok=True)
    assert interpreters.there_are() == ["home", "again"]
    assert interpreters.interpreter(None) == Path(sys.executable)
    # Not resolved: by its own path an interpreter knows its environment.
    assert interpreters.interpreter("again").parents[1] == engine_beside / "again"
    assert worker_command("again")[0] == str(engine_beside / "again" / "bin" / "python")
    assert worker_command()[0] == sys.executable


def test_a_path_is_an_environment_or_its_interpreter(engine_beside: Path) -> None:
    place = engine_beside / "again"
    python = place / "bin" / "python"
    assert interpreters.interpreter(str(place)) == interpreters.interpreter(str(python)) == python


@pytest.mark.parametrize("engine", ["agian", "/no/such/place", "~nobody/x", "..", "x" * 300])
def test_an_engine_that_is_not_here_is_refused_with_those_that_are(engine: str) -> None:
    with pytest.raises(ParameterError, match=r"^engine=.* is refused.*There are: home, again;"):
        interpreters.interpreter(engine)


def test_without_a_folder_there_is_the_engine_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(interpreters.FOLDER_VARIABLE, str(tmp_path / "none"))
    assert interpreters.there_are() == ["home"]


def test_the_engine_is_part_of_a_cell_where_one_is_named() -> None:
    usual, named, home = module("engines").plan(engine=["home", "again"], rounds=1).cells
    assert usual.cell_id == home.cell_id != named.cell_id
    without = {"model": usual.model, "settings": usual.settings, "workload": usual.workload}
    start = Start(page_cache="resident")
    assert Trial(experiment="x", start=start, **without).cell_id == usual.cell_id  # type: ignore[arg-type]
