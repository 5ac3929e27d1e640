"""How many tokens a user's own prompt has: ``python -m llm_latency.engine.token_count``.

A child counts them, as the measured process will, by the vocabulary in the file's header: before
a weight is read, and where a damaged file may end the process.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from llm_latency.base import Part
from llm_latency.errors import LabError, ParameterError
from llm_latency.plan.settings import padded
from llm_latency.plan.spec import Trial
from llm_latency.plan.workload import LOSS_BLOCK, Workload

COMMAND = (sys.executable, "-m", "llm_latency.engine.token_count")
TIMEOUT_S = 120.0
"""How long the child may take."""


class Request(Part):
    """Whose prompt is to be counted by which model's vocabulary."""

    path: str
    workload: Workload


class Count(Part):
    """Its tokens; or why nobody can tell."""

    tokens: int | None = None
    why: str = ""


def count(path: Path, workload: Workload) -> int:
    """Return how many tokens a workload's own prompt has.

    Parameters
    ----------
    path
        The model's file; behind its header there may be a hole.
    workload
        Of a ``prompt`` or of ``messages``.

    Raises
    ------
    LabError
        If llama.cpp cannot read the vocabulary, or is not here.
    """
    request = Request(path=str(path), workload=workload)
    with contextlib.suppress(OSError, subprocess.TimeoutExpired, ValidationError):
        done = subprocess.run(
            COMMAND,
            input=request.model_dump_json(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            timeout=TIMEOUT_S,
            check=False,
        )
        answer = Count.model_validate_json(done.stdout)
        if answer.tokens is not None:
            return answer.tokens
        raise LabError(f"the prompt's tokens cannot be counted ({answer.why}); take another model")
    raise LabError(
        "the prompt's tokens cannot be counted: llama.cpp does not read this vocabulary; run "
        "'python -m llm_latency doctor' to see what is missing"
    )


def check_room(path: Path, cells: Iterable[Trial]) -> None:
    """Refuse an own prompt that does not fit a context together with its answer.

    And one that is too short to tell what a KV cache loses.

    Raises
    ------
    ParameterError
        One sentence that says how many tokens it has, and how many are wanted.
    """
    own = [c for c in cells if c.workload.prompt is not None or c.workload.messages is not None]
    known = {one: count(path, one) for one in dict.fromkeys(cell.workload for cell in own)}
    for cell in own:
        tokens, answer, n_ctx = known[cell.workload], cell.workload.max_tokens, cell.settings.n_ctx
        if (need := tokens + answer) > n_ctx:
            raise ParameterError(
                f"n_ctx={n_ctx} is refused: the prompt has {tokens:,} tokens, which with "
                f"max_tokens={answer} need {need:,}; give n_ctx={padded(need)} or more, or a "
                "shorter prompt."
            )
        if cell.workload.quality_against and tokens < LOSS_BLOCK:
            raise ParameterError(
                f"the prompt is refused: it has {tokens} tokens, and what a KV cache loses is told "
                f"by {LOSS_BLOCK} or more; give a longer text."
            )


def main() -> None:
    """Answer the request on standard input with a line on standard output."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what llama.cpp prints is no answer
    request = Request.model_validate_json(sys.stdin.read())
    try:
        from llm_latency.engine import prompts
        from llm_latency.engine.vocabulary import Vocabulary

        vocabulary = Vocabulary.of(Path(request.path))
        asked = prompts.question(vocabulary, request.workload, 0).prompt
        answer = Count(tokens=len(vocabulary.tokenize(asked) if isinstance(asked, str) else asked))
    except Exception as error:  # whatever it is, the parent is told
        answer = Count(why=" ".join(str(error).split()))
    answers.write(answer.model_dump_json())
    answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
