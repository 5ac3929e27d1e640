"""Other machines, as far as one can pretend them: places of a run, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any


class Elsewhere(Executor):
    """A machine of another name, that does what it is given at once, until it is lost."""

    def __init__(self, name: str, *, lost_after: int = 10**6) -> None:
        self.name, self.lost_after, self.given = name, lost_after, 0

    def submit(self, call: Any, /, *given: Any, **more: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.given += 1
        before = os.environ.get("LLM_LATENCY_MACHINE")
        os.environ["LLM_LATENCY_MACHINE"] = self.name
        try:
            if self.given > self.lost_after:
                raise RuntimeError(f"{self.name} was killed")
            future.set_result(call(*given, **more))
        except BaseException as error:
            future.set_exception(error)
        finally:
            os.environ.pop("LLM_LATENCY_MACHINE")
            if before is not None:
                os.environ["LLM_LATENCY_MACHINE"] = before
        return future


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[Any]:
    """Yield the client of a Dask cluster of processes on this machine."""
    from distributed import LocalCluster

    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=50,
        ) as made,
        made.get_client() as client,
    ):
        yield client


def settle(client: Any, folder: Path, **more: str) -> dict[str, str]:
    """Give each worker a home, cache, outputs, lock and machine's name of its own.

    Returns
    -------
    dict of str to str
        The name of each worker's machine, by the worker's address.
    """
    names = {address: f"machine {n}" for n, address in enumerate(client.nthreads())}
    for address, name in names.items():
        own = folder / name
        (own / "home").mkdir(parents=True, exist_ok=True)
        places = {
            "HOME": own / "home",
            "LLM_LATENCY_CACHE": own / "cache",
            "LLM_LATENCY_OUTPUTS": own / "outputs",
            "LLM_LATENCY_LOCK": own / "lock",
        }
        told = {key: str(path) for key, path in places.items()} | {"LLM_LATENCY_MACHINE": name}
        client.run(put, told | more, workers=[address])
    return names


def put(environment: dict[str, str]) -> None:
    """Set variables of this process, and take another engine away that it was given."""
    os.environ.update(environment)
    sys.path[:] = [path for path in sys.path if not path.endswith("another-engine")]


def take_another_engine(folder: str, version: str) -> None:
    """Let this process find another version of llama-cpp-python installed."""
    installed = Path(folder) / "another-engine"
    metadata = installed / f"llama_cpp_python-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: {version}\n")
    sys.path.insert(0, str(installed))
