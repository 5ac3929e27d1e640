"""Executors that are places: each works on one machine, one trial at a time.

Whatever has the ``submit`` of :class:`concurrent.futures.Executor` and always works on the same
machine is one. Here they are made of a Dask client, one of each of its workers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any

from llm_latency.errors import LabError

LOOK_S = 1.0
"""How often it is asked whether a worker that is at work is still there."""


def dask(client: Any) -> list[Executor]:
    """Return the workers that a Dask client has now, each as a place.

    Each is to be a machine of its own, or to see one GPU of its own. One that comes later is no
    place of a run that has begun, nor is one that its nanny started anew.

    Parameters
    ----------
    client
        A ``distributed.Client``: of a ``LocalCluster``, an ``SSHCluster``, a ``SLURMCluster``.

    Raises
    ------
    LabError
        If it has no workers.
    """
    addresses = list(client.nthreads())
    if not addresses:
        raise LabError(
            "the Dask client has no workers yet; wait for them with client.wait_for_workers(n)"
        )
    return [Pinned(client, address) for address in addresses]


class Pinned(Executor):
    """One worker of a Dask client, and no other.

    Dask gives what a dead worker had to another one, or waits until it comes back: here it has
    failed, at once and for good, and whoever asked decides who measures it.

    Parameters
    ----------
    client, address
        The client, and the worker's address.
    """

    def __init__(self, client: Any, address: str) -> None:
        self._client, self._address = client, address

    def submit(self, call: Callable[..., Any], /, *given: Any, **more: Any) -> Future[Any]:
        """Have the worker do it."""
        asked = self._client.submit(
            call,
            *given,
            **more,
            workers=[self._address],
            allow_other_workers=False,
            retries=0,
            pure=False,
        )
        answer: Future[Any] = Future()
        answer.set_running_or_notify_cancel()
        threading.Thread(target=self._bring, args=(asked, answer), daemon=True).start()
        return answer

    def _bring(self, asked: Any, answer: Future[Any]) -> None:
        """Hand over what the worker answers; or that it is gone."""
        import distributed

        try:
            while not asked.done():
                try:
                    distributed.wait(asked, timeout=LOOK_S)  # type: ignore[no-untyped-call]
                except distributed.TimeoutError:
                    if self._address not in self._client.nthreads():
                        raise BrokenExecutor(f"the worker {self._address} is gone") from None
            answer.set_result(asked.result())
        except Exception as error:
            answer.set_exception(error)
        except BaseException as error:  # that a future was cancelled is no exception of its own
            answer.set_exception(BrokenExecutor(f"{type(error).__name__}: {error}"))
        finally:
            asked.cancel()
