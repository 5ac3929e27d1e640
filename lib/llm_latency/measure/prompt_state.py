"""A prompt's KV cache on the disk, made before the trials that restore it.

A process that made it would have touched all weights, and its first reply would not be the
first: so it is made by a process of its own, once for all trials of a cell. The file is trusted
only beside its card, which is written when the file is whole.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from llm_latency.engine import log as llama_log
from llm_latency.errors import LabError
from llm_latency.machine import page_cache
from llm_latency.machine.devices import GpuWatch
from llm_latency.measure import process
from llm_latency.measure.job import Job
from llm_latency.measure.outcome import Circumstances, outcome_of, tail_of
from llm_latency.records import files
from llm_latency.records.folders import TrialFiles, size_of
from llm_latency.records.record import StateFile, Status


class NoState(Exception):
    """The prompt's stored state could not be made; its making ended like this."""

    def __init__(self, status: Status, reason: str | None, exit_code: int) -> None:
        super().__init__(reason)
        self.status, self.reason, self.exit_code = status, reason, exit_code


def stored_state(job: Job, model: Path) -> StateFile:
    """Have the prompt's KV cache on the disk, and return its card.

    Raises
    ------
    NoState
        If the process that was to make it failed.
    LabError
        If there is no room for it: no trial's fault, and to be made when there is.
    """
    state = job.files.state
    if (card := _whole(job.files)) is None:
        try:
            card = _make(job, model)
            files.write(job.files.state_card, card.model_dump_json())
        except OSError as error:
            raise LabError(
                f"a prompt's state cannot be kept in {state.parent} ({error.strerror}); make room "
                "there, and run again with the same run_id to go on"
            ) from None
    page_cache.prepare(state, job.trial.start.page_cache)
    return card


def _make(job: Job, model: Path) -> StateFile:
    state, log = job.files.state, job.files.log
    state.parent.mkdir(parents=True, exist_ok=True)
    circumstances = Circumstances(job.timeout_s, log, log_start=size_of(log))
    request = job.request(model).model_copy(update={"make_state": True})
    with GpuWatch() as gpu:
        transcript = process.run_child(
            job.command, request, gpu, timeout_s=job.timeout_s, hide_gpu=job.hides_gpu
        )
    status, reason = outcome_of(transcript, circumstances.after(None))
    made = transcript.latest("state")
    if status == "ok" and isinstance(made, StateFile):
        return made
    with contextlib.suppress(OSError, ValueError):
        state.with_name(f"{state.name}.{transcript.pid}").unlink()  # half of it, and in the way
    if full := llama_log.no_room(f"{reason} {tail_of(log, circumstances.log_start)}"):
        raise OSError(0, full)
    raise NoState("crashed" if status == "ok" else status, reason, transcript.exit_code)


def _whole(trial_files: TrialFiles) -> StateFile | None:
    """Return the card of a state that is whole; ``None`` where a kill came between the two."""
    try:
        text = trial_files.state_card.read_text(encoding="utf-8")
        card = StateFile.model_validate_json(text)
        return card if trial_files.state.stat().st_size == card.bytes else None
    except (OSError, ValueError):
        return None
