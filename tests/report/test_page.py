"""A page's frame: what stands on it is for readers who have another machine."""

from __future__ import annotations

from llm_latency.report import page
from tests.support.pages import plain


def test_a_model_is_named_by_its_file() -> None:
    assert plain(page.model_name({"model": {"name": "/home/anna/a_b.gguf"}})) == "a_b.gguf"
    assert plain(page.model_name({"model": {"name": "synthetic:tiny"}})) == "synthetic:tiny"
    assert page.model_name({}) == "the model"


def test_numbers_keep_their_units_beside_them() -> None:
    text = page.with_units("402 ms (398–410 ms, 2 % off, n = 6) in a run = 3")
    assert text.replace("\N{NO-BREAK SPACE}", "_").split(" ") == [
        *("402_ms", "(398–410_ms,", "2_%", "off,", "n_=_6)", "in", "a", "run", "=", "3")
    ]
