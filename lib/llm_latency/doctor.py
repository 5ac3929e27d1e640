"""What the installed engine supports, whether it really runs, and what to do where it does not.

Loading a model proves little: an engine compiled for another CPU loads it and dies at the first
token. So the doctor asks a child for the engine's card, and lets another child generate one
token of the smallest synthetic model.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from llm_latency.machine import devices, host
from llm_latency.measure.job import Job, ModelFile
from llm_latency.measure.trial import carry_out, engine_card
from llm_latency.model import names
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Trial
from llm_latency.plan.workload import Workload
from llm_latency.records.record import EngineCard, Record
from llm_latency.report.cards import device_words
from llm_latency.words import several

AVX2_EXPECTED = ("avx2", "fma", "f16c")
"""CPU features that make llama.cpp several times faster where the CPU has them."""

OTHER_MAKERS = {"0x1002": ("AMD", "hip"), "0x8086": ("Intel", "sycl")}
"""Makers of GPUs by their PCI number, and the engine that is made for them."""


def examine() -> tuple[list[str], bool]:
    """Return the findings, a line each, and whether the engine works."""
    machine = host.machine_card()
    card = devices.gpu_card()
    build = machine.engine_build
    limit = machine.memory_limit_bytes
    limited = f", limited to {limit / 2**20:,.0f} MiB" if limit else ""
    lines = [
        f"machine   {machine.cpu}; {several(machine.usable_cpus, 'thread')} by default "
        f"({machine.threads_from}); {machine.ram_bytes / 2**30:.1f} GiB RAM{limited}; "
        f"{machine.system} {machine.architecture}",
        f"GPU       {card.name}, {_size(card)}, driver {card.driver}"
        if card.available
        else f"GPU       none: {card.why}",
        *([f"          {card.note}"] if card.note else []),
        "build     " + str(build.get("why") or f"{build.get('engine')}: {build.get('cmake_args')}"),
        *(f"version   {name} {version}" for name, version in host.versions().items()),
    ]
    with tempfile.TemporaryDirectory() as folder:
        engine = engine_card(Path(folder) / "engine.log")
        if isinstance(engine, str):
            return [*lines, f"engine    does not start: {engine}", *advice(engine)], False
        lines += [
            f"engine    llama-cpp-python {engine.version}; GPU offload: "
            + ("yes" if engine.gpu_offload else "no, this build computes on the CPU alone"),
            *(f"device    {one.name}: {device_words(one.model_dump())}" for one in engine.devices),
            f"features  {' '.join(engine.system_info.split())}",
        ]
        record = one_token(Path(folder))
    if record.status != "ok":
        return [*lines, f"token     none: {record.status}: {record.reason}",
                *advice(record.reason or "")], False  # fmt: skip
    first = record.generations[0]
    lines.append(
        f"token     one generated {first.timings.ttft_s * 1e3:.1f} ms after a prompt of "
        f"{first.prompt_tokens} tokens: the engine works"
    )
    return [*lines, *hints(engine, machine, card)], True


def _size(card: devices.GpuCard) -> str:
    if card.total_bytes is None:
        return f"memory not known: {card.total_bytes_why}"
    return f"{card.total_bytes / 2**30:.1f} GiB"


def one_token(folder: Path) -> Record:
    """Let a child load the smallest synthetic model and generate one token."""
    name = "synthetic:tiny"
    trial = Trial(
        experiment="doctor",
        model=name,
        settings=Settings(n_ctx=256, n_batch=256),
        workload=Workload(prompt_tokens=32, max_tokens=1, repeats=0),
    )
    model = ModelFile.of(names.card(name, names.resolve(name)))
    return carry_out(Job("doctor", trial, model, folder, timeout_s=120))


def advice(reason: str) -> list[str]:
    """Return which build line to use where the engine dies."""
    lines = [
        "advice    build it anew with flags that are safe on every CPU: "
        "python bootstrap.py --engine portable",
    ]
    if "SIGILL" in reason:
        lines.append("          (it was compiled for another CPU than this one)")
    elif "SIGSEGV" in reason:
        lines.append(
            "          (a native build by GCC 12 on a CPU with AMX dies exactly like this: "
            "llama.cpp issue 20824)"
        )
    return lines


def hints(engine: EngineCard, machine: host.MachineCard, card: devices.GpuCard) -> list[str]:
    """Return what a working engine leaves unused of this machine."""
    found = []
    features = engine.system_info.upper()
    missing = [
        name
        for name in AVX2_EXPECTED
        if name in machine.cpu_features and f"{name.upper()} = 1" not in features
    ]
    if missing:
        found.append(
            f"hint      this CPU has {', '.join(missing)}, the engine was built without: it is "
            "several times slower than it could be; python bootstrap.py --engine portable"
        )
    if card.available and not engine.gpu_offload:
        found.append(
            f"hint      {card.name} is not used by this build: python bootstrap.py --engine cuda"
        )
    if not engine.gpu_offload:
        found += [
            f"hint      a GPU of {maker} is not used by this build: python bootstrap.py --engine "
            f"{name}, or vulkan"
            for maker, name in other_gpus()
        ]
    return found


def other_gpus(root: Path = Path("/sys/class/drm")) -> list[tuple[str, str]]:
    """Return the makers of GPUs that Linux shows, NVIDIA apart, and the engine for each."""
    ids = set()
    for file in root.glob("card*/device/vendor"):
        with contextlib.suppress(OSError):
            ids.add(file.read_text(encoding="ascii", errors="replace").strip())
    return [OTHER_MAKERS[one] for one in sorted(ids & set(OTHER_MAKERS))]
