"""What one trial left: the one schema of all data. SI units: seconds, bytes, hertz, watts.

A record is written once and never changed. ``SCHEMA_VERSION`` rises when a field is added, goes
or changes its meaning, and :mod:`llm_latency.records.versions` brings forward what was written
before. A value that could not be had is ``None``; it is never zero in place of missing.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llm_latency.base import Part
from llm_latency.plan.spec import PageCache, Trial
from llm_latency.records.generation import Generation, Quality
from llm_latency.words import cpu_list, cpus_listed

SCHEMA_VERSION = 3

Status = Literal["ok", "invalid", "oom", "crashed", "timeout", "refused"]
STATUSES: dict[Status, str] = {
    "ok": "measured, and every proof held",
    "invalid": "measured, but a proof failed: not to be relied on",
    "oom": "memory ran out",
    "crashed": "the process that held the model died",
    "timeout": "not finished within the time allowed",
    "refused": "llama.cpp would not load or run it",
}


class LoadTimings(Part):
    """Where the time from a started interpreter to a ready model goes."""

    import_s: float | None = Field(None, description="Importing llama_cpp; not part of load_s")
    backend_init_s: float = Field(description="Starting llama.cpp and making its devices ready")
    model_load_s: float
    context_s: float
    warm_up_s: float = 0.0
    load_s: float = Field(description="From before the backend to after the warm-up, one interval")


class EngineDevice(Part):
    """A device that the engine sees, by llama.cpp's own account."""

    name: str = Field(description="llama.cpp's name, such as CUDA0, Vulkan0 or CPU")
    kind: Literal["cpu", "gpu", "igpu", "accel"] | None = Field(
        None, description="igpu: it shares the RAM; accel: it helps the CPU, in the CPU's memory"
    )
    description: str = ""
    total_bytes: int | None = None
    free_bytes: int | None = Field(None, description="None where it only repeats the total")
    unified: bool | None = Field(None, description="Whether its memory is the machine's RAM")

    @property
    def holds_layers(self) -> bool:
        """Whether layers of a model can be kept on it, in memory that is not the process's."""
        return self.kind in ("gpu", "igpu")


class EngineCard(Part):
    """What the installed engine is and which devices it sees."""

    version: str
    system_info: str
    gpu_offload: bool
    devices: list[EngineDevice]


class Effective(Part):
    """The settings that are really in force, as llama.cpp reports them after loading."""

    n_ctx: int
    n_batch: int
    n_ubatch: int
    n_threads: int
    n_threads_batch: int
    n_gpu_layers: int
    use_mmap: bool
    use_mlock: bool
    flash_attn: bool | None
    offload_kqv: bool | None
    type_k: str | None
    type_v: str | None
    backend: str | None = Field(None, description="Devices that hold weights, llama.cpp's names")
    swa_full: bool | None = Field(None, description="None: no layer has a sliding window")
    op_offload: bool | None = Field(None, description="As it was handed to llama.cpp")
    n_cpu_moe: int | None = Field(None, description="Last layer with experts on the CPU, from 1")
    all_layers: int | None = Field(
        None, description="Layers that a GPU could hold: the model's, and its output"
    )


class Buffers(Part):
    """Bytes that llama.cpp says it allocated, summed over devices; by device in ``by_device``."""

    weights_bytes: int | None = None
    kv_bytes: int | None = None
    compute_bytes: int | None = None
    output_bytes: int | None = None
    by_device: dict[str, dict[str, int]] = Field(default_factory=dict)


PLACES = {
    "model_file": "pages of the model's file",
    "engine": "the engine's buffers",
    "work_space": "work space that appeared later",
    "heap": "small pieces (heap)",
    "python": "Python, before the model",
    "code": "programs and libraries",
}
"""Where resident bytes can lie, and what readers are told of it."""


class DeviceMemory(Part):
    """The memory of a device beside the CPU at one moment, as the engine tells it."""

    used_bytes: int | None = Field(None, description="Of all that compute on it")
    total_bytes: int | None = None


class ProcessMemory(Part):
    """Resident memory of the measured process at one moment, and that of the engine's devices."""

    rss_bytes: int
    rss_anon_bytes: int | None = None
    rss_file_bytes: int | None = None
    locked_bytes: int | None = None
    rss_peak_bytes: int | None = None
    major_faults: int | None = None
    minor_faults: int | None = None
    read_bytes: int | None = None
    places: dict[str, int] = Field(
        default_factory=dict, description="Resident bytes by what they are for, see PLACES"
    )
    devices: dict[str, DeviceMemory] = Field(
        default_factory=dict, description="By llama.cpp's name; none where they are hidden"
    )


class PageCacheState(Part):
    """The model file in the system's page cache, when the trial began."""

    in_force: PageCache = "as_is"
    resident_before: float | None = Field(None, description="Share of its pages in RAM")
    why: str | None = Field(None, description="Why it is not in the state that was asked")


class StateFile(Part):
    """A prompt's KV cache on the disk, made once, before the trials that restore it."""

    tokens: int
    bytes: int
    evaluate_s: float = Field(description="Evaluating the prompt, when the file was made")
    save_s: float = Field(description="Writing it to the disk, when the file was made")


class MemoryLimit(Part):
    """The cap on the process's memory, and what it did."""

    asked_bytes: int
    by: Literal["cgroup", "rlimit"] | None = Field(None, description="What enforced it")
    peak_bytes: int | None = Field(None, description="Most that was counted against it")
    kills: int | None = Field(None, description="Processes ended because of it")
    why: str | None = Field(None, description="What it does not cover, or why there is none")


class Vram(Part):
    """The memory of devices beside the CPU around the trial; all ``None`` where there are none."""

    source: Literal["nvml", "engine", "buffers", ""] = Field(
        "", description="Who tells it; buffers: the sum of what llama.cpp said it allocated"
    )
    before_bytes: int | None = None
    peak_bytes: int | None = None
    process_bytes: int | None = None
    total_bytes: int | None = None
    ballast_bytes: int | None = Field(
        None, description="What a ballast held meanwhile, to leave as much as was asked for"
    )

    @property
    def delta_bytes(self) -> int | None:
        """By how much the devices' memory grew, whoever took it."""
        if self.peak_bytes is None or self.before_bytes is None:
            return None
        return self.peak_bytes - self.before_bytes


POWER_CAP = "SwPowerCap"
"""NVML's name for a clock that is held back by the card's power limit."""


class GpuState(Part):
    """The card while it worked; all ``None`` where there is no card."""

    foreign_processes: int | None = Field(None, description="Others that computed on the card")

    temperature_c: float | None = None
    sm_clock_hz: float | None = None
    sm_clock_mean_hz: float | None = Field(None, description="While it was not idle")
    power_w: float | None = None
    throttle: str | None = Field(None, description="What held its clock back, NVML's names")
    lost: str | None = Field(None, description="That the card was lost; figures are until then")


class Affinity(Part):
    """The logical CPUs that the process could run on, as Linux lists them: ``0-3,8``."""

    pinned: str | None = Field(None, description="What it pinned itself to; None: nothing asked")
    threads: dict[str, dict[str, int]] = Field(
        default_factory=dict, description="By phase: how many of its threads could run on which"
    )

    @property
    def in_force(self) -> str | None:
        """All CPUs that its threads could run on at last; ``None`` where nobody told."""
        last = next((self.threads[p] for p in reversed(PHASES) if p in self.threads), None)
        return cpu_list(set().union(*map(cpus_listed, last))) if last else None


class HostState(Part):
    """What the machine did beside the trial."""

    cpu_other_fraction: float | None = Field(
        None, description="Share of the watched CPUs' time that other processes took"
    )
    cpu_steal_fraction: float | None = Field(None, description="Share that the hypervisor took")
    watched_cpus: int | None = Field(None, description="Logical CPUs that the trial may use")
    quota_cpus: float | None = Field(None, description="CPUs' time that cgroups leave to it")
    throttled_periods: int | None = Field(
        None, description="Periods in which that quota held it back, loading included"
    )
    throttled_s: float | None = Field(None, description="For how long, all CPUs together")
    memory_pressure_fraction: float | None = Field(
        None, description="Share of the time in which some process waited for memory (Linux PSI)"
    )
    swapped_bytes: int | None = Field(None, description="Moved to or from swap meanwhile")
    available_bytes: int | None = Field(None, description="RAM available before the trial")
    on_battery: bool | None = None
    power_profile: str | None = Field(None, description="As the system names it")
    cpu_frequency_start_hz: float | None = Field(
        None, description="Mean of the CPUs that are ours, before the first generation"
    )
    cpu_frequency_end_hz: float | None = Field(None, description="The same, after the last one")
    gpu: GpuState = GpuState()


PHASES = ("before", "after_load", "after_first", "after_last")


class Record(Part):
    """One trial's outcome: exactly one per trial that was carried out."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    machine_id: str | None = Field(None, description="Where it was measured; see MachineCard")
    gpu_uuid: str | None = Field(None, description="The card that held layers, where NVML tells")
    trial: Trial
    status: Status
    reason: str | None = None
    started_at: str
    child_s: float = Field(description="Life of the child process, from spawn to reaped")
    took_s: float | None = Field(
        None, description="What the trial cost: from the record before, or the beginning, to this"
    )
    exit_code: int | None = None
    load: LoadTimings | None = None
    effective: Effective | None = None
    generations: list[Generation] = Field(default_factory=list)
    quality: Quality | None = None
    buffers: Buffers = Buffers()
    memory: dict[str, ProcessMemory] = Field(default_factory=dict, description="By phase")
    page_cache: PageCacheState = PageCacheState()
    memory_limit: MemoryLimit | None = None
    state: StateFile | None = None
    affinity: Affinity = Affinity()
    vram: Vram = Vram()
    host: HostState = HostState()
    warnings: list[str] = Field(default_factory=list, description="llama.cpp's and the lab's")
    disturbed: list[str] = Field(
        default_factory=list, description="What else happened on the machine, one sentence each"
    )
    system_info: str | None = Field(None, description="llama_print_system_info() of the child")

    def between(self, first: str, last: str, name: str) -> int | None:
        """Return by how much a figure of the process grew from one phase to another."""
        start, end = (getattr(self.memory.get(phase), name, None) for phase in (first, last))
        return None if start is None or end is None else end - start
