"""JupyterLab in Chromium, as a person uses it: open the sweep, run all cells, look."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.notebook, pytest.mark.engine]

ROOT = Path(__file__).parents[2]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
SMALL = {
    "n_ctx": "[512, 768]", "n_batch": "[128, 256]", "prompt_tokens": "[32, 96]",
    "max_tokens": "8", "rounds": "1", "repeats": "0",
}  # fmt: skip


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """Start JupyterLab on a folder with the notebook, its grid made small; return its address."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: install one to try JupyterLab")
    notebook = json.loads((ROOT / "notebooks" / "sweep.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            source = "".join(cell["source"])
            for name, value in SMALL.items():
                source = re.sub(rf"^({name}: [^=]+=) [^#]+", rf"\1 {value}  ", source, flags=re.M)
            cell["source"] = source
    (tmp_path / "sweep.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = dict(
        os.environ,
        LLM_LATENCY_OUTPUTS=str(tmp_path / "outputs"),
        JUPYTER_CONFIG_DIR=str(tmp_path / "config"),
        JUPYTER_DATA_DIR=str(tmp_path / "data"),
    )
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--port={port}",
         "--ip=127.0.0.1", "--IdentityProvider.token=", f"--ServerApp.root_dir={tmp_path}"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=(tmp_path / "jupyter.log").open("wb"),
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urlopen(f"{address}/api", timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "jupyter.log").read_text()[-2000:]
                time.sleep(0.25)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=20)


def test_the_sweep_runs_in_jupyterlab(lab: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{lab}/lab/tree/sweep.ipynb?reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=90_000)
        page.wait_for_selector("text=Python 3 (ipykernel) | Idle", timeout=90_000)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        # The last cell says where the data lies: when it has, all have run.
        deadline = time.monotonic() + 120
        saved = tmp_path / "sweep.ipynb"
        while time.monotonic() < deadline:
            page.keyboard.press("Control+s")
            page.wait_for_timeout(1500)
            cells = json.loads(saved.read_text(encoding="utf-8"))["cells"]
            code = [cell for cell in cells if cell["cell_type"] == "code"]
            if code[-1]["outputs"] and code[-1]["execution_count"]:
                break
        if picture := os.environ.get("LLM_LATENCY_PICTURES"):
            page.screenshot(path=str(Path(picture) / "jupyterlab.png"))
        browser.close()
    kinds = [output for cell in code for output in cell["outputs"]]
    assert [o for o in kinds if o["output_type"] == "error"] == []
    assert all(cell["execution_count"] for cell in code)
    assert sum("image/png" in o.get("data", {}) for o in kinds) >= 5
    answer = "".join("".join(o["data"].get("text/markdown", "")) for o in kinds if "data" in o)
    assert "lowest median TTFT" in answer
    assert list((tmp_path / "outputs" / "runs").glob("*/trials.jsonl"))
