"""Every way a child can end becomes one record with the right status."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from llm_latency.errors import LabError
from llm_latency.machine import host
from llm_latency.machine.devices import GpuCard, GpuWatch
from llm_latency.measure import process, transcript
from llm_latency.measure.job import Job
from llm_latency.measure.trial import carry_out
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Start, Trial
from llm_latency.plan.workload import Workload
from llm_latency.records.rows import rows
from tests.support import jobs
from tests.support.factories import FakeChild

STATE = Workload(prompt_tokens=8, max_tokens=3, cache_mode="prefix", prefix_tokens=4)


def job(tmp_path: Path, *, timeout_s: float = 30, repeats: int = 1, stored: bool = False) -> Job:
    trial = Trial(
        experiment="t",
        model="m",
        settings=Settings(),
        workload=STATE if stored else Workload(prompt_tokens=8, max_tokens=3, repeats=repeats),
        start=Start(warm_up="restored_state") if stored else Start(),
    )
    return jobs.job(tmp_path, trial, timeout_s=timeout_s)


def spoiled(job: Job, lines: str) -> Job:
    """Return the job for the real worker, after some lines of Python that spoil it."""
    code = f"from llm_latency.engine import worker\n{lines}\nworker.main()"
    return replace(job, worker=(sys.executable, "-c", code))


def test_a_child_that_answers_is_ok(tmp_path: Path, fake_child: FakeChild) -> None:
    fake_child(
        """
        send(phase="load", memory=dict(before=dict(rss_bytes=5)))
        answer(0, 0.2); answer(1, 0.1)
        send(phase="end", ended="done", cpu_s=0.01, warnings=["w"])
        """
    )
    record = carry_out(job(tmp_path))
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
    record = carry_out(job(tmp_path, repeats=0))
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
        (
            "print('terminate: std::bad_alloc', file=sys.stderr, flush=True); os.abort()",
            "oom",
            ["SIGABRT", "bad_alloc", "smaller n_ctx"],
        ),
        (
            "print('CUDA error: out of memory\\n  current device: 0\\nx.cu:9: CUDA error',"
            " file=sys.stderr, flush=True); os.abort()",
            "oom",
            ["SIGABRT", "CUDA error: out of memory", "smaller n_ctx"],
        ),
        (
            "print('/a/b/ggml.c:7: GGML_ASSERT(x > 0) failed\\n', file=sys.stderr, flush=True);"
            "os.abort()",
            "crashed",
            ["SIGABRT", "last words: ggml.c:7: GGML_ASSERT(x > 0) failed"],
        ),
        ("os.abort()", "crashed", ["SIGABRT"]),
        ("os.kill(os.getpid(), signal.SIGFPE)", "crashed", ["division by zero"]),
        ("sys.exit(3)", "crashed", ["exit code 3"]),
        ("import no_such_module", "crashed", ["could not start", "No module named", "bootstrap"]),
        ("print('{\"phase\": \"lo', end='', flush=True); os._exit(0)", "crashed", ["no answer"]),
    ],
)
def test_every_way_to_fail_has_a_status_and_a_reason(
    tmp_path: Path, fake_child: FakeChild, lines: str, status: str, words: list[str]
) -> None:
    fake_child(lines)
    record = carry_out(job(tmp_path))
    assert record.status == status
    for word in words:
        assert word in (record.reason or "")
    assert rows(record)[0]["status"] == status
    assert "ttft_s" not in rows(record)[0]  # never a number in place of a failure


@pytest.mark.parametrize(
    "lines",
    [
        "print('hello', flush=True); time.sleep(60)",
        "send(phase='load', sooner=1); time.sleep(60)",  # a field that this version does not know
        "send(phase='load'); os.write(1, bytes([255, 10])); answer(0); answer(1); time.sleep(60)",
        "answer(0); answer(1); send(phase='end', ended='done'); send(phase='load')",
        "answer(0); answer(1); send(phase='end', ended='done'); print('{', end='', flush=True)",
        "answer(0); send(phase='end', ended='done')",  # of two
        "while True: send(phase='load')",
        "while True: print('x' * 65536, end='')",
    ],
)
def test_a_child_that_speaks_otherwise_is_never_ok(
    tmp_path: Path, fake_child: FakeChild, monkeypatch: pytest.MonkeyPatch, lines: str
) -> None:
    for module in (process, transcript):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 1 << 20)
    fake_child(lines)
    record = carry_out(job(tmp_path, timeout_s=20))
    assert record.status == "crashed"
    assert "speaks another version of the protocol" in (record.reason or "")
    assert "restart Python" in (record.reason or "")
    assert len(record.model_dump_json()) < 10_000


def test_a_flood_in_the_log_is_not_taken_into_the_record(
    tmp_path: Path, fake_child: FakeChild
) -> None:
    fake_child("sys.stderr.write('error: ' * 1_000_000); sys.stderr.flush(); os.abort()")
    record = carry_out(job(tmp_path))
    assert record.status == "crashed"
    assert 0 < len(record.reason or "") < 1000


def test_words_of_an_earlier_child_are_not_this_ones(tmp_path: Path, fake_child: FakeChild) -> None:
    (log := job(tmp_path).files.log).parent.mkdir()
    log.write_text("CUDA error: out of memory\n")
    fake_child("os.abort()")
    record = carry_out(job(tmp_path))
    assert record.status == "crashed"
    assert "memory" not in (record.reason or "")


def test_an_exception_in_the_worker_is_told_with_its_traceback_in_the_log(tmp_path: Path) -> None:
    made = spoiled(job(tmp_path), "worker.measure = lambda *_: 1 / 0")
    record = carry_out(made)
    assert (record.status, record.exit_code) == ("crashed", 0)
    assert (record.reason or "").startswith("ZeroDivisionError: division by zero, in phase 'start'")
    assert "Traceback" in job(tmp_path).files.log.read_text()
    made = spoiled(job(tmp_path), "def measure(*_): raise OSError(12, 'Cannot allocate memory')\n"
                "worker.measure = measure")  # fmt: skip
    assert carry_out(made).status == "oom"
    made = spoiled(job(tmp_path), "import io, sys; sys.stdin = io.StringIO('{\"newer\": 1}')")
    record = carry_out(made)
    assert record.status == "crashed"
    assert "ValidationError" in (record.reason or "")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a disk that is always full")
def test_a_log_that_cannot_be_written_spoils_nothing(tmp_path: Path) -> None:
    log = job(tmp_path).files.log
    log.parent.mkdir()
    log.symlink_to("/dev/full")
    made = spoiled(
        job(tmp_path),
        "def measure(request, trial, log, send):\n"
        "    log.write('words ' * 100_000)\n"
        "worker.measure = measure",
    )
    assert "No space left" in (carry_out(made).reason or "")
    made = spoiled(
        job(tmp_path),
        "from llm_latency.engine.protocol import Event\n"
        "def measure(request, trial, log, send):\n"
        "    log.write('words'); send(Event(phase='end', ended='refused', reason='as it is'))\n"
        "worker.measure = measure",
    )
    record = carry_out(made)
    assert (record.status, record.reason) == ("refused", "as it is")


def test_nothing_tried_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LabError, match=r"\.log cannot be written .* run again"):
        carry_out(job(tmp_path / "file"))
    with pytest.raises(LabError, match=r"no process can be started with /no/python .* run again"):
        carry_out(replace(job(tmp_path), worker=("/no/python",)))
    other = replace(job(tmp_path).model, sha256="0" * 64)
    with pytest.raises(LabError, match=r"'synthetic:tiny' is another file than the run began"):
        carry_out(replace(job(tmp_path), model=other))


def test_a_state_that_cannot_be_made_says_why(tmp_path: Path, fake_child: FakeChild) -> None:
    fake_child('send(phase="end", ended="refused", reason="it will not")')
    record = carry_out(job(tmp_path, stored=True))
    assert (record.status, record.exit_code) == ("refused", 0)
    assert record.reason == "the state to restore could not be made: it will not"


def test_a_state_for_which_there_is_no_room_can_be_made_later(
    tmp_path: Path, fake_child: FakeChild
) -> None:
    fake_child(
        """
        open(f"{request['state_path']}.{os.getpid()}", "w").write("half of it")
        print("write error: No space left on device", file=sys.stderr, flush=True)
        send(phase="end", ended="refused", reason="the state could not be written")
        """
    )
    with pytest.raises(LabError, match=r"states \(No space left on device\); make room .* go on"):
        carry_out(job(tmp_path, stored=True))
    assert list((tmp_path / "states").iterdir()) == []


@pytest.mark.parametrize("lines", ["time.sleep(60)", "os.kill(os.getpid(), signal.SIGSTOP)"])
@pytest.mark.skipif(sys.platform != "linux", reason="others do not count what a process reads")
def test_a_child_that_does_nothing_is_ended_before_its_time(
    tmp_path: Path, fake_child: FakeChild, monkeypatch: pytest.MonkeyPatch, lines: str
) -> None:
    monkeypatch.setattr(process, "IDLE_LIMIT_S", 0.8)
    fake_child(f'answer(0); send(phase="generation 1"); {lines}')
    record = carry_out(job(tmp_path))
    assert record.status == "timeout"
    said = "it did nothing for 0.8 s in phase 'generation 1': no CPU time, nothing read"
    assert (record.reason or "").startswith(said)
    assert len(record.generations) == 1


@pytest.mark.parametrize(
    "lines",
    [
        "[(open(__file__).read(1), time.sleep(0.1)) for _ in range(16)]",  # hardly any CPU time
        "until = time.time() + 1.6\nwhile time.time() < until: pass",
    ],
)
def test_a_child_that_works_in_silence_is_left_alone(
    tmp_path: Path, fake_child: FakeChild, monkeypatch: pytest.MonkeyPatch, lines: str
) -> None:
    monkeypatch.setattr(process, "IDLE_LIMIT_S", 0.6)
    fake_child(f"{lines}\nanswer(0); answer(1)\nsend(phase='end', ended='done')")
    assert carry_out(job(tmp_path)).status == "ok"


def test_a_child_that_reads_nothing_holds_nobody_up(tmp_path: Path) -> None:
    deaf = (sys.executable, "-c", "import time; time.sleep(60)")
    one = replace(job(tmp_path, timeout_s=1), worker=deaf)
    long = one.trial.model_copy(update={"workload": Workload(prompt="word " * 100_000)})
    before = psutil.Process().children()
    record = carry_out(replace(one, trial=long))
    assert record.status == "timeout"
    assert psutil.Process().children() == before


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_a_pipe_that_somebody_else_holds_open_holds_nobody_up(
    tmp_path: Path, fake_child: FakeChild
) -> None:
    fake_child(
        """
        answer(0); answer(1); send(phase="end", ended="done")
        if os.fork() == 0:
            time.sleep(9)
        os._exit(0)
        """
    )
    record = carry_out(job(tmp_path))
    assert record.status == "ok"
    assert record.child_s < 9


def test_a_child_that_hangs_is_ended_and_what_it_measured_is_kept(
    tmp_path: Path, fake_child: FakeChild
) -> None:
    fake_child('answer(0, 0.2); send(phase="generation 1"); time.sleep(60)')
    record = carry_out(job(tmp_path, timeout_s=1.5))
    assert record.status == "timeout"
    assert "1.5 s" in (record.reason or "")
    assert len(record.generations) == 1
    assert record.child_s < 20


def test_an_interrupt_ends_the_child_and_is_passed_on(
    tmp_path: Path, fake_child: FakeChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_child("time.sleep(60)")
    spawned = []
    spawn = process._spawn

    def remember(*arguments: object, **options: object) -> object:
        spawned.append(spawn(*arguments, **options))  # type: ignore[arg-type]
        return spawned[-1]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(process, "_spawn", remember)
    monkeypatch.setattr(process, "_supervise", interrupt)
    with pytest.raises(KeyboardInterrupt):
        carry_out(job(tmp_path))
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
    assert carry_out(one).reason != "[]"
    assert carry_out(replace(one, trial=hidden)).reason == "[]"


@pytest.mark.parametrize(("layers", "uuid"), [(0, None), (4, "GPU-1")])
def test_a_record_tells_its_machine_and_the_card_that_held_layers(
    tmp_path: Path,
    fake_child: FakeChild,
    monkeypatch: pytest.MonkeyPatch,
    layers: int,
    uuid: str | None,
) -> None:
    fake_child(
        f"""
        send(phase="load", effective=dict(
            n_ctx=512, n_batch=512, n_ubatch=512, n_threads=1, n_threads_batch=1,
            n_gpu_layers={layers}, use_mmap=True, use_mlock=False, flash_attn=None,
            offload_kqv=None, type_k=None, type_v=None))
        answer(0); answer(1)
        send(phase="end", ended="done")
        """
    )
    card = GpuCard(available=True, uuid="GPU-1")
    monkeypatch.setattr(GpuWatch, "card", lambda _: card)
    monkeypatch.setenv(host.VARIABLE, "a name")
    record = carry_out(job(tmp_path))
    assert (record.machine_id, record.gpu_uuid) == (host.machine_id(), uuid)


def test_nothing_is_left_running(tmp_path: Path, fake_child: FakeChild) -> None:
    before = threading.active_count()
    fake_child('answer(0); answer(1); send(phase="end", ended="done")')
    for _ in range(3):
        carry_out(job(tmp_path))
    assert threading.active_count() <= before + 1
