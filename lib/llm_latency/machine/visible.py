"""Which NVIDIA card a CUDA program sees first, told in NVML's words.

NVML counts every card and takes no notice of ``CUDA_VISIBLE_DEVICES``; a CUDA program sees only
what that variable names, in its order, up to the first name that is wrong. A card in MIG mode is
cut into instances, of which a program sees one; memory and processes are the instance's own,
temperature and clocks are the card's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

VARIABLE = "CUDA_VISIBLE_DEVICES"


class Device(NamedTuple):
    """What a program computes on: a card, or an instance of one."""

    handle: Any
    """Of memory and processes: NVML's handle of the card or of the instance."""
    chip: Any
    """Of temperature and clocks: the card's."""


class NoCardError(Exception):
    """There is no card that a CUDA program would see; the text says why."""


def visible(nvml: Any, environment: Mapping[str, str]) -> list[Device]:
    """Return the devices that a CUDA program sees, the first one first.

    Parameters
    ----------
    nvml
        The ``pynvml`` module, initialised.
    environment
        Where ``CUDA_VISIBLE_DEVICES`` is looked up.

    Raises
    ------
    NoCardError
        If it sees none.
    """
    cards = _cards(nvml)
    if not cards:
        raise NoCardError("NVML sees no NVIDIA card")
    named = environment.get(VARIABLE)
    if named is None:
        found = [device for card in cards if (device := _whole(nvml, card))]
        if not found:
            raise NoCardError("the card is in MIG mode and has no instance; make one, or end MIG")
        return found
    found = []
    for name in named.split(","):
        device = _named(nvml, cards, name.strip())
        if device is None:  # CUDA sees nothing behind a name that is wrong
            break
        found.append(device)
    if not found:
        raise NoCardError(f"{VARIABLE}={named!r} hides every NVIDIA card")
    return found


def note(nvml: Any, devices: list[Device], environment: Mapping[str, str]) -> str | None:
    """Return what a reader must know where there are several cards; ``None`` for one."""
    words = []
    if len(devices) > 1:
        words.append(
            f"the first of {len(devices)} that a CUDA program sees; llama.cpp spreads a model over "
            f"all of them unless {VARIABLE} names one"
        )
    by_number = not environment.get(VARIABLE, "0").strip().upper().startswith(("GPU-", "MIG-"))
    unordered = by_number and environment.get("CUDA_DEVICE_ORDER", "") != "PCI_BUS_ID"
    if unordered and len({nvml.nvmlDeviceGetName(card) for card in _cards(nvml)}) > 1:
        words.append(
            "CUDA counts the fastest card first and NVML does not: set CUDA_DEVICE_ORDER="
            f"PCI_BUS_ID, or name the card in {VARIABLE} by its UUID, to be sure that this is the "
            "one that computes"
        )
    return "; ".join(words) or None


def _cards(nvml: Any) -> list[Any]:
    return [nvml.nvmlDeviceGetHandleByIndex(n) for n in range(nvml.nvmlDeviceGetCount())]


def _named(nvml: Any, cards: list[Any], name: str) -> Device | None:
    """Return the device of one name of the variable; ``None`` if it names none."""
    if name.isdecimal():
        return _whole(nvml, cards[int(name)]) if int(name) < len(cards) else None
    upper = name.upper()
    if upper.startswith("GPU-"):
        # The beginning of a UUID is enough where it is that of one card alone.
        found = [card for card in cards if _uuid(nvml, card).startswith(upper)]
        return _whole(nvml, found[0]) if len(found) == 1 else None
    if upper.startswith("MIG-"):
        for card in cards:
            for instance in _instances(nvml, card):
                if _uuid(nvml, instance) == upper:
                    return Device(instance, card)
    return None


def _whole(nvml: Any, card: Any) -> Device | None:
    """Return a card as a program sees it: in MIG mode its first instance, if it has one."""
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(card)
    except nvml.NVMLError:  # most cards know no MIG
        current = 0
    if not current:
        return Device(card, card)
    return next((Device(instance, card) for instance in _instances(nvml, card)), None)


def _instances(nvml: Any, card: Any) -> Iterator[Any]:
    try:
        most = nvml.nvmlDeviceGetMaxMigDeviceCount(card)
    except nvml.NVMLError:
        return
    for number in range(most):
        try:
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, number)
        except nvml.NVMLError:  # the numbers have gaps
            continue


def _uuid(nvml: Any, handle: Any) -> str:
    found = nvml.nvmlDeviceGetUUID(handle)
    return str(found.decode() if isinstance(found, bytes) else found).upper()
