"""What a KV cache loses: by hand, and through the real engine on a model that knows something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llm_latency.engine import prompts
from llm_latency.engine.quality import difference, quality
from llm_latency.engine.timed import TimedModel
from llm_latency.errors import EngineError
from llm_latency.plan.settings import KvType, Settings
from llm_latency.plan.workload import LOSS_BLOCK, Workload
from llm_latency.records.generation import Quality


def test_a_difference_by_hand() -> None:
    wanted = np.log(np.array([0.5, 0.25, 0.25], dtype=np.float32))
    found = np.log(np.array([0.25, 0.5, 0.25], dtype=np.float32)) + 3  # a constant says nothing
    told = difference(found, wanted)
    assert told.divergence == pytest.approx(0.5 * np.log(2) - 0.25 * np.log(2), abs=1e-6)
    assert told.same_token == 0 and told.probability_change == pytest.approx(0.25, abs=1e-6)
    assert difference(wanted, wanted) == (0, 1, 0)


def lost(path: Path, kind: KvType, n_tokens: int) -> Quality:
    """Return what a format in both K and V loses."""
    settings = Settings(n_ctx=512, flash_attn=True, type_k=kind, type_v=kind, n_threads=1)
    with TimedModel(path, settings) as model:
        asked = Workload(prompt_tokens=n_tokens, quality_against="f16")
        return quality(model, prompts.reading(model, asked), "f16")


@pytest.mark.engine
def test_fewer_bits_lose_more_and_f16_nothing(tiny: Path) -> None:
    kinds: tuple[KvType, ...] = ("f16", "q8_0", "q4_0")
    none, little, much = (lost(tiny, kind, 2 * LOSS_BLOCK + 5) for kind in kinds)
    assert none.divergence == [0.0, 0.0] and none.same_token == [1.0, 1.0]
    assert none.probability_change == [0.0, 0.0] and none.problem is None
    assert max(little.divergence) < min(much.divergence) and min(little.divergence) > 0
    assert little.problem is None and much.problem is None


@pytest.mark.engine
def test_a_text_that_is_too_short_or_too_long_is_refused(tiny: Path) -> None:
    with TimedModel(tiny, Settings(n_ctx=256, n_threads=1)) as model:
        for count in (LOSS_BLOCK - 1, 257):
            with pytest.raises(EngineError, match=f"a text of {count} tokens shows no loss"):
                quality(model, [1] * count, "f16")
