"""What to expect: counted from the plan, sized from the header; what nobody can know is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_latency import experiments
from llm_latency.model.header import Tensor, read_header
from llm_latency.plan.spec import Plan
from llm_latency.report import expect as module
from llm_latency.report.expect import expect, token_bytes
from llm_latency.words import duration


@pytest.fixture(autouse=True)
def _known_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "read_bytes_per_s", lambda folder: 1e10)


def card(plan: Plan) -> dict[str, str]:
    return dict(expect(plan).itertuples(index=False, name=None))


def test_the_card_counts_processes_tokens_and_bytes(tiny: Path) -> None:
    plan = experiments.memory_ledger(model=str(tiny), rounds=3, max_tokens=16)
    told = card(plan)
    assert told["measured"] == "4 cells × 3 rounds, 1 of them twice: 15 fresh processes"
    header = read_header(tiny)
    assert told["weights"] == f"{header.file_bytes / 2**20:.1f} MiB in the file"
    per_token = sum(2 * heads * 2 * header.key_width for heads in header.n_head_kv)
    assert told["KV cache"] == f"{per_token:,} bytes per token of context"
    tokens = 5 * 3 * 16 * 2
    read = token_bytes(header)
    assert read is not None
    assert told["time"].startswith(f"{duration(tokens * read / 1e10)} for {tokens} tokens")


def test_how_long_it_takes_is_known_or_said_to_be_unknown(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = experiments.sweep(model=str(tiny), rounds=10)
    monkeypatch.setattr(module, "round_s", lambda *_: None)
    assert card(plan)["takes"] == "known after the first round"
    monkeypatch.setattr(module, "round_s", lambda *_: 30.0)
    assert "about 5.00 minutes" in card(plan)["takes"]
    assert "at most" in card(plan.model_copy(update={"stop_when_decided": True}))["takes"]
    timed = card(plan.model_copy(update={"minutes": 4.0}))["takes"]
    assert timed.startswith("4.00 minutes, about 8 rounds")
    timed = card(plan.model_copy(update={"minutes": 0.25}))["takes"]
    assert timed.startswith("15.0 s, about 50 % of a round")


def test_answers_that_end_by_themselves_have_no_time(tiny: Path) -> None:
    plan = experiments.memory_ledger(model=str(tiny))
    work = plan.cells[0].workload.model_copy(update={"length": "natural"})
    cells = (plan.cells[0].model_copy(update={"workload": work}), *plan.cells[1:])
    assert "not foretold" in card(plan.model_copy(update={"cells": cells}))["time"]


def test_of_a_file_without_a_header_nothing_is_foretold(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF and no more")
    told = card(experiments.memory_ledger(model=str(broken)))
    assert set(told) == {"measured", "takes", "model"}
    assert told["model"].startswith("not foretold: ")


def test_a_token_reads_the_weights_that_take_part_in_it(tiny: Path) -> None:
    header = read_header(tiny)
    table = next(t for t in header.tensors if t.name == "token_embd.weight")
    others = tuple(t for t in header.tensors if t.name not in (table.name, "output.weight"))
    rest = sum(t.bytes for t in others)
    output = table.model_copy(update={"name": "output.weight"})
    expert = Tensor(name="blk.0.ffn_up_exps.weight", kind="f16", dims=(1, 1, 8), bytes=16)
    read = {
        name: token_bytes(header.model_copy(update={"tensors": tensors}))
        for name, tensors in {
            "tied": (table, *others),
            "apart": (table, output, *others),
            "experts": (table, output, *others, expert),
        }.items()
    }
    assert read == {"tied": rest + table.bytes, "apart": rest + table.bytes, "experts": None}
    routed = header.model_copy(
        update={"tensors": (table, output, *others, expert), "n_expert": 8, "n_expert_used": 2}
    )
    assert token_bytes(routed) == read["apart"] + 4


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0042, "4.20 ms"),
        (1.0, "1.00 s"),
        (119, "119 s"),
        (150, "2.50 minutes"),
        (9000, "2.50 hours"),
    ],
)
def test_a_duration_has_the_unit_in_which_it_reads_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
