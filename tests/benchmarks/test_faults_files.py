"""A short form of ``python -m benchmarks.faults files``, and a proof that it can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults import damage, files
from llm_latency.errors import LabError
from llm_latency.measure import trial
from llm_latency.measure.job import Job
from llm_latency.model import synthetic
from llm_latency.records.record import Record


@pytest.mark.engine
def test_damaged_models_are_typed_records_and_harm_nothing() -> None:
    *_, verdict = files.report(count=25, seed=7)
    assert verdict.startswith("25 bad files: 25 typed records (")
    assert verdict.endswith("0 files written outside, no child left, parent alive")


def test_damage_is_the_same_for_the_same_seed_and_always_some(tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    synthetic.write_model(whole, files.SHAPE, "q8_0", name="small")
    where = damage.survey(whole)
    made = [damage.damaged(where, 0, number) for number in range(60)]
    assert made == [damage.damaged(where, 0, number) for number in range(60)]
    assert made != [damage.damaged(where, 1, number) for number in range(60)]
    changed = [content != where.content for _, content in made]
    assert sum(changed) >= 55  # now and then a byte is put in place of the same byte
    assert {what.split(":")[0] for what, _ in made} == set(damage.KINDS)


@pytest.mark.parametrize("fault", ["wrote", "raised", "is refused without a reason"])
def test_a_broken_promise_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def carry_out(job: Job) -> Record:
        if fault == "wrote":
            Path(job.model.name).with_name("beside").touch()
        if fault == "raised":
            raise ValueError
        return Record(
            run_id="r", trial=job.trial, status="refused", started_at="", child_s=0.1,
            reason="" if "reason" in fault else "why",
        )  # fmt: skip

    monkeypatch.setattr(trial, "carry_out", carry_out)
    with pytest.raises(LabError, match=f"2 of 2 files broke a promise: .*{fault}"):
        list(files.report(count=2))
