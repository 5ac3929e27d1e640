"""Lines to paste: the advised settings for llama-cpp-python, for llama-server, and to verify."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

import pandas as pd
from IPython.display import Markdown

from llm_latency.model.gguf import FORMATS
from llm_latency.plan.parameters import as_list
from llm_latency.plan.serving import flags
from llm_latency.plan.settings import Settings
from llm_latency.questions.advise.judgement import View
from llm_latency.questions.advise.options import Option, settings_in_use
from llm_latency.questions.advise.planning import plan
from llm_latency.questions.advise.threads import FROM_ROUND, Threads
from llm_latency.questions.notebook import defaults
from llm_latency.words import cpus_listed

OTHERS = ("use_mmap", "use_mlock", "offload_kqv", "type_k", "type_v", "swa_full", "op_offload")
"""Settings that are told only where they are not the usual ones."""

LEFT_OUT = ("run_id", "repeat_disturbed", "wait_s")
"""Parameters of a run that another run of the same needs does not share."""


def lines(view: View) -> Markdown:
    """Return the lines that set what is advised, and that verify it."""
    one, best = view.advice.chosen, view.advice.threads
    blocks = ["Nothing meets the needs, so there is nothing to paste."]
    if one is not None:
        blocks = [
            llama(view.rows, one, view.info, best),
            server(view.rows, one, view.info, best),
            verify(one, view.info, best),
        ]
    # Letter by letter: what is pasted must have plain spaces before its units.
    return Markdown("\n\n".join(blocks))  # type: ignore[no-untyped-call]


def llama(
    df: pd.DataFrame, one: Option, info: Mapping[str, Any], best: Threads | None = None
) -> str:
    """Return the call of ``Llama`` with everything that was in force."""
    settings = _settings(df, one, best)
    names = ("n_ctx", "n_batch", "n_ubatch", "n_gpu_layers", "n_threads", "n_threads_batch")
    values = {name: settings[name] for name in names if settings[name] is not None}
    values["flash_attn"] = settings["flash_attn"]
    for name in OTHERS:
        if settings[name] != Settings.model_fields[name].default:
            value = settings[name]
            values[name] = FORMATS[value].number if name.startswith("type") else value
    lines = ["from llama_cpp import Llama", "", "llm = Llama("]
    if best is not None and best.cpus:
        pin = f"psutil.Process().cpu_affinity({sorted(cpus_listed(best.cpus))})"
        lines = [
            "import psutil",
            lines[0],
            "",
            f"{pin}  # before llama.cpp begins threads",
            lines[-1],
        ]
    lines += [f"    model_path={_path(info)!r},"]
    lines += [f"    {name}={value!r}," for name, value in values.items()]
    return _block("In Python:", "python", "\n".join([*lines, ")"]))


def _settings(df: pd.DataFrame, one: Option, best: Threads | None) -> dict[str, Any]:
    """Return the settings in force, with the threads that are advised."""
    settings = settings_in_use(df[df["round"] < FROM_ROUND], one)
    if best is None or best.n_threads is None:
        return settings
    kept = {} if one.settings.n_threads_batch else {"n_threads_batch": best.n_threads}
    return settings | {"n_threads": best.n_threads} | kept


def server(
    df: pd.DataFrame, one: Option, info: Mapping[str, Any], best: Threads | None = None
) -> str:
    """Return the command of ``llama-server`` that does the same, its own defaults switched off."""
    words = ["taskset", "-c", best.cpus] if best is not None and best.cpus else []
    words += ["llama-server", "-m", _path(info), *flags(Settings(**_settings(df, one, best)))]
    return _block(
        "With llama.cpp's server, of the release that this engine holds:", "sh", shlex.join(words)
    )


def verify(one: Option, info: Mapping[str, Any], best: Threads | None = None) -> str:
    """Return the command that measures these settings alone, against the same needs."""
    words = ["papermill", "advise.ipynb", "verify.ipynb"]
    for name, value in parameters_to_verify(one, info, best).items():
        chat = name == "prompt" and not isinstance(value, str)
        words += ["-y", json.dumps({name: value})] if chat else ["-p", name, _typed(value)]
    text = (
        "To verify these settings in new processes, of llama.cpp's server too, in the folder of "
        "the notebooks:"
    )
    return _block(text, "sh", shlex.join(words))


def parameters_to_verify(
    one: Option, info: Mapping[str, Any], best: Threads | None = None
) -> dict[str, Any]:
    """Return the parameters of ``advise`` that measure one candidate against the same needs."""
    usual = defaults(plan)
    names = ["n_ubatch", "flash_attn", "n_gpu_layers"]
    names += [name for name in ("type_k", "type_v") if getattr(one.settings, name) != "f16"]
    chosen = {name: getattr(one.settings, name) for name in names}
    if best is not None:
        chosen |= best.to_set
    kept = {
        name: value
        for name, value in dict(info["plan"]["parameters"]).items()
        if name in usual and name not in LEFT_OUT and value != usual[name]
    }
    ways = as_list("via", kept.get("via", usual["via"]))
    return {**kept, **chosen, "via": [*ways, *["server"] * ("server" not in ways)]}


def _typed(value: Any) -> str:
    """Return a parameter's value as it is typed behind ``-p``."""
    return json.dumps(value) if isinstance(value, list) else str(value)


def _path(info: Mapping[str, Any]) -> str:
    return str((info.get("model") or {}).get("path") or "model.gguf")


def _block(text: str, language: str, code: str) -> str:
    """Return a sentence and a block of code; nothing in the code can end the block."""
    fence = "~" * max(
        3, 1 + max((len(run) for run in code.split() if set(run) == {"~"}), default=0)
    )
    return f"{text}\n\n{fence}{language}\n{code}\n{fence}"
