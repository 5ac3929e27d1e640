"""The lab's own worker with a second device: ``second_device_worker.py FOLDER ENDPOINT BYTES``.

The device is a process of its own, started here and gone with this one; what it says goes where
this worker's standard error goes, which is the trial's log.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from pathlib import Path

import psutil

from llm_latency.engine import worker


def serve(folder: Path, endpoint: str, size: str) -> psutil.Popen:
    """Start the device's process, and return it when it listens."""
    command = [str(folder / "server"), endpoint, size]
    server = psutil.Popen(command, stdin=subprocess.PIPE, stdout=sys.stderr)
    while not any(c.status == psutil.CONN_LISTEN for c in server.net_connections("tcp")):
        if server.poll() is not None:
            sys.exit("the second device's process ended before it listened")
        time.sleep(0.005)
    return server


def register(folder: Path, endpoint: str) -> None:
    """Make the device known to this process's engine."""
    from llm_latency.engine.library import C

    C.llama_backend_init()
    rpc = ctypes.CDLL(str(folder / "libggml-rpc.so"))
    rpc.ggml_backend_rpc_add_server.restype = ctypes.c_void_p
    C._lib.ggml_backend_register.argtypes = [ctypes.c_void_p]
    C._lib.ggml_backend_register(rpc.ggml_backend_rpc_add_server(endpoint.encode()))


if __name__ == "__main__":
    folder, endpoint, size = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    server = serve(folder, endpoint, size)  # kept: it ends when its standard input is closed
    register(folder, endpoint)
    worker.main()
