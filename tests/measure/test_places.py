"""A run at several places: rounds whole, records at home, and nothing lost with a machine."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tqdm import tqdm

import llm_latency as lab
from llm_latency.machine import devices, host, lock
from llm_latency.measure import place, places
from llm_latency.measure.job import WORKER_VARIABLE, Job
from llm_latency.measure.resume import next_trials
from llm_latency.records.folders import STATES, place_folder
from llm_latency.records.record import Record
from llm_latency.records.store import RunStore
from tests.support import elsewhere, factories
from tests.support.elsewhere import Elsewhere
from tests.support.factories import FakeChild, FakeWorker

pytestmark = pytest.mark.usefixtures("outputs")


@pytest.fixture
def plan(tiny: Path) -> lab.Plan:
    return lab.experiments.sweep(
        model=str(tiny), n_ctx=[512, 1024], n_batch=256, prompt_tokens=8, max_tokens=3, repeats=0,
        rounds=4, run_id="r",
    )  # fmt: skip


def machines_of(run: RunStore) -> dict[int, set[str | None]]:
    """Return the machines of each round."""
    found = defaultdict(set)
    for record in run.records():
        found[record.trial.round].add(record.machine_id)
    return dict(found)


def once_each(run: RunStore, plan: lab.Plan) -> bool:
    return sorted(r.trial.trial_id for r in run.records()) == sorted(
        trial.trial_id for trial in plan.trials()
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_any_executor_on_one_machine_is_a_place(
    plan: lab.Plan, fake_worker: FakeWorker, outputs: Path, threads: int
) -> None:
    fake_worker("answers")
    with ThreadPoolExecutor(threads) as executor:
        run = lab.run(plan, places=[executor], progress=False)
    assert once_each(run, plan)
    assert run.info["machine"]["machine_id"] == host.machine_id()
    assert list(run.info["machines"]) == [host.machine_id()]
    assert set(run.info["machines"][host.machine_id()]) == {"machine", "gpu", "engine", "versions"}
    assert set(run.frame()["machine_id"]) == {host.machine_id()}
    assert not list((run.path / "logs").iterdir())
    assert len(list((place_folder("r") / "logs").iterdir())) == run.planned
    assert place_folder("r").is_relative_to(outputs)


def test_a_round_is_dealt_whole_and_goes_on_elsewhere_when_its_place_is_lost(
    plan: lab.Plan, fake_worker: FakeWorker
) -> None:
    fake_worker("answers")
    # The second place: introduced, the model seen, and then four trials of its six.
    one, two = Elsewhere("one"), Elsewhere("two", lost_after=2 + 4)
    with pytest.warns(UserWarning, match=r"place 2 .* measures no more: .*two was killed"):
        run = lab.run(plan, places=[one, two], progress=False)
    assert once_each(run, plan)
    assert sorted(len(machines) for machines in machines_of(run).values()) == [1, 1, 1, 2]
    assert len(run.info["machines"]) == 2


def test_with_the_last_place_the_run_ends_and_goes_on_where_it_was(
    plan: lab.Plan, fake_worker: FakeWorker
) -> None:
    fake_worker("answers")
    lost = Elsewhere("one", lost_after=3 + 4)
    refused = pytest.raises(lab.LabError, match=r"no place is left .*killed.*run_id='r'")
    with refused, pytest.warns(UserWarning, match="measures no more"):
        lab.run(plan, places=[lost], progress=False)
    assert lab.open_run("r").final == 4
    # What was begun at one goes on there, whoever is asked first.
    run = lab.run(plan, places=[Elsewhere("two"), Elsewhere("one")], progress=False)
    assert once_each(run, plan)
    assert all(len(machines) == 1 for machines in machines_of(run).values())
    assert len(set().union(*machines_of(run).values())) == 2
    assert len(run.info["machines"]) == 2
    assert lab.open_run("r").info == run.info


def test_a_run_that_was_begun_here_goes_on_at_places(
    plan: lab.Plan, fake_worker: FakeWorker
) -> None:
    fake_worker("answers")
    run = lab.run(plan, progress=False)
    trials = run.path / "trials.jsonl"
    trials.write_text("".join(trials.read_text().splitlines(keepends=True)[:6]))
    run = lab.run(plan, places=[Elsewhere("two")], progress=False)
    assert once_each(run, plan)
    here, two = run.info["machines"]
    assert here == host.machine_id()
    assert [machines_of(run)[n] for n in range(4)] == [{here}, {here}, {two}, {two}]


def test_places_that_are_one_machine_are_refused(
    plan: lab.Plan, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_worker("answers")
    with pytest.raises(lab.ParameterError, match="names none"):
        lab.run(plan, places=[])
    with pytest.raises(lab.LabError, match=r"places 1 and 2 are of one machine"):
        lab.run(plan, places=[Elsewhere("one"), Elsewhere("one")])
    cards = (devices.GpuCard(available=True, uuid=f"GPU-{n}") for n in (1, 2))
    monkeypatch.setattr(devices, "gpu_card", lambda: next(cards))
    with pytest.raises(lab.LabError, match=r"two GPUs of one machine.*LLM_LATENCY_LOCK"):
        lab.run(plan, places=[Elsewhere("one"), Elsewhere("one")])


def test_what_one_machine_decides_is_not_measured_at_places() -> None:
    plan = lab.experiments.threads(model="synthetic:tiny")
    with pytest.raises(lab.ParameterError, match="places are refused: what 'threads' tries"):
        lab.run(plan, places=[Elsewhere("one")])
    with pytest.raises(lab.ParameterError, match="is measured on this machine"):
        lab.run(lab.calibration.plan(model="synthetic:tiny"), places=[Elsewhere("one")])


def test_as_many_rounds_are_open_as_are_known(plan: lab.Plan, fake_worker: FakeWorker) -> None:
    fake_worker("answers")
    store = lab.run(plan, progress=False)
    looked = plan.model_copy(update={"rounds": 9, "stop_when_decided": True})
    first, *others = store.records()
    trials = store.path / "trials.jsonl"

    def open_rounds(looked: lab.Plan, ahead: int, *kept: Any) -> list[int]:
        trials.write_text("".join(f"{record.model_dump_json()}\n" for record in kept))
        return sorted({t.round for t in next_trials(looked, RunStore(store.path), ahead)})

    assert open_rounds(looked, 1, *others) == [0]
    assert open_rounds(looked, 2, *others) == [0, 4]
    assert open_rounds(looked, 9, first) == [0, 1, 2, 3, 4, 5]  # who is in the seventh is open
    timed = looked.model_copy(update={"stop_when_decided": False, "minutes": 60.0})
    assert open_rounds(timed, 9, first) == list(range(9))


def test_a_run_at_places_ends_when_all_is_decided(
    fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    fake_worker("answers")

    def carry_out(job: Job) -> Record:
        """Return a record at once: an n_batch of 128 takes a fifth longer, everywhere."""
        trial = job.trial
        random = np.random.default_rng([trial.round, trial.order])
        factor = (1.2 if trial.settings.n_batch == 128 else 1.0) * np.exp(random.normal(0, 1e-3))
        made = factories.record(trial.settings, workload=trial.workload, factor=factor)
        kept = {"run_id": job.run_id, "trial": trial, "machine_id": host.machine_id()}
        return made.model_copy(update=kept)

    monkeypatch.setattr(place, "carry_out", carry_out)
    plan = lab.experiments.sweep(
        model=str(tiny), n_ctx=512, n_batch=[128, 256], prompt_tokens=64, max_tokens=3, repeats=0,
        rounds=40, stop_when_decided=True, run_id="r",
    )  # fmt: skip
    run = lab.run(plan, places=[Elsewhere("one"), Elsewhere("two")], progress=False)
    rounds = machines_of(run)
    assert all(len(machines) == 1 for machines in rounds.values())
    assert sorted(rounds) == list(range(len(rounds)))
    assert 6 <= len(rounds) < 40


def test_states_are_deleted_where_they_lie(fake_worker: FakeWorker, plan: lab.Plan) -> None:
    fake_worker("answers")
    state = place_folder("r") / STATES / "x.state"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"large")
    lab.run(plan, places=[Elsewhere("one")], progress=False)
    assert not state.exists()


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    pytest.importorskip("distributed")
    with elsewhere.cluster(2) as client:
        yield client


@pytest.mark.engine
def test_two_workers_measure_whole_rounds_and_share_no_path(
    client: Any, tmp_path: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = elsewhere.settle(client, tmp_path / "others")
    sent: list[bytes] = []
    submit = places.Pinned.submit

    def keep(self: Any, call: Any, /, *given: Any, **more: Any) -> Any:
        sent.append(pickle.dumps((call, given, more)))
        return submit(self, call, *given, **more)

    monkeypatch.setattr(places.Pinned, "submit", keep)
    plan = lab.experiments.sweep(
        n_ctx=512, n_batch=256, prompt_tokens=16, max_tokens=4, repeats=0, rounds=4, run_id="r"
    )
    run = lab.run(plan, places=places.dask(client), progress=False)
    assert once_each(run, plan)
    assert set(run.frame()["status"]) == {"ok"}
    assert all(len(machines) == 1 for machines in machines_of(run).values())
    worked = set().union(*machines_of(run).values())
    assert worked == set(run.info["machines"]) and len(worked) == len(names) == 2
    assert len(sent) == 2 + 1 + 2 + run.planned + 2
    assert not [message for message in sent if os.fsencode(tmp_path) in message]
    assert not [message for message in sent if os.fsencode(Path.home()) + b"/" in message]
    for name in names.values():
        own = tmp_path / "others" / name
        assert list((own / "outputs" / "places" / "r" / "logs").iterdir())
        assert list((own / "cache").iterdir())
    assert {path.name for path in run.path.iterdir()} == {
        *("logs", "run.json", "run.lock", "trials.jsonl")
    }


def test_a_worker_that_is_killed_loses_no_record_and_doubles_none(
    client: Any, plan: lab.Plan, tmp_path: Path, fake_child: FakeChild
) -> None:
    fake_child(
        """
        engine = dict(version="0", system_info="CPU", gpu_offload=False, devices=[])
        if request["trial"]:
            engine = None
            time.sleep(0.5)
            answer(0)
        send(phase="end", ended="done", engine=engine)
        """
    )
    elsewhere.settle(client, tmp_path / "others", **{WORKER_VARIABLE: os.environ[WORKER_VARIABLE]})
    doomed, process = next(iter(client.run(os.getpid).items()))
    its_machine = client.run(host.machine_id, workers=[doomed])[doomed]

    class Killing(tqdm):  # type: ignore[type-arg]
        """Kills the worker while it measures the second trial of a round."""

        killed = False

        def update(self, n: float | None = 1) -> bool | None:
            last = (records := lab.open_run("r").records()) and records[-1].machine_id
            if not self.killed and last == its_machine:
                self.killed = True
                threading.Timer(0.3, os.kill, (process, signal.SIGKILL)).start()
            return super().update(n)

    lost = pytest.warns(UserWarning, match="measures no more")
    with lost, Killing(total=len(plan.trials()), disable=True) as bar:
        run = lab.run(plan, places=places.dask(client), progress=bar)
    assert bar.killed
    assert once_each(run, plan)
    per_machine = [record.machine_id for record in run.records()]
    assert per_machine.count(its_machine) == 1  # and the second of its round was measured again
    assert sorted(len(machines) for machines in machines_of(run).values()) == [1, 1, 1, 2]


def test_a_place_of_another_engine_is_refused_by_both_names(
    client: Any, plan: lab.Plan, tmp_path: Path, fake_worker: FakeWorker, outputs: Path
) -> None:
    fake_worker("answers")
    client.wait_for_workers(2)
    elsewhere.settle(client, tmp_path / "others", **{WORKER_VARIABLE: os.environ[WORKER_VARIABLE]})
    *_, other = client.nthreads()
    client.run(elsewhere.take_another_engine, str(tmp_path), "0.0.1", workers=[other])
    here = host.versions()["llama_cpp_python"]
    words = rf"place 2 has llama_cpp_python 0\.0\.1, and here is {here}"
    with pytest.raises(lab.LabError, match=words):
        lab.run(plan, places=places.dask(client), progress=False)
    assert not outputs.exists()


def test_a_machine_that_measures_for_another_is_no_place_yet(
    client: Any, plan: lab.Plan, tmp_path: Path
) -> None:
    client.wait_for_workers(2)
    elsewhere.settle(client, tmp_path / "others")
    held = lock.Hold()
    held.take(tmp_path / "others" / "machine 1" / "lock", 0)
    held.tell("theirs", Path("/runs/theirs"), 1, 9)
    try:
        with pytest.raises(lab.LabError, match=r"place 2: run 'theirs' is at work"):
            lab.run(plan, places=places.dask(client), progress=False)
    finally:
        held.release()


def test_a_place_tells_plain_data_of_itself(fake_worker: FakeWorker) -> None:
    fake_worker("answers")
    told = place.introduce(0.0)
    assert set(told) == {"machine", "gpu", "engine", "versions", "lock"}
    assert pickle.loads(pickle.dumps(told)) == told
