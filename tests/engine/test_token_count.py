"""How many tokens a user's own prompt has, told before a weight is read."""

from __future__ import annotations

from pathlib import Path

import pytest

import llm_latency as lab
from llm_latency import experiments
from llm_latency.engine import token_count
from llm_latency.errors import LabError, ParameterError
from llm_latency.plan.workload import Message, Workload

pytestmark = pytest.mark.engine

CHAT = Workload(messages=(Message(role="user", content="Good evening"),))


def test_what_does_not_fit_is_refused_before_a_run(outputs: Path) -> None:
    plan = experiments.sweep(prompt="evening " * 300, n_ctx=[256, 512], n_batch=64, rounds=1)
    with pytest.raises(ParameterError, match=r"n_ctx=256 is refused: the prompt has 30\d tokens"):
        lab.run(plan, progress=False)
    assert not list(outputs.glob("runs/*/run.json"))


def test_a_text_too_short_to_show_a_loss_is_refused_before_a_run(outputs: Path) -> None:
    plan = experiments.kv_types(prompt="Good evening", type_k="q8_0", type_v="q8_0", rounds=1)
    with pytest.raises(ParameterError, match=r"it has \d tokens, .* told by 64 or more"):
        lab.run(plan, progress=False)
    assert not list(outputs.glob("runs/*/run.json"))


def test_as_many_are_counted_as_are_evaluated(outputs: Path, tiny: Path) -> None:
    plan = experiments.sweep(
        prompt=[{"role": "user", "content": "Good evening"}], n_ctx=256, n_batch=64, rounds=1,
        repeats=0, max_tokens=4,
    )  # fmt: skip
    rows = lab.run(plan, progress=False).frame()
    assert set(rows["status"]) == {"ok"} and set(rows["chat_form"]) == {"template"}
    assert set(rows["evaluated_tokens"]) == {token_count.count(tiny, CHAT)}


def test_a_vocabulary_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\xff" * 64)
    with pytest.raises(LabError, match="cannot be counted"):
        token_count.count(broken, CHAT)
