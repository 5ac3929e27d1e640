"""What a figure must prove before it is believed.

A generation proves by llama.cpp's own counters that every prompt token was evaluated and every
token asked for was generated; a record proves that the settings asked for were in force. What
cannot prove it is marked ``invalid`` with the reason: it is kept, and never averaged in.
"""

from __future__ import annotations

from llm_latency.record import Record


def problem(asked: tuple[int, int | None], counted: tuple[int, int], cached: int) -> str | None:
    """Return which proof of one generation failed, as a sentence; ``None`` where all held.

    Parameters
    ----------
    asked
        Prompt tokens, and tokens to generate (``None``: as many as it takes).
    counted
        Prompt tokens that llama.cpp evaluated, and tokens that came.
    cached
        Tokens in the KV cache when the clock started.
    """
    if cached:
        return f"cold was asked, but {cached} tokens were still in the KV cache"
    if counted[0] != asked[0]:
        return f"cold was asked, but llama.cpp evaluated {counted[0]} of {asked[0]} prompt tokens"
    if asked[1] is not None and counted[1] != asked[1]:
        return f"{asked[1]} tokens were to be generated, {counted[1]} came"
    return None


def proven(record: Record) -> Record:
    """Return the record, marked ``invalid`` with the reason if one of its proofs failed."""
    if record.status != "ok":
        return record
    reasons = not_in_force(record) + [g.problem for g in record.generations if g.problem]
    if not reasons:
        return record
    return record.model_copy(
        update={"status": "invalid", "reason": "; ".join(dict.fromkeys(reasons))}
    )


def not_in_force(record: Record) -> list[str]:
    """Return a sentence per setting that was asked for and is not in force.

    ``n_ctx`` may be larger than asked: llama.cpp pads it to 256. A setting left to the engine
    (``None``, or -1 layers) cannot fail.
    """
    asked, real = record.trial.settings, record.effective
    if real is None:
        return []
    wanted = asked.model_dump(exclude={"n_ctx", "n_gpu_layers", "offload_kqv"})
    found = [
        (name, value, getattr(real, name))
        for name, value in wanted.items()
        if value is not None and getattr(real, name) is not None and value != getattr(real, name)
    ]
    if real.n_ctx < asked.n_ctx:
        found.append(("n_ctx", asked.n_ctx, real.n_ctx))
    if asked.n_gpu_layers > 0 and real.n_gpu_layers != asked.n_gpu_layers:
        found.append(("n_gpu_layers", asked.n_gpu_layers, real.n_gpu_layers))
    why = {
        "n_batch": f"n_batch is limited to n_ctx={asked.n_ctx}",
        "n_ubatch": "n_ubatch is limited to n_batch",
        "use_mlock": "the system locked nothing; raise its limit (ulimit -l)",
        "n_gpu_layers": "the engine has no GPU, or the model fewer layers",
    }
    return [
        f"{name}={value} was asked, {have} is in force" + (f" ({why[name]})" if name in why else "")
        for name, value, have in found
    ]
