"""llama-server as a child: started on loopback, ready when it says so, gone when it is to go.

Its log is read line by line as it comes: it holds what llama.cpp allocated and what is in force,
and when each part of the loading was over. Nobody asks it anything meanwhile, for whoever asks
takes time from the CPUs that load.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import httpx

from llm_latency.engine import programs, streamed
from llm_latency.engine.log import CONT, DEBUG, ERROR, INFO, WARN, LlamaLog
from llm_latency.errors import EngineError
from llm_latency.machine import limits
from llm_latency.plan.serving import flags
from llm_latency.plan.settings import Settings
from llm_latency.records.record import LoadTimings

LEVELS = {"D": DEBUG, "I": INFO, "W": WARN, "E": ERROR}
"""The letters in front of the server's lines, as llama.cpp's levels."""
OWN = {
    "--host": "127.0.0.1",
    "--port": "0",  # one that is free; the log tells which
    "--log-verbosity": "4",  # llama.cpp's own words are among its details
    "--log-colors": "off",
    "--offline": None,
}
"""What the lab asks of its own server beside the settings."""
PATIENCE_S = 2.0
"""How long a server that closed its connections may take to be gone."""

_LINE = re.compile(r"(?:(?:\d+\.)+\d+ )?(?:([DIWE]) )?(.*)", re.DOTALL)
_LISTENING = re.compile(r"listening on (http://\S+)")
_MARKS = {
    "model": re.compile(r"llama_model_loader: loaded meta data"),
    "context": re.compile(r"llama_context: constructing llama_context"),
}
"""Lines with which parts of the loading begin."""


class Server:
    """A llama-server that runs, with its model loaded.

    Parameters
    ----------
    model
        The file.
    settings
        What it is loaded with.
    stream
        Where its log goes, too.
    slots
        How many requests it may answer at once.

    Attributes
    ----------
    log : LlamaLog
        What it said.
    load : LoadTimings
        Where the time went from starting it until it was ready, in seconds.
    address : str
        Where it listens.
    key : str
        What it wants to be shown.
    client : httpx.Client
        What it is asked through.

    Raises
    ------
    EngineError
        If it does not load the model; with llama.cpp's own reason.
    LabError
        If it has not been built.
    """

    def __init__(
        self, model: Path, settings: Settings, stream: TextIO | None = None, slots: int = 1
    ) -> None:
        self.log, self._stream = LlamaLog(stream), stream
        self._marks: dict[str, float] = {}
        self._told: queue.Queue[str | None] = queue.Queue()
        threads = settings.n_threads or limits.usable_cpus()
        asked = settings.model_copy(update={"n_threads": threads})
        own = [word for pair in OWN.items() for word in pair if word is not None]
        command = [str(programs.llama_server()), "-m", str(model), *flags(asked, slots), *own]
        # Somebody's LLAMA_ARG_… would be in force unseen; and nobody else is to ask this server.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LLAMA_")}
        self.key = environment["LLAMA_API_KEY"] = secrets.token_hex()
        start_s = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=_with_parent(),
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        address = self._told.get()
        if address is None:
            raise self._refused()
        self.address = address
        self.client = streamed.client(self.address, self.key)
        healthy = self.client.get("/health").status_code == httpx.codes.OK
        ready_s = time.perf_counter()
        if not healthy:
            raise EngineError("llama-server listens and is not ready; read its log")
        model_s = self._marks.get("model", start_s)
        context_s = self._marks.get("context", ready_s)
        self.load = LoadTimings(
            backend_init_s=model_s - start_s,
            model_load_s=context_s - model_s,
            context_s=ready_s - context_s,
            load_s=ready_s - start_s,
        )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(AttributeError):  # it never was ready
            self.client.close()

    def check(self) -> None:
        """Return if it runs; where it was ended by a signal, end this process alike.

        Then whoever looks on judges the one as it would the other.

        Raises
        ------
        RuntimeError
            If it ended by itself.
        """
        try:
            code = self._process.wait(timeout=PATIENCE_S)  # its connections close first
        except subprocess.TimeoutExpired:
            return
        self._listener.join(PATIENCE_S)
        if code < 0:
            if self._stream is not None:
                self._stream.flush()
            os.kill(os.getpid(), -code)
        raise RuntimeError(f"llama-server ended with exit code {code}")

    def _refused(self) -> EngineError:
        """Return why it never was ready, if it was not ended by a signal."""
        said = ""
        try:
            self.check()
        except RuntimeError as error:
            said = str(error)
        return EngineError(self.log.reason(said), out_of_memory=self.log.out_of_memory())

    def _listen(self) -> None:
        """Take its log line by line, and its address when it is ready."""
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            now_s = time.perf_counter()
            match = _LINE.fullmatch(raw.decode("utf-8", "replace"))
            letter, text = match.groups() if match else (None, "")
            self.log.feed(LEVELS.get(letter or "", CONT), text)
            for part, mark in _MARKS.items():
                if mark.search(text):
                    self._marks.setdefault(part, now_s)
            if ready := _LISTENING.search(text):
                self._told.put(ready[1])
        self._told.put(None)


def _with_parent() -> Callable[[], None] | None:
    """Return what makes a process end with the one that started it, where the system can."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # before the fork, where nothing may be loaded
    return lambda: prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
