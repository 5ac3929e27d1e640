"""Every way a child can end becomes one record with the right status."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from factories import FakeChild

from llm_latency import child
from llm_latency.rows import rows
from llm_latency.spec import Settings, Trial, Workload


def job(tmp_path: Path, *, timeout_s: float = 30, repeats: int = 1) -> child.Job:
    trial = Trial(
        experiment="t",
        model="m",
        settings=Settings(),
        workload=Workload(prompt_tokens=8, max_tokens=3, repeats=repeats),
    )
    return child.Job("run", trial, "/no/model", str(tmp_path / "trial.log"), timeout_s)


def test_a_child_that_answers_is_ok(tmp_path: Path, fake_child: FakeChild) -> None:
    fake_child(
        """
        send(phase="load", memory=dict(before=dict(rss_bytes=5)))
        answer(0, 0.2); answer(1, 0.1)
        send(phase="end", ended="done", cpu_s=0.01, warnings=["w"])
        """
    )
    record = child.carry_out(job(tmp_path))
    assert (record.status, record.reason, record.exit_code) == ("ok", None, 0)
    assert [g.timings.ttft_s for g in record.generations] == [0.2, 0.1]
    assert record.memory["before"].rss_bytes == 5
    assert "w" in record.warnings
    assert 0 < record.child_s < 30


def test_a_prompt_that_came_from_the_cache_is_invalid(
    tmp_path: Path, fake_child: FakeChild
) -> None:
    # The worker puts the proof's finding into the generation; the record must carry it on.
    fake_child(
        """
        send(phase="generation 1", generation=dict(
            repeat=0, prompt_tokens=8, evaluated_tokens=1, generated_tokens=1,
            finish_reason="length", problem="evaluated 1 of 8",
            timings=dict(ttft_s=1, prefill_s=1, decode_s=0, total_s=1, itl_s=[1],
                         engine_prefill_s=1, engine_decode_s=0)))
        send(phase="end", ended="done")
        """
    )
    record = child.carry_out(job(tmp_path))
    assert (record.status, record.reason) == ("invalid", "evaluated 1 of 8")


@pytest.mark.parametrize(
    ("lines", "status", "words"),
    [
        ('send(phase="end", ended="refused", reason="bad magic")', "refused", ["bad magic"]),
        ('send(phase="end", ended="oom", reason="no room")', "oom", ["no room"]),
        (
            'send(phase="load"); os.kill(os.getpid(), signal.SIGSEGV)',
            "crashed",
            ["SIGSEGV", "segmentation fault", "phase 'load'"],
        ),
        (
            'send(phase="generation 0"); os.kill(os.getpid(), signal.SIGILL)',
            "crashed",
            ["SIGILL", "another CPU", "phase 'generation 0'"],
        ),
        ('send(phase="load"); os.kill(os.getpid(), signal.SIGKILL)', "oom", ["killed", "load"]),
        (
            "print('terminate: std::bad_alloc', file=sys.stderr, flush=True); os.abort()",
            "oom",
            ["SIGABRT", "bad_alloc"],
        ),
        ("os.abort()", "crashed", ["SIGABRT"]),
        ("sys.exit(3)", "crashed", ["exit code 3"]),
        ("print('{\"phase\": \"lo', end='', flush=True); os._exit(0)", "crashed", ["no answer"]),
    ],
)
def test_every_way_to_fail_has_a_status_and_a_reason(
    tmp_path: Path, fake_child: FakeChild, lines: str, status: str, words: list[str]
) -> None:
    fake_child(lines)
    record = child.carry_out(job(tmp_path))
    assert record.status == status
    for word in words:
        assert word in (record.reason or "")
    assert rows(record)[0]["status"] == status
    assert "ttft_s" not in rows(record)[0]  # never a number in place of a failure


def test_a_child_that_hangs_is_ended_and_what_it_measured_is_kept(
    tmp_path: Path, fake_child: FakeChild
) -> None:
    fake_child('answer(0, 0.2); send(phase="generation 1"); time.sleep(60)')
    record = child.carry_out(job(tmp_path, timeout_s=1.5))
    assert record.status == "timeout"
    assert "1.5 s" in (record.reason or "")
    assert len(record.generations) == 1
    assert record.child_s < 20


def test_an_interrupt_ends_the_child_and_is_passed_on(
    tmp_path: Path, fake_child: FakeChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_child("time.sleep(60)")
    spawned = []
    spawn = child._spawn

    def remember(*arguments: object, **options: object) -> object:
        spawned.append(spawn(*arguments, **options))  # type: ignore[arg-type]
        return spawned[-1]

    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(child, "_spawn", remember)
    monkeypatch.setattr(child, "_listen", interrupt)
    with pytest.raises(KeyboardInterrupt):
        child.carry_out(job(tmp_path))
    assert spawned[0].poll() is not None


def test_no_layer_on_the_gpu_means_that_the_child_sees_none(
    tmp_path: Path, fake_child: FakeChild
) -> None:
    fake_child(
        """
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
        send(phase="end", ended="refused", reason=f"[{seen}]")
        """
    )
    one = job(tmp_path)
    hidden = one.trial.model_copy(update={"settings": Settings(n_gpu_layers=0)})
    assert child.carry_out(one).reason != "[]"
    assert child.carry_out(child.Job("r", hidden, "m", one.log_path, 30)).reason == "[]"


def test_nothing_is_left_running(tmp_path: Path, fake_child: FakeChild) -> None:
    before = threading.active_count()
    fake_child('answer(0); send(phase="end", ended="done")')
    for _ in range(3):
        child.carry_out(job(tmp_path))
    assert threading.active_count() <= before + 1
