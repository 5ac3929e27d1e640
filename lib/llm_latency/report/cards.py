"""Two-column cards out of a run's ``run.json``: its parameters, the machine, the model.

What could not be had is shown as not available, with the reason where the run knows one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from llm_latency.plan.parameters import shown
from llm_latency.plan.spec import HOME
from llm_latency.words import MIB, file_name, missing, number


def parameters(info: Mapping[str, Any]) -> pd.DataFrame:
    """Return the parameters that the run was given, as two columns.

    Parameters
    ----------
    info
        The content of ``run.json``.
    """
    plan = info.get("plan") or {}
    told = (plan.get("parameters") or {}).items()
    given = [(name, value) for name, value in told if value is not None]  # None: not asked for
    lines = [(name, _given(name, value)) for name, value in given if name != "candidates"]
    return _card(lines, ("parameter", "value"))


def machine(info: Mapping[str, Any]) -> pd.DataFrame:
    """Return the card of the machine, its GPU, the engine and the versions, as two columns.

    Parameters
    ----------
    info
        The content of ``run.json``; whatever it lacks is said to be missing, with the reason
        where one is given.
    """
    told = dict(info.get("machine") or {})
    card = {name: told[name] for name in told if name not in LIMITS or not missing(told[name])}
    gpu = dict(card.pop("gpu", None) or info.get("gpu") or {})
    build = dict(card.pop("engine_build", None) or {})
    lines = list(_lines(card, MACHINE))
    if gpu.get("available"):
        gpu.pop("available")
        gpu = {name: value for name, value in gpu.items() if name != "note" or value}
        lines += [(f"GPU {name}", value) for name, value in _lines(gpu, {})]
    else:
        lines.append(("GPU", _absent(gpu.get("why"))))
    engine = dict(info.get("engine") or {})
    devices = engine.pop("devices", None) or []
    lines += [(f"engine {name}", value) for name, value in _lines(engine, {})]
    lines += [(f"device {device.get('name')}", device_words(device)) for device in devices]
    lines += [(f"build {name}", value) for name, value in _lines(build, {})]
    lines += list((info.get("versions") or {}).items())
    return _card(lines, ("machine", str(info.get("on") or "")))


def engines(info: Mapping[str, Any]) -> pd.DataFrame:
    """Return the builds of a run of several engines side by side, and where their features differ.

    Parameters
    ----------
    info
        The content of ``run.json``.
    """
    build = (info.get("machine") or {}).get("engine_build")
    home = {"engine": info.get("engine"), "build": build, "versions": info.get("versions")}
    known = {HOME: home} | dict(info.get("engines") or {})
    cells = (info.get("plan") or {}).get("cells") or []
    used = dict.fromkeys((cell.get("start") or {}).get("engine") or HOME for cell in cells)
    cards = {name: known[name] for name in used if name in known} or known
    told = [features((one.get("engine") or {}).get("system_info") or "") for one in cards.values()]
    every = dict.fromkeys(name for one in told for name in one)
    same = [name for name in every if len({one.get(name) for one in told}) == 1]
    rows: dict[str, list[str]] = {
        "llama-cpp-python": [
            _value("", (one.get("versions") or {}).get("llama_cpp_python"), None)
            for one in cards.values()
        ]
    }
    for label, key in {"build": "engine", "options": "cmake_args", "compiler": "compiler",
                       "built at": "built_at"}.items():  # fmt: skip
        builds = [one.get("build") or {} for one in cards.values()]
        rows[label] = [_value(key, one.get(key), one.get("why")) for one in builds]
    rows["devices"] = [
        ", ".join(d["name"] for d in (one.get("engine") or {}).get("devices") or []) or "–"
        for one in cards.values()
    ]
    rows |= {name: [one.get(name, "–") for one in told] for name in every if name not in same}
    rows["in force in all"] = [", ".join(name for name in same if told[0][name] != "0")] * len(told)
    table = pd.DataFrame(
        [[label, *values] for label, values in rows.items()],
        columns=["", *(file_name(name) for name in cards)],
        dtype=object,
    )
    table.attrs["caption"] = "Features: what llama.cpp was compiled for and found, its own words."
    return table


def features(system_info: str) -> dict[str, str]:
    """Return llama.cpp's ``CPU : AVX = 1 | AVX2 = 1 |`` by name; a device's with its own before."""
    found, device = {}, ""
    for part in system_info.split("|"):
        head, _, rest = part.rpartition(" : ")
        device = head.strip() or device
        name, equals, value = rest.partition(" = ")
        if equals:
            own = "" if device in ("", "CPU") else f"{device} "
            found[own + name.strip()] = value.strip()
    return found


def device_words(device: Mapping[str, Any]) -> str:
    """Return what the engine says of a device, as one line."""
    sizes = {"": device.get("total_bytes"), " free": device.get("free_bytes")}
    told = [f"{_value('_bytes', size, None)}{word}" for word, size in sizes.items() if size]
    shared = "unified: its memory is the RAM" if device.get("unified") else None
    parts = (device.get("description"), device.get("kind"), *told, shared)
    return ", ".join(str(part) for part in parts if part)


def model(info: Mapping[str, Any]) -> pd.DataFrame:
    """Return the card of the model as two columns.

    Parameters
    ----------
    info
        The content of ``run.json``.
    """
    card = {
        name: value for name, value in (info.get("model") or {}).items() if name not in LEFT_OUT
    }
    if name := card.get("name"):
        card["name"] = file_name(str(name))
    return _card(_lines(card, MODEL), ("model", ""))


def _given(name: str, value: Any) -> Any:
    """Return a parameter as the page shows it; of a file only its name."""
    if name in ("model", "prompt_file"):
        return file_name(str(value))
    if name == "prompt":
        return shown(value) if value else ""
    return str(value) if isinstance(value, bool) else value


MACHINE = {
    "cpu": "CPU",
    "physical_cores": "physical cores",
    "logical_cpus": "logical CPUs",
    "usable_cpus": "threads by default",
    "threads_from": "these come from",
    "ram_bytes": "RAM",
    "system": "system",
    "governor": "CPU frequency governor",
    "on_battery": "on battery",
    "power_profile": "power profile",
    "cpu_features": "CPU features",
}
LIMITS = ("quota_cpus", "memory_limit_bytes")
"""Of the machine's card: what is not there where nothing is limited."""
MODEL = {
    "name": "name",
    "title": "title",
    "architecture": "architecture",
    "quantisation": "quantisation",
    "parameters": "parameters",
    "size_bytes": "file",
    "sha256": "SHA-256",
    "kv_bytes_per_token": "KV cache per token",
}
LEFT_OUT = ("path", "notice")
"""Of the model's card: the path tells of the machine, the notice stands at the page's head."""


def _lines(card: Mapping[str, Any], known: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Yield label and value: first what should be known, even if it is missing; then the rest."""
    why = card.get("why")
    for name, label in known.items():
        yield label, _value(name, card.get(name), card.get(f"{name}_why") or why)
    for name, value in card.items():
        if name in known or name == "why" or name.endswith("_why"):
            continue
        label = name.removesuffix("_bytes").replace("_", " ")
        yield label, _value(name, value, card.get(f"{name}_why") or why)


def _value(name: str, value: Any, why: Any) -> str:
    """Return a card's value in the units of the screen."""
    if missing(value) or value in ("", [], {}):
        return _absent(why)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if name.endswith("_bytes") or name.endswith("_bytes_per_token"):
            return f"{number(value * MIB)} MiB" if value >= 2**18 else f"{value:,} bytes"
        if name.endswith("_hz"):
            return f"{number(value / 1e6)} MHz"
        if name.endswith("_w"):
            return f"{number(value)} W"
        return f"{value:,}" if isinstance(value, int) else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return str(value)


def _absent(why: Any) -> str:
    return f"not available: {why}" if why else "not available"


def _card(lines: Iterable[tuple[str, Any]], header: tuple[str, str]) -> pd.DataFrame:
    rows = [
        (
            name,
            "empty"
            if value == ""
            else value
            if isinstance(value, str)
            else _value(name, value, None),
        )
        for name, value in lines
    ]
    table = pd.DataFrame(rows, columns=list(header), dtype=object)
    table.attrs["card"] = True
    return table
