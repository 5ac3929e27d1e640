"""A hundred parameters that cannot be right, and how a notebook that is given one must end.

A mark is left by whatever imports llama_cpp, and models would be made in a folder of their own:
so it shows whether anything was loaded, made or stored before the refusal.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


class Wrong(NamedTuple):
    """One wrong parameter: of which notebook, as typed, and what the refusal must say."""

    notebook: str
    name: str
    value: str
    words: str
    option: str = "-p"

    @property
    def arguments(self) -> list[str]:
        """papermill's arguments; ``-y`` takes YAML, as a file given with ``-f`` holds it."""
        if self.option == "-y":
            return ["-y", f"{self.name}: {self.value}"]
        return [self.option, self.name, self.value]

    def __str__(self) -> str:
        return f"{self.notebook} {' '.join(self.arguments)}"


WRONG = [
    Wrong(*fields)
    for fields in (
        # names that nothing is called by, with the nearest one
        ("sweep", "n_bacth", "1024", "did you mean 'n_batch'"),
        ("cold_start", "readings", "mmap", "did you mean 'reading'"),
        ("warm_runs", "repeat", "3", "did you mean 'repeats'"),
        ("prompt_size", "prompt_token", "64", "did you mean 'prompt_tokens'"),
        ("max_tokens", "heldout", "25", "did you mean 'held_out'"),
        ("warm_up", "warmup", "all", "did you mean 'warm_up'"),
        ("context_size", "nctx", "512", "did you mean 'n_ctx'"),
        ("batch_size", "n_ubacth", "64", "did you mean 'n_ubatch'", "-y"),
        ("kv_types", "qualtiy", "99 %", "did you mean 'quality'"),
        ("memory_locking", "memory_limits", "none", "did you mean 'memory_limit'"),
        ("conversation", "turn", "3", "did you mean 'turns'"),
        ("depth", "depth", "512", "did you mean 'depths'"),
        ("memory_ledger", "bugdet", "6 GiB", "did you mean 'budget'"),
        ("threads", "n_thread", "2", "did you mean 'n_threads'"),
        ("calibration", "pair", "6", "did you mean 'pairs'"),
        ("everything", "question", "all", "did you mean 'questions'"),
        ("knobs", "prompt_token", "64", "did you mean 'prompt_tokens'"),
        ("advise", "tfft_s", "2", "did you mean 'ttft_s'"),
        ("applications", "temprature", "1", "did you mean 'temperature'"),
        ("compare", "run", "a", "did you mean 'runs'"),
        ("compare", "runs", "a", "is one run"),
        ("engines", "engines", "home", "did you mean 'engine'"),
        ("engines", "engine", "nosuch", "There are: home"),
        # models
        ("sweep", "model", "nosuch.gguf", "does not exist"),
        ("cold_start", "model", "synthetic:tyni", "did you mean 'tiny'"),
        ("warm_runs", "model", "hf:owner/file", "hf:owner/repo/file.gguf"),
        ("prompt_size", "model", "synthetic:tiny:q3", "q4_0"),
        ("max_tokens", "model", "/", "is a folder"),
        ("memory_ledger", "model", "7", "is not a name"),
        ("calibration", "model", "~/no such folder/é.gguf", "does not exist"),
        ("everything", "model", "[synthetic:tiny]", "is not a name", "-y"),
        ("advise", "model", "''", "is not a name", "-y"),
        # counts
        ("sweep", "n_batch", "many", "integer"),
        ("sweep", "via", "openai", "go together"),
        ("sweep", "at_once", "2", "leave at_once out"),
        ("sweep", "n_batch", "-5", "greater than or equal to 1"),
        ("sweep", "n_ctx", "[512, 0]", "n_ctx=0"),
        ("sweep", "n_ctx", "[]", "no value to measure"),
        ("sweep", "n_ctx", "600.5", "integer"),
        ("sweep", "n_ctx", "512,1024", "integer"),
        ("sweep", "n_ctx", "{from: 512, to: 1024}", "integer", "-y"),
        ("sweep", "n_ctx", "[[512], [1024]]", "integer", "-y"),
        ("sweep", "n_threads", "True", "integer"),
        ("sweep", "n_gpu_layers", "-2", "greater than or equal to -1"),
        ("sweep", "max_tokens", "nan", "integer"),
        ("sweep", "max_tokens", "[8, 16]", "one value"),
        ("sweep", "repeats", "-1", "greater than or equal to 0"),
        ("sweep", "rounds", "0", "greater than or equal to 1"),
        ("sweep", "seed", "1.5", "integer"),
        ("sweep", "prompt_tokens", "1099511627776", "2147483647"),
        ("cold_start", "prompt_tokens", "0", "greater than or equal to 1"),
        ("cold_start", "max_tokens", "inf", "integer"),
        ("cold_start", "n_batch", "5e2", "such as 500"),
        ("warm_runs", "repeats", "0", "1 or more"),
        ("warm_runs", "prompt_tokens", "two", "integer"),
        ("warm_runs", "n_ctx", "[256, 512]", "one value", "-y"),
        ("prompt_size", "prompt_tokens", "[2, null]", "whole numbers", "-y"),
        ("prompt_size", "n_ctx", "-1", "greater than or equal to 1"),
        ("prompt_size", "rounds", "six", "integer"),
        ("max_tokens", "max_tokens", "['8', '16', 'x']", "integer", "-y"),
        ("max_tokens", "held_out", "12", "among max_tokens"),
        ("max_tokens", "held_out", "[8, 16, 25, 50, 75, 100]", "at least 2"),
        ("max_tokens", "rounds", "100000", "less than or equal to 10000"),
        ("warm_up", "system_tokens", "0", "whole numbers from 1"),
        ("warm_up", "question_tokens", "true", "whole numbers from 1", "-y"),
        ("warm_up", "rounds", "None", "integer"),
        ("context_size", "turns", "0", "from 1 to"),
        ("context_size", "answer_tokens", "few", "from 1 to"),
        ("context_size", "fill", "1", "below 1"),
        ("context_size", "fill", "[0.5, nan]", "below 1"),
        ("context_size", "max_tokens", "1", "2 or more"),
        ("batch_size", "n_ubatch", "0", "give sizes"),
        ("batch_size", "n_batch", "0", "greater than or equal to 1"),
        ("kv_types", "quality", "much", "give a share"),
        ("kv_types", "type_v", "q3", "'q8_0'"),
        ("memory_locking", "repeats", "once", "integer"),
        ("conversation", "turns", "1", "from 2 up"),
        ("conversation", "short_tokens", "-20", "from 1 to"),
        ("conversation", "max_tokens", "1", "2 or more"),
        ("memory_ledger", "n_ubatch", "[128, -1]", "greater than or equal to 1"),
        ("calibration", "n_threads", "0", "greater than or equal to 1"),
        ("calibration", "pairs", "0", "greater than or equal to 1"),
        ("calibration", "repeats", "none", "integer"),
        ("everything", "rounds", "-1", "greater than or equal to 1"),
        ("everything", "n_threads", "[1, 2]", "one value", "-y"),
        ("knobs", "max_tokens", "[8, 16]", "one value"),
        ("advise", "n_ctx", "many", "integer"),
        ("advise", "rounds", "0", "greater than or equal to 1"),
        # words
        ("sweep", "use_mmap", "perhaps", "boolean"),
        ("sweep", "repeat_disturbed", "2", "boolean"),
        ("sweep", "type_k", "q3", "'q8_0'"),
        ("sweep", "flash_attn", "perhaps", "auto"),
        ("sweep", "n_cpu_moe", "-1", "greater than or equal to 1"),
        ("sweep", "warm_up", "tea", "'batch'"),
        ("sweep", "via", "pigeon", "'stream'"),
        ("applications", "via", "pigeon", "'stream'"),
        ("sweep", "temperature", "hot", "a valid number"),
        ("sweep", "grammar", "root ::= digit", "length='natural'"),
        ("sweep", "length", "long", "'natural'"),
        ("cold_start", "reading", "nmap", "did you mean 'mmap'"),
        ("cold_start", "page_cache", "cold", "as_is, resident, evicted"),
        ("cold_start", "use_mlock", "true", "give reading", "-y"),
        ("warm_runs", "page_cache", "''", "'resident'", "-y"),
        ("warm_up", "warm_up", "none", "to compare it with"),
        ("warm_up", "page_cache", "[resident, gone]", "'evicted'", "-y"),
        ("memory_locking", "memory_limit", "64", "16 MiB at least"),
        ("memory_locking", "memory_limit", "1 MiB", "give more"),
        ("conversation", "conversation", "de", "'fr' or 'en'"),
        ("memory_ledger", "budget", "plenty", "'6 GiB'"),
        ("threads", "cores", "fast", "any, physical, performance"),
        ("everything", "preset", "fast", "quick, standard, rigorous"),
        ("everything", "questions", "warmup", "did you mean 'warm_up'"),
        # a prompt of one's own
        ("sweep", "prompt_file", "nosuch.txt", "does not exist"),
        ("sweep", "prompt_file", "notebooks", "is a folder"),
        ("sweep", "prompt_file", "outputs/.gitkeep", "is empty"),
        ("sweep", "prompt", "[{role: user}]", "no chat", "-y"),
        ("advise", "prompt_file", "docs/sweep.png", "no text"),
        ("advise", "prompt", "' '", "is empty", "-y"),
        ("advise", "turns", "-1", "from 0 to"),
        ("advise", "tokens_per_turn", "8\nturns: 5", "max_tokens=32", "-y"),
        # what does not go together
        ("sweep", "prompt_tokens", "[64, 600]", "max_tokens=32 need 632"),
        ("sweep", "prefix_tokens", "448", "leaves nothing to evaluate"),
        ("warm_up", "n_ctx", "256", "system"),
        ("batch_size", "n_ubatch", "2048", "within n_batch"),
        ("sweep", "n_ubatch", "1024", "beside n_ctx=512"),
        ("sweep", "type_v", "q8_0", "flash_attn=true"),
        ("warm_runs", "n_batch", "8192", "beside n_ctx="),
        # times and names of runs
        ("sweep", "timeout_s", "inf", "finite"),
        ("prompt_size", "timeout_s", "0", "greater than 0"),
        ("sweep", "minutes", "-1", "greater than or equal to 0"),
        ("cold_start", "minutes", "[5, 10]", "one value", "-y"),
        ("prompt_size", "minutes", "inf", "finite"),
        ("advise", "minutes", "soon", "number"),
        ("sweep", "stop_when_decided", "perhaps", "boolean"),
        ("knobs", "stop_when_decided", "2", "boolean"),
        ("sweep", "run_id", "../up", "folder"),
        ("memory_locking", "run_id", "con", "device"),
    )
]


class Ended(NamedTuple):
    """How a notebook that was given a wrong parameter ended."""

    wrong: Wrong
    problem: str
    """What is not as it must be; empty where it was refused in one sentence."""


GUARD = """
import os, pathlib, sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "llama_cpp":
            pathlib.Path(os.environ["TOLD_OF_LLAMA"], str(os.getpid())).touch()

sys.meta_path.insert(0, Guard())
"""


def environment(folder: Path) -> dict[str, str]:
    """Return an environment in which an import of llama_cpp leaves a mark in ``folder/marks``."""
    for name in ("guard", "marks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "guard" / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    before = os.environ.get("PYTHONPATH")
    return dict(
        os.environ,
        LLM_LATENCY_OUTPUTS=str(folder / "outputs"),
        LLM_LATENCY_CACHE=str(folder / "cache"),
        TOLD_OF_LLAMA=str(folder / "marks"),
        PYTHONPATH=os.pathsep.join(filter(None, [str(folder / "guard"), before])),
    )


def left_behind(folder: Path) -> list[str]:
    """Return what shows that something was imported, made or stored."""
    return [
        f"{name}/{path.relative_to(folder / name)}"
        for name in ("marks", "cache", "outputs")
        for path in sorted((folder / name).rglob("*"))
    ]


def refuse(wrong: Wrong, folder: Path) -> Ended:
    """Let papermill run a notebook with one wrong parameter, and look at how it ended."""
    for _ in range(3):
        done, cells = _papermill(wrong, folder)
        if any(cell.get("execution_count") for cell in cells):
            break  # else no kernel came up: two that start at once may choose the same port
    errors = [
        output
        for cell in cells
        for output in cell.get("outputs", [])
        if output["output_type"] == "error"
    ]
    said = " ".join(f"{error['ename']}: {error['evalue']}" for error in errors)
    if done.returncode == 0 or len(errors) != 1:
        told = said[:300] or done.stderr.strip()[-300:]
        return Ended(wrong, f"not refused: exit code {done.returncode} {told}")
    if errors[0]["ename"] != "ParameterError" or "\n" in errors[0]["evalue"]:
        return Ended(wrong, f"not one sentence: {said[:300]}")
    for word in (wrong.name, wrong.words):
        if word not in said:
            return Ended(wrong, f"{word!r} is not in the sentence: {said[:300]}")
    if found := left_behind(folder):
        return Ended(wrong, f"refused, but left {found}")
    return Ended(wrong, "")


def _papermill(
    wrong: Wrong, folder: Path
) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    out = folder / "out.ipynb"
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-level", "ERROR",
         f"notebooks/{wrong.notebook}.ipynb", str(out), *wrong.arguments],
        cwd=ROOT, env=environment(folder), capture_output=True, text=True, timeout=280,
        check=False,
    )  # fmt: skip
    if not out.exists():
        return done, []
    return done, json.loads(out.read_text(encoding="utf-8"))["cells"]


def refuse_all(cases: Sequence[Wrong], folder: Path, at_once: int = 2) -> Iterator[Ended]:
    """Try several wrong parameters, some at a time, each in a place of its own."""
    with ThreadPoolExecutor(at_once) as pool:
        places = [folder / str(number) for number in range(len(cases))]
        yield from pool.map(refuse, cases, places)
