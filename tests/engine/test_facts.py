"""What the lab relies on of llama.cpp is so in the one that is installed."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from llm_latency.engine import facts
from llm_latency.engine.facts import Sizes
from llm_latency.errors import EngineError
from llm_latency.model.gguf import END_OF_FORMATS, FORMATS
from llm_latency.plan.settings import PADDING, UBATCH, KvType, Settings, padded
from tests.support.odd_models import of_format

pytestmark = pytest.mark.engine


def test_the_grid_of_contexts() -> None:
    assert [padded(n) for n in (1, PADDING, PADDING + 1)] == [PADDING, PADDING, 2 * PADDING]


@pytest.mark.parametrize(
    "asked",
    [
        Settings(n_ctx=1, n_batch=1),
        Settings(n_ctx=257, n_batch=1024),
        Settings(n_ctx=1024, n_batch=1024),
        Settings(n_ctx=1000, n_batch=600, n_ubatch=700),
        Settings(n_ctx=512, n_batch=256, n_ubatch=64),
    ],
)
def test_sizes_are_what_llama_cpp_makes_of_them(tiny: Path, asked: Settings) -> None:
    from llm_latency.engine.llama import Model

    with Model(tiny, asked) as model:
        real = model.effective
    assert facts.sizes_in_force(asked) == (real.n_ctx, real.n_batch, real.n_ubatch)


def test_number_formats_are_ggmls_own() -> None:
    import llama_cpp.llama_cpp as C

    library = C._lib
    library.ggml_type_name.restype = ctypes.c_char_p
    library.ggml_type_size.restype = ctypes.c_size_t
    library.ggml_blck_size.restype = ctypes.c_int64
    assert set(FORMATS) == set(get_args(KvType))
    for name, stored in FORMATS.items():
        assert library.ggml_type_name(stored.number) == name.encode()
        assert library.ggml_type_size(stored.number) == stored.block_bytes
        assert library.ggml_blck_size(stored.number) == stored.block_values


def test_a_batch_that_nobody_chose() -> None:
    import llama_cpp.llama_cpp as C

    assert C.llama_context_default_params().n_ubatch == UBATCH


def test_facts_are_read_without_the_engine() -> None:
    lines = "import sys, llm_latency.engine.facts; print('llama_cpp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, encoding="utf-8")
    assert done.stdout.strip() == "False", done.stderr


def test_a_call_is_computed_in_parts() -> None:
    uneven = Sizes(2048, 768, 512)  # calls of 768, each computed as 512 and 256
    assert [uneven.passes(n) for n in (1, 512, 513, 768, 769, 1536)] == [1, 1, 2, 2, 3, 4]
    assert uneven.borders(1600) == [512, 768, 1280, 1536]
    assert Sizes(2048, 2048, 2048).borders(2048) == []


def test_one_token_past_a_border_takes_one_pass_more() -> None:
    for sizes in (Sizes(2048, 2048, 512), Sizes(2048, 512, 512), Sizes(2048, 100, 64)):
        steps = [n for n in range(1, 2000) if sizes.passes(n + 1) > sizes.passes(n)]
        assert steps == sizes.borders(2000)


def test_formats_end_where_the_lab_says(tiny: Path, tmp_path: Path) -> None:
    from llm_latency.engine.llama import Model

    with pytest.raises(EngineError, match=rf"should be in \[0, {END_OF_FORMATS}\)"):
        Model(of_format(tiny, tmp_path / "fork.gguf", 200), Settings(n_ctx=256))
