"""Whether a model fits: sizes as people write them, margins, and the way out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llm_latency as lab
from llm_latency.engine.dry_run import NotForetoldError
from llm_latency.errors import ParameterError
from llm_latency.memory.fits import fits, largest
from llm_latency.plan.sizes import size_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("6 GiB", 6 * 2**30), ("6GiB", 6 * 2**30), ("6g", 6 * 2**30), ("6 GB", 6 * 10**9),
        ("1.5 MiB", 3 * 2**19), ("512", 512), (1024, 1024), ("0", 0), ("2 tib", 2**41),
    ],
)  # fmt: skip
def test_sizes_as_people_write_them(text: object, size: int) -> None:
    assert size_bytes("budget", text) == size


@pytest.mark.parametrize("text", ["", "much", "6 GiBs", "-1", -1, True, None, "+1 GiB", [1]])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ParameterError, match=r"budget=.*6 GiB"):
        size_bytes("budget", text)


@given(st.integers(0, 5000))
def test_the_largest_that_works_is_found(edge: int) -> None:
    found = largest(lambda n_ctx: n_ctx <= edge * 256, 8192 * 256)
    assert found == (edge * 256 or None)


def test_the_margin_is_to_the_cliff() -> None:
    found = lab.fits("synthetic:tiny", "100 MiB", on="cpu", n_ctx=1024)
    assert found and found.fits and found.margin_bytes > 0
    assert found.largest_n_ctx is not None and found.largest_n_ctx > 1024
    at_edge = lab.fits("synthetic:tiny", "100 MiB", on="cpu", n_ctx=found.largest_n_ctx)
    beyond = lab.fits("synthetic:tiny", "100 MiB", on="cpu", n_ctx=found.largest_n_ctx + 256)
    assert at_edge.fits and at_edge.margin_tokens == 0
    assert not beyond and beyond.margin_bytes < 0
    assert "it fits" in str(at_edge) and "weights" in str(at_edge)
    assert f"the largest n_ctx that fits is {found.largest_n_ctx}" in str(beyond)


def test_no_context_fits_where_the_weights_do_not() -> None:
    found = fits("synthetic:tiny", "10 MiB", n_ctx=512)
    assert not found.fits and found.largest_n_ctx is None
    assert "no n_ctx fits" in str(found)
    # Fewer layers on the GPU need less of it.
    fewer = fits("synthetic:tiny", "10 MiB", n_ctx=512, n_gpu_layers=2, n_batch=64)
    assert fewer.parts.weights_bytes < found.parts.weights_bytes


def test_no_more_tokens_are_promised_than_the_model_was_trained_for() -> None:
    found = fits("synthetic:tiny", "64 GiB")
    assert found.largest_n_ctx == 8192 and found.margin_tokens == 8192 - 2048
    assert "trained for 8,192" in str(found)
    tight = fits("synthetic:tiny", "48 MiB")
    assert tight.largest_n_ctx is not None and tight.largest_n_ctx < 8192
    assert "trained" not in str(tight)


def test_a_cache_on_the_host_beside_layers_on_a_device_is_not_foretold() -> None:
    with pytest.raises(NotForetoldError, match="offload_kqv=false"):
        fits("synthetic:tiny", "1 GiB", offload_kqv=False)
    assert fits("synthetic:tiny", "1 GiB", on="cpu", offload_kqv=False)


def test_a_flat_cache_needs_less_with_smaller_numbers() -> None:
    wide, narrow = (
        fits("synthetic:tiny", "1 GiB", n_ctx=4096, flash_attn=True, type_k=kind, type_v=kind)
        for kind in ("f16", "q8_0")
    )
    assert narrow.parts.kv_bytes / wide.parts.kv_bytes == pytest.approx(34 / 64)


@pytest.mark.parametrize(
    ("given_", "words"),
    [({"n_bacth": 1}, "n_batch"), ({"on": "tpu"}, "on='tpu'"), ({"overhead": "x"}, "overhead='x'")],
)
def test_bad_input_is_refused_before_anything_is_read(
    given_: dict[str, object], words: str
) -> None:
    with pytest.raises(ParameterError, match=words):
        fits("synthetic:tiny", "1 GiB", **given_)  # type: ignore[arg-type]


def test_the_name_stays_a_function_whatever_is_imported() -> None:
    assert lab.answers and lab.plots and lab.experiments
    assert callable(lab.fits)
