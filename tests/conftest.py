"""What tests share: a place for outputs, the smallest model, and children that only pretend."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_latency.errors import LabError
from llm_latency.machine.interpreters import FOLDER_VARIABLE
from llm_latency.measure.job import WORKER_VARIABLE
from llm_latency.model import names
from tests.support import fake_worker as fake
from tests.support import second_device as rig
from tests.support.factories import FakeChild, FakeWorker, SecondDevice


@pytest.fixture(scope="session", autouse=True)
def lock_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the tests apart from a run that measures on this machine, and from other tests."""
    path = tmp_path_factory.mktemp("lock") / "machine.lock"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_LATENCY_LOCK", str(path))
        yield path


@pytest.fixture(scope="session", autouse=True)
def engine_beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the lab one engine beside the one at home, which is the same by another name."""
    folder = tmp_path_factory.mktemp("engines")
    (folder / "again").symlink_to(sys.prefix, target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(folder))
        yield folder


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Send all that runs leave to a folder of the test's own."""
    folder = tmp_path / "outputs"
    monkeypatch.setenv("LLM_LATENCY_OUTPUTS", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny() -> Path:
    """Return the file of the smallest synthetic model."""
    return names.resolve("synthetic:tiny")


@pytest.fixture
def fake_worker(monkeypatch: pytest.MonkeyPatch) -> FakeWorker:
    """Return a function that puts a behaviour of ``fake_worker.py`` in the real worker's place."""

    def install(behaviour: str, **options: Any) -> None:
        assert behaviour in fake.BEHAVIOURS
        command = [sys.executable, str(fake.__file__), behaviour, json.dumps(options)]
        monkeypatch.setenv(WORKER_VARIABLE, json.dumps(command))

    return install


@pytest.fixture
def fake_child(fake_worker: FakeWorker) -> FakeChild:
    """Return a function that puts a few lines of Python in the place of the real worker.

    For ends that only one test needs. The lines find the request as ``request``, and send events
    with ``send(**event)`` and ``answer(repeat, ttft_s)``.
    """
    return lambda lines: fake_worker("follows", lines=textwrap.dedent(lines))


@pytest.fixture
def second_device(monkeypatch: pytest.MonkeyPatch) -> SecondDevice:
    """Return a function that gives the engine a device beside the CPU, of so many bytes."""

    def install(size_bytes: int = 2 << 30) -> None:
        try:
            command = rig.worker(size_bytes)
        except LabError as error:
            pytest.skip(str(error))
        monkeypatch.setenv(WORKER_VARIABLE, json.dumps(command))

    return install
