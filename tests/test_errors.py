"""Refusals are whole sentences, whether or not a name is near."""

from __future__ import annotations

import pytest

from llm_latency.errors import did_you_mean


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("n_bacth", "; did you mean 'n_batch'?"),
        ("MODEL.gguf", "; did you mean 'Model.gguf'?"),
        ("cold", "."),
        ("", "."),
    ],
)
def test_a_refusal_ends_before_what_is_allowed(name: str, ending: str) -> None:
    assert did_you_mean(name, ["n_batch", "resident", "Model.gguf"]) == ending


def test_inside_brackets_nothing_ends() -> None:
    assert did_you_mean("cold", ["resident"], "") == ""
