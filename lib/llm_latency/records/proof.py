"""What a figure must prove before it is believed.

A generation proves by llama.cpp's own counters that every prompt token was evaluated and every
token asked for was generated; a record proves that the settings asked for were in force. What
cannot prove it is marked ``invalid`` with the reason: it is kept, and never averaged in.
"""

from __future__ import annotations

from llm_latency.plan.spec import PageCache
from llm_latency.records.record import PageCacheState, Record
from llm_latency.words import cpu_list, cpus_listed, several

EVICTED_AT_MOST = 0.02
"""Resident share up to which a file counts as evicted: other files' readahead may bring pages."""
RESIDENT_AT_LEAST = 0.98
"""Resident share from which a file counts as resident."""


def problem(
    *, prompt: int, prefix: int, cached: int, evaluated: int, asked: int | None, generated: int
) -> str | None:
    """Return which proof of one generation failed, as a sentence; ``None`` where all held.

    Parameters
    ----------
    prompt
        Tokens of the prompt.
    prefix
        How many of them were to be in the KV cache beforehand; 0 is a cold cache.
    cached
        How many tokens the KV cache held when the clock started.
    evaluated
        Prompt tokens that llama.cpp says it evaluated.
    asked, generated
        Tokens to generate (``None``: as many as it takes), and tokens that came.
    """
    mode = f"a prefix of {prefix} tokens" if prefix else "cold"
    if cached != prefix:
        return f"{mode} was asked, but {cached} tokens were in the KV cache"
    if evaluated != prompt - prefix:
        return (
            f"{mode} was asked, but llama.cpp evaluated {evaluated} of the "
            f"{prompt - prefix} prompt tokens that were left"
        )
    if asked is not None and generated != asked:
        return f"{asked} tokens were to be generated, {generated} came"
    return None


def proven(record: Record, file_bytes: int) -> Record:
    """Return the record, marked ``invalid`` with the reason if one of its proofs failed.

    ``file_bytes`` is the size of the model's file, all of which loading must have read where
    it was to be put out of the page cache.
    """
    if record.status != "ok":
        return record
    read_bytes = record.between("before", "after_load", "read_bytes")
    asked = record.trial.start.page_cache
    start = wrong_start(asked, record.page_cache, read_bytes, file_bytes)
    reasons = [
        *([start] if start else []),
        *not_in_force(record),
        *([unlimited] if (unlimited := _unlimited(record)) else []),
        *([elsewhere] if (elsewhere := _elsewhere(record)) else []),
        *(g.problem for g in record.generations if g.problem),
        *([lost] if (lost := _not_compared(record)) else []),
    ]
    if not reasons:
        return record
    return record.model_copy(
        update={"status": "invalid", "reason": "; ".join(dict.fromkeys(reasons))}
    )


def wrong_start(
    wanted: PageCache, state: PageCacheState, read_bytes: int | None, size: int
) -> str | None:
    """Return why a trial did not start as it was to; ``None`` where it did.

    Parameters
    ----------
    wanted, state
        What was asked for, and what was prepared.
    read_bytes
        What the process had read from the disk when the model was loaded; ``None``: unknown.
    size
        Of the file, in bytes.
    """
    if state.in_force != wanted or state.resident_before is None:
        return None
    share = state.resident_before
    if wanted == "evicted":
        if share > EVICTED_AT_MOST:
            return (
                f"evicted was asked, but {share:.0%} of the model file stayed in RAM: another "
                "process has it mapped; close it, or give page_cache=as_is"
            )
        if read_bytes is not None and read_bytes < 0.9 * size:
            return (
                f"evicted was asked, but loading read {read_bytes / 2**20:.0f} MiB of "
                f"{size / 2**20:.0f} MiB from the disk"
            )
    if wanted == "resident":
        if share < RESIDENT_AT_LEAST:
            return (
                f"resident was asked, but only {share:.0%} of the model file was in RAM: free "
                "some, or give page_cache=as_is"
            )
        if read_bytes is not None and read_bytes > 0.05 * size + 2**22:
            return (
                f"resident was asked, but loading read {read_bytes / 2**20:.0f} MiB from the disk"
            )
    return None


def _unlimited(record: Record) -> str | None:
    """Return why memory was not limited, where that was asked for."""
    limit = record.memory_limit
    if limit is None or limit.by is not None:
        return None
    return f"memory_limit_bytes={limit.asked_bytes} was asked and is not in force: {limit.why}"


def _not_compared(record: Record) -> str | None:
    """Return why a loss of quality is not known, where that was asked for."""
    against = record.trial.workload.quality_against
    if against and record.quality is None:
        return f"quality_against={against} was asked, and no figure of it came"
    return record.quality.problem if record.quality else None


def _elsewhere(record: Record) -> str | None:
    """Return which CPUs beside those asked for a thread could run on; ``None``: there are none."""
    asked, told = record.trial.start.cores, record.affinity
    if asked is None:
        return None
    words = f"cores={asked if isinstance(asked, str) else list(asked)} was asked"
    if told.pinned is None or not told.threads:
        return f"{words}, and on which CPUs the threads ran was not told"
    own = cpus_listed(told.pinned) if isinstance(asked, str) else set(asked)
    for phase, threads in told.threads.items():
        for cpus, count in threads.items():
            if not cpus_listed(cpus) <= own:
                return (
                    f"{words}, which is {cpu_list(own)}, and {several(count, 'thread')} could run "
                    f"on {cpus} ({phase.replace('_', ' ')})"
                )
    return None


def not_in_force(record: Record) -> list[str]:
    """Return a sentence per setting that was asked for and is not in force.

    ``n_ctx`` may be larger than asked: llama.cpp pads it to 256. A setting left to the engine
    (``None``, or all layers, which is -1 or as many as the model has) cannot fail.
    """
    asked, real = record.trial.settings, record.effective
    if real is None:
        return []
    wanted = asked.model_dump(exclude={"n_ctx", "n_gpu_layers", "offload_kqv", "n_cpu_moe"})
    found = [
        (name, value, getattr(real, name))
        for name, value in wanted.items()
        if value not in (None, "auto")
        and getattr(real, name) is not None
        and value != getattr(real, name)
    ]
    if real.n_ctx < asked.n_ctx:
        found.append(("n_ctx", asked.n_ctx, real.n_ctx))
    everything = real.all_layers is not None and asked.n_gpu_layers >= real.all_layers
    if asked.n_gpu_layers > 0 and not everything and real.n_gpu_layers != asked.n_gpu_layers:
        found.append(("n_gpu_layers", asked.n_gpu_layers, real.n_gpu_layers))
    if asked.n_cpu_moe is not None and real.n_cpu_moe == 0:
        found.append(("n_cpu_moe", asked.n_cpu_moe, 0))
    why = {
        "n_batch": f"n_batch is limited to n_ctx={asked.n_ctx}",
        "n_ubatch": "n_ubatch is limited to n_batch",
        "use_mlock": "the system locked nothing; raise its limit (ulimit -l)",
        "n_gpu_layers": "the engine has no GPU; give n_gpu_layers=0",
        "n_cpu_moe": "the model has no experts there; leave it out",
    }
    return [
        f"{name}={value} was asked, {have} is in force" + (f" ({why[name]})" if name in why else "")
        for name, value, have in found
    ]
