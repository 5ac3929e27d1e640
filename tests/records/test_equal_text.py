"""One seed, one answer, where llama.cpp promises it. The answers are made up."""

from __future__ import annotations

import pytest

from llm_latency.plan.settings import Settings
from llm_latency.plan.workload import Sampling, Workload
from llm_latency.records.equal_text import judged
from llm_latency.records.record import Record
from tests.support import factories


def answers(*texts: str | None, sampling: Sampling | None, gpu: bool = False) -> list[Record]:
    workload = Workload(prompt_tokens=64, max_tokens=4, repeats=0, sampling=sampling)
    made = []
    for round, text in enumerate(texts):
        one = factories.record(Settings(n_ctx=512), round=round, workload=workload, gpu=gpu)
        told = one.generations[0].model_copy(update={"text_sha256": text})
        made.append(one.model_copy(update={"generations": [told]}))
    return made


@pytest.mark.parametrize(
    ("texts", "sampling", "gpu", "broken"),
    [
        (("a", "a", "a"), Sampling(), False, []),
        (("a", "b", "a"), Sampling(), False, [1]),
        (("a",), Sampling(), False, []),
        ((None, None), Sampling(), False, []),  # measured before answers were compared
        (("a", "b", "a"), None, False, []),  # greedily nothing is drawn
        (("a", "b", "a"), Sampling(), True, []),  # a GPU promises nothing
    ],
)
def test_another_answer_by_the_same_seed_is_invalid(
    texts: tuple[str | None, ...], sampling: Sampling | None, gpu: bool, broken: list[int]
) -> None:
    records = answers(*texts, sampling=sampling, gpu=gpu)
    assert [n for n, one in enumerate(judged(records)) if one.status == "invalid"] == broken
    frame = factories.to_frame(records)
    assert list(frame.loc[frame["status"] == "invalid", "round"]) == broken
