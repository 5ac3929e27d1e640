"""Notebooks whose model lies on a device beside the CPU, by the real papermill and llama.cpp."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_latency.__main__ import main
from llm_latency.records.many import load_runs
from tests.support.factories import SecondDevice

pytestmark = [pytest.mark.notebook, pytest.mark.engine]
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
LAYERS = 9
"""Of synthetic:tiny, with its output layer."""
DEVICE_WEIGHTS_BYTES = 10 << 20
"""What they take there, at least; what is computed with comes on top."""


@pytest.mark.parametrize(
    ("notebook", "given"),
    [
        ("sweep", {"n_ctx": 512, "n_batch": 128, "prompt_tokens": 32, "repeats": 0}),
        ("context_size", {"n_ctx": 512}),
        ("batch_size", {"n_batch": "[128, 256]", "n_ubatch": 128, "prompt_tokens": 256}),
        ("memory_ledger", {"n_ctx": "[512, 1024]", "n_ubatch": 128, "prompt_tokens": 128}),
    ],
)
def test_a_notebook_measures_a_model_on_a_device(
    tmp_path: Path,
    outputs: Path,
    second_device: SecondDevice,
    notebook: str,
    given: dict[str, object],
) -> None:
    size = 1 << 30
    second_device(size)
    out = tmp_path / "out.ipynb"
    given = {"n_gpu_layers": -1, "max_tokens": 4, "rounds": 1} | given
    small = [str(word) for name, value in given.items() for word in ("-p", name, value)]
    quiet = ["--no-progress-bar", "--log-level", "ERROR"]
    assert main(["run", str(NOTEBOOKS / f"{notebook}.ipynb"), str(out), *quiet, *small]) == 0
    assert "INCOMPLETE" not in out.with_suffix(".html").read_text(encoding="utf-8")
    frame = load_runs(outputs / "runs" / "*")
    assert set(frame["status"]) == {"ok"}
    assert set(frame["effective_n_gpu_layers"]) == {LAYERS}
    assert set(frame["effective_offload_kqv"]) == {True}
    # The device's own account, of the whole of what it holds.
    assert set(frame["vram_source"]) == {"engine"}
    assert set(frame["vram_total_bytes"]) == {size}
    held = frame["vram_delta_bytes"] - frame["kv_bytes"]
    assert held.between(DEVICE_WEIGHTS_BYTES, 5 * DEVICE_WEIGHTS_BYTES).all()
