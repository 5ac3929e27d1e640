"""The machine: its card, the versions of what runs on it, and the memory of this process."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import uuid
from pathlib import Path
from typing import Any

import psutil
from pydantic import Field

from llm_latency.base import Part
from llm_latency.machine import limits, power
from llm_latency.records.record import ProcessMemory

VARIABLE = "LLM_LATENCY_MACHINE"
"""Environment variable with a name for this machine, where the lab cannot tell it from others."""


class MachineCard(Part):
    """What does not change while a run lasts."""

    machine_id: str = Field(description="A hash that tells machines apart, and no name")
    system: str
    architecture: str
    cpu: str
    physical_cores: int | None
    logical_cpus: int
    usable_cpus: int = Field(description="Threads by default: cores that this process may use")
    threads_from: str | None = Field(None, description="How that number came about")
    quota_cpus: float | None = Field(None, description="CPUs' time that cgroups leave to it")
    cpu_features: list[str]
    ram_bytes: int
    memory_limit_bytes: int | None = Field(None, description="The cgroups' limit of its memory")
    governor: str | None
    on_battery: bool | None = None
    on_battery_why: str | None = Field(None, description="Why that is not known")
    power_profile: str | None = None
    power_profile_why: str | None = Field(None, description="Why that is not known")
    python: str
    engine_build: dict[str, Any] = Field(description="How llama.cpp was compiled, if known")


def _cpu_info() -> tuple[str, list[str]]:
    wanted = "avx avx2 fma f16c bmi2 avx512f avx512_vnni amx_tile amx_int8 asimddp i8mm sve"
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine(), []
    fields = {
        name.strip(): value.strip()
        for name, _, value in (line.partition(":") for line in text.splitlines())
    }
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    features = [flag for flag in wanted.split() if flag in flags]
    return fields.get("model name", platform.machine()), features


def engine_build() -> dict[str, Any]:
    """Return how the installed engine was compiled: what ``bootstrap.py`` wrote down."""
    try:
        facts = json.loads((Path(sys.prefix) / "engine-build.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"why": "llama-cpp-python was not installed by bootstrap.py"}
    return facts if isinstance(facts, dict) else {}


def machine_id() -> str:
    """Return what tells this machine from others, the same at every start of it.

    Machines of one image may all have one name, so the network card and the CPU count too. Who
    has the hash cannot tell the name.
    """
    node = uuid.getnode()
    random = node >> 40 & 1  # without a network card Python makes a number up, and marks it
    told = os.environ.get(VARIABLE) or (
        f"{platform.node()} {'' if random else f'{node:012x}'} {_cpu_info()[0]}"
    )
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def machine_card() -> MachineCard:
    """Return the card of this machine."""
    (cpu, features), fed = _cpu_info(), power.now()
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return MachineCard(
        machine_id=machine_id(),
        system=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        cpu=cpu,
        physical_cores=psutil.cpu_count(logical=False),
        logical_cpus=os.cpu_count() or 1,
        usable_cpus=limits.usable_cpus(),
        threads_from=limits.why_usable(),
        quota_cpus=limits.quota_cpus(),
        cpu_features=features,
        ram_bytes=psutil.virtual_memory().total,
        memory_limit_bytes=limits.memory_quota_bytes(),
        governor=governor.read_text().strip() if governor.exists() else None,
        on_battery=fed.on_battery,
        on_battery_why="no battery is told of" if fed.on_battery is None else None,
        power_profile=fed.power_profile,
        power_profile_why="the system tells of none" if fed.power_profile is None else None,
        python=platform.python_version(),
        engine_build=engine_build(),
    )


def versions() -> dict[str, str]:
    """Return the versions of the lab and of what the figures depend on."""
    from importlib import metadata  # here, because a measured process does not ask

    names = ("llm-latency-lab", "llama_cpp_python", "numpy", "pandas", "papermill", "gguf")
    installed = {}
    for name in names:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def process_memory(pid: int | None = None) -> ProcessMemory:
    """Return the resident memory of a process now, this one's if none is named."""
    process, about = psutil.Process(pid), Path("/proc") / str(pid or "self")
    basic = process.memory_info()
    try:
        status = (about / "status").read_text()
    except OSError:
        return ProcessMemory(rss_bytes=basic.rss, rss_peak_bytes=getattr(basic, "peak_wset", None))
    kib = {
        name: int(value.split()[0]) * 1024
        for name, _, value in (line.partition(":") for line in status.splitlines())
        if value.strip().endswith("kB")
    }
    # Fields 10 and 12 of stat are the process's own minor and major faults; the name in
    # brackets may hold spaces, so count from behind it.
    stat = (about / "stat").read_text().rpartition(")")[2].split()
    try:
        io = dict(line.split(": ") for line in (about / "io").read_text().splitlines())
    except (OSError, ValueError):
        io = {}
    return ProcessMemory(
        rss_bytes=kib.get("VmRSS", basic.rss),
        rss_anon_bytes=kib.get("RssAnon"),
        rss_file_bytes=kib.get("RssFile"),
        locked_bytes=kib.get("VmLck"),
        rss_peak_bytes=kib.get("VmHWM"),
        minor_faults=int(stat[7]),
        major_faults=int(stat[9]),
        read_bytes=int(io["read_bytes"]) if "read_bytes" in io else None,
    )
