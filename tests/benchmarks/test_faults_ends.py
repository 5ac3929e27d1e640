"""A short form of ``python -m benchmarks.faults ends``, and a proof that it can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults import ends
from llm_latency.errors import LabError
from llm_latency.plan.settings import Settings
from tests.support import factories

SHORT = (
    "more than its memory limit of 64 MiB",
    "SIGKILL by somebody",
    "SIGSTOP",
    "its mapped model cut off",
    "a model whose norms divide by nothing that is a number",
    "type_v='q4_0' without flash_attn",
    "a model with a broken chat template",
)


@pytest.mark.engine
@pytest.mark.parametrize("what", SHORT)
def test_the_real_engine_ends_as_promised(what: str, tmp_path: Path) -> None:
    end = next(end for end in ends.ENDS if end.what == what)
    line = ends.shown(end.what, end.record(tmp_path), end.status, end.words)
    assert line.startswith(f"{what} -> {end.status}: ")


def test_another_end_than_the_promised_one_is_found() -> None:
    record = factories.record(Settings(), failure=("oom", "no room"))
    assert ends.shown("x", record, "oom", ["room"]) == "x -> oom: no room"
    with pytest.raises(LabError, match="x -> oom: no room; promised was crashed"):
        ends.shown("x", record, "crashed", [])
    with pytest.raises(LabError, match="promised was oom, with \\['llama'\\]"):
        ends.shown("x", record, "oom", ["room", "llama"])
