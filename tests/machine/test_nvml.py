"""The NVIDIA card, or its absence. The answers follow NVML's documented forms (nvml.h, pynvml).

Every figure here is made up.
"""

from __future__ import annotations

from types import SimpleNamespace

import pynvml
import pytest

from llm_latency.machine import disturbance, nvml
from llm_latency.machine.devices import GpuCard, GpuWatch, gpu_card
from llm_latency.machine.nvml import NvidiaDevice
from llm_latency.records.record import HostState, Vram

GIB = 2**30
NOWHERE: dict[str, str] = {}
"""An environment that names no card."""


class NVMLError(Exception):
    """Stands in for pynvml's, which carries NVML's number."""

    def __init__(self, text: str, value: int = pynvml.NVML_ERROR_NOT_SUPPORTED) -> None:
        super().__init__(text)
        self.value = value


class Card:
    """An NVML that answers for one card, step by step."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM = 1

    def __init__(self, used: list[int], per_process: int | None = 3 * GIB) -> None:
        self.used = used
        self.per_process = per_process
        self.shut = 0

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None:
        self.shut += 1

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"card {index}"

    def nvmlDeviceGetMigMode(self, _: str) -> list[int]:
        raise NVMLError("Not Supported")

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return f"GPU-0000000{handle[-1]}-aaaa"

    def nvmlDeviceGetMemoryInfo(self, _: str, version: int | None = None) -> SimpleNamespace:
        if version is not None:
            assert version == pynvml.nvmlMemory_v2
            return SimpleNamespace(total=6 * GIB, reserved=GIB // 4, free=0, used=0)
        used = self.used.pop(0) if len(self.used) > 1 else self.used[0]
        return SimpleNamespace(used=used, total=6 * GIB)

    def nvmlDeviceGetComputeRunningProcesses(self, _: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=7, usedGpuMemory=self.per_process)]

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:
        assert kind == self.NVML_TEMPERATURE_GPU
        return 83

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return 1500

    def nvmlDeviceGetPowerUsage(self, _: str) -> int:
        raise NVMLError("Not Supported")

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return pynvml.nvmlClocksEventReasonSwThermalSlowdown | pynvml.nvmlClocksEventReasonGpuIdle

    def nvmlDeviceGetName(self, handle: str) -> bytes | str:
        return b"NVIDIA Test Card"

    def nvmlSystemGetDriverVersion(self) -> str:
        return "999.1"

    def nvmlDeviceGetPowerManagementLimit(self, _: str) -> int:
        return 80_000


class NoCard(Card):
    """A machine without driver."""

    def nvmlInit(self) -> None:
        raise NVMLError("NVML Shared Library Not Found", pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)


class Cards(Card):
    """Three cards; each one's memory in use is its number in GiB, plus one."""

    kinds = ("Fast", "Slow", "Slow")

    def __init__(self) -> None:
        super().__init__([0])

    def nvmlDeviceGetCount(self) -> int:
        return len(self.kinds)

    def nvmlDeviceGetMemoryInfo(self, handle: str, version: int | None = None) -> SimpleNamespace:
        return SimpleNamespace(used=(int(handle[-1]) + 1) * GIB, total=6 * GIB, reserved=0)

    def nvmlDeviceGetName(self, handle: str) -> str:
        return self.kinds[int(handle[-1])]


class Mig(Cards):
    """Card 0 in MIG mode, cut into instances 1 and 4, as NVML numbers them with gaps."""

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        return [int(handle == "card 0"), 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:
        return 7 if handle == "card 0" else 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, index: int) -> str:
        if handle != "card 0" or index not in (1, 4):
            raise NVMLError("Not Found", pynvml.NVML_ERROR_NOT_FOUND)
        return f"instance {index}"

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        if handle.startswith("instance"):
            return f"MIG-0000000{handle[-1]}-bbbb"
        return super().nvmlDeviceGetUUID(handle)

    def nvmlDeviceGetName(self, handle: str) -> str:
        return f"Test {handle}"

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:
        if handle.startswith("instance"):
            raise NVMLError("Not Supported")
        return 50

    nvmlDeviceGetClockInfo = nvmlDeviceGetTemperature

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        if handle.startswith("instance"):
            raise NVMLError("Not Supported")
        return 100_000

    def nvmlDeviceGetPowerManagementLimit(self, handle: str) -> int:
        return self.nvmlDeviceGetPowerUsage(handle)


class Lost(Card):
    """A card that answers a few times and then falls off the bus."""

    answers = 3

    def nvmlDeviceGetMemoryInfo(self, _: str, version: int | None = None) -> SimpleNamespace:
        self.answers -= 1
        if self.answers < 0:
            raise NVMLError("GPU is lost", pynvml.NVML_ERROR_GPU_IS_LOST)
        return super().nvmlDeviceGetMemoryInfo(_, version)


def watching(library: Card, environment: dict[str, str] = NOWHERE) -> GpuWatch:
    return GpuWatch(lambda: NvidiaDevice(library, environment))


def card_of(library: Card, environment: dict[str, str] = NOWHERE) -> GpuCard:
    return gpu_card(lambda: NvidiaDevice(library, environment))


def test_no_card_is_a_normal_case_that_says_why() -> None:
    with watching(NoCard([0])) as watch:
        watch.sample(7)
        assert not watch.present
        assert watch.vram() == Vram()
        assert set(watch.state().model_dump().values()) == {None}
    card = card_of(NoCard([0]))
    assert not card.available
    assert "Shared Library Not Found" in str(card.why)


def test_peaks_are_kept() -> None:
    library = Card([1 * GIB, 2 * GIB, 5 * GIB, 4 * GIB])
    with watching(library) as watch:
        for _ in range(3):
            watch.sample(7)
        vram = watch.vram()
        state = watch.state()
    assert (vram.before_bytes, vram.peak_bytes) == (1 * GIB, 5 * GIB)
    assert (vram.process_bytes, vram.total_bytes) == (3 * GIB, 6 * GIB)
    assert (state.temperature_c, state.sm_clock_hz) == (83.0, 1.5e9)
    assert state.power_w is None  # this card does not tell
    assert state.throttle == "SwThermalSlowdown"
    assert library.shut == 1


@pytest.mark.parametrize(
    ("pid", "per_process"),
    # Another process; WDDM and WSL2, as the binding and as the library itself say it.
    [(8, 3 * GIB), (7, None), (7, pynvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value)],
)
def test_memory_of_the_process_is_missing_where_nvml_cannot_tell(
    pid: int, per_process: int | None
) -> None:
    with watching(Card([GIB], per_process)) as watch:
        watch.sample(pid)
        assert watch.vram().process_bytes is None
        assert watch.vram().peak_bytes == GIB
        assert watch.state().foreign_processes is None


def test_the_card() -> None:
    card = card_of(Card([0]))
    assert card.model_dump() == {
        "available": True,
        "why": None,
        "note": None,
        "name": "NVIDIA Test Card",
        "uuid": "GPU-00000000-aaaa",
        "driver": "999.1",
        "total_bytes": 6 * GIB,
        "total_bytes_why": None,
        "reserved_bytes": GIB // 4,
        "power_limit_w": 80.0,
    }


def test_the_numbers_are_those_of_the_binding() -> None:
    assert pynvml.nvmlMemory_v2 == nvml.MEMORY_V2
    assert pynvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value == nvml.NOT_AVAILABLE
    assert nvml.LOST == (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)
    for name, bit in nvml.THROTTLES.items():
        assert getattr(pynvml, f"nvmlClocksEventReason{name}") == bit
    assert pynvml.nvmlClocksEventReasonGpuIdle == nvml.IDLE


def test_the_call_for_throttling_has_an_older_name() -> None:
    class Older(Card):
        def nvmlDeviceGetCurrentClocksEventReasons(self, _: str) -> int:
            raise NVMLError("Function Not Found", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)

        def nvmlDeviceGetCurrentClocksThrottleReasons(self, _: str) -> int:
            return int(pynvml.nvmlClocksThrottleReasonHwSlowdown)

    with watching(Older([0])) as watch:
        watch.sample()
        assert watch.state().throttle == "HwSlowdown"


def test_a_clock_without_work_is_no_clock_of_the_trial() -> None:
    class Capped(Card):
        reasons = (pynvml.nvmlClocksEventReasonGpuIdle, pynvml.nvmlClocksEventReasonSwPowerCap)

        def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
            return int(self.reasons[self.clock > 1000])

        def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
            self.clock = 1200 if hasattr(self, "clock") else 300
            return self.clock

    with watching(Capped([0])) as watch:
        for _ in range(3):
            watch.sample()
        state = watch.state()
    assert (state.sm_clock_mean_hz, state.throttle) == (1.2e9, "SwPowerCap")
    assert disturbance.disturbances(HostState(gpu=state), 1.0) == []


def test_an_older_driver_does_not_tell_what_it_keeps() -> None:
    class Older(Card):
        def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:  # type: ignore[override]
            return super().nvmlDeviceGetMemoryInfo(handle)

    card = card_of(Older([0]))
    assert (card.total_bytes, card.reserved_bytes) == (6 * GIB, None)


@pytest.mark.parametrize(
    ("named", "number"),
    [
        (None, 0),
        ("1", 1),
        ("2,0", 2),
        (" 1 , 0 ", 1),
        ("GPU-00000002-aaaa", 2),
        ("gpu-00000001", 1),  # the beginning is enough where it is one card's alone
        ("2,-1,0", 2),
        ("1,9", 1),
    ],
)
def test_the_card_is_the_first_that_cuda_sees(named: str | None, number: int) -> None:
    environment = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}
    with watching(Cards(), environment) as watch:
        assert watch.vram().before_bytes == (number + 1) * GIB
        assert watch.card().name == Cards.kinds[number]
        assert watch.card().uuid == f"GPU-0000000{number}-aaaa"


@pytest.mark.parametrize("named", ["", "-1", "3", "GPU-0", "GPU-9", "none", "-1,0"])
def test_a_hidden_card_is_no_card(named: str) -> None:
    library = Cards()
    with watching(library, {"CUDA_VISIBLE_DEVICES": named}) as watch:
        assert not watch.present
        card = watch.card()
    assert not card.available
    assert f"CUDA_VISIBLE_DEVICES={named!r} hides every NVIDIA card" in str(card.why)
    assert library.shut == 1


def test_a_driver_without_a_card() -> None:
    class Empty(Card):
        def nvmlDeviceGetCount(self) -> int:
            return 0

    assert card_of(Empty([0])).why == "NVML sees no NVIDIA card"


@pytest.mark.parametrize(
    ("environment", "words", "silent"),
    [
        ({}, ["first of 3", "spreads a model", "CUDA_DEVICE_ORDER=PCI_BUS_ID"], []),
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, ["first of 3"], ["fastest"]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["fastest"], ["first of"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-00000001"}, [], ["fastest", "first of"]),
        ({"CUDA_VISIBLE_DEVICES": "0,9,1"}, ["fastest"], ["first of"]),
    ],
)
def test_which_of_several_cards_it_is_is_said(
    environment: dict[str, str], words: list[str], silent: list[str]
) -> None:
    note = card_of(Cards(), environment).note
    assert all(word in str(note) for word in words)
    assert not any(word in str(note) for word in silent)
    assert (note is None) == (not words)


def test_cards_of_one_kind_have_an_order() -> None:
    class Same(Cards):
        kinds = ("Slow", "Slow", "Slow")

    assert card_of(Same(), {"CUDA_VISIBLE_DEVICES": "1"}).note is None


@pytest.mark.parametrize(
    ("named", "gib", "kind"),
    [
        (None, 2, "Test instance 1"),
        ("0", 2, "Test instance 1"),
        ("MIG-00000004-bbbb", 5, "Test instance 4"),
        ("1", 2, "Test card 1"),
    ],
)
def test_a_card_in_mig_mode_is_seen_as_an_instance(named: str | None, gib: int, kind: str) -> None:
    environment = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}
    with watching(Mig(), environment) as watch:
        watch.sample(7)
        card, state, vram = watch.card(), watch.state(), watch.vram()
    assert (card.name, vram.peak_bytes) == (kind, gib * GIB)
    # Of the card itself, which the instances share.
    assert (state.temperature_c, state.sm_clock_hz) == (50.0, 50e6)
    whole = kind.startswith("Test card")
    assert state.power_w == (100.0 if whole else None)
    assert card.power_limit_w == (100.0 if whole else None)


def test_mig_without_an_instance_is_no_card() -> None:
    class Uncut(Mig):
        kinds = ("One",)

        def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, index: int) -> str:
            raise NVMLError("Not Found", pynvml.NVML_ERROR_NOT_FOUND)

    assert "MIG mode" in str(card_of(Uncut()).why)
    hidden = card_of(Uncut(), {"CUDA_VISIBLE_DEVICES": "MIG-1"})
    assert "hides every" in str(hidden.why)


def test_a_card_that_is_lost_has_no_peak_and_is_said() -> None:
    library = Lost([1 * GIB, 5 * GIB, 2 * GIB])
    with watching(library) as watch:
        for _ in range(6):
            watch.sample(7)
        assert not watch.present
        vram, state = watch.vram(), watch.state()
    assert (vram.before_bytes, vram.total_bytes) == (1 * GIB, 6 * GIB)
    assert (vram.peak_bytes, vram.process_bytes) == (None, None)
    assert state.temperature_c == 83.0  # seen while it was there
    assert "GPU is lost" in str(state.lost)
    assert state.lost in disturbance.disturbances(HostState(gpu=state), 1.0)
    assert library.shut == 1


def test_a_card_that_shares_the_ram_is_watched_without_its_memory() -> None:
    class Shared(Card):
        def nvmlDeviceGetMemoryInfo(self, _: str, version: int | None = None) -> SimpleNamespace:
            raise NVMLError("Not Supported")

    with watching(Shared([0])) as watch:
        watch.sample(7)
        assert watch.present
        card, vram, state = watch.card(), watch.vram(), watch.state()
    assert card.available
    assert (card.name, card.total_bytes, card.reserved_bytes) == ("NVIDIA Test Card", None, None)
    assert "(Not Supported)" in str(card.total_bytes_why)
    assert (vram.before_bytes, vram.peak_bytes, vram.total_bytes) == (None, None, None)
    assert (vram.process_bytes, state.temperature_c) == (3 * GIB, 83.0)


@pytest.mark.parametrize("by_binding", [True, False])
def test_a_name_that_is_not_text_is_no_traceback(by_binding: bool) -> None:
    class Strange(Cards):
        def nvmlDeviceGetName(self, handle: str) -> bytes | str:  # type: ignore[override]
            name = b"NVIDIA \xff" + handle[-1:].encode()
            return name.decode() if by_binding else name

    card = card_of(Strange())
    assert card.name == "NVIDIA \ufffd0"
    assert "fastest" in str(card.note)  # the three differ in their last byte


@pytest.mark.gpu
def test_the_real_card() -> None:
    card = gpu_card()
    assert card.available, card.why
    with GpuWatch() as watch:
        watch.sample()
        assert 0 < (watch.vram().peak_bytes or 0) <= (card.total_bytes or 0)
