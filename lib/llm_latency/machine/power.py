"""What feeds the machine, and how fast that lets its CPUs run.

On battery, or under a profile that saves power, the same machine is another one: slower, and
slower by the minute. Nothing here is a disturbance, since it is so in every trial; it is kept
with each of them, for it can change in the middle of a run. A value that the system does not
tell is ``None``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from llm_latency.base import Part
from llm_latency.machine import limits

LOW = ("low-power", "power", "quiet", "cool", "power saver")
"""Profiles that are chosen to save power, or to be quiet, and not to be fast."""
SCHEMES = {
    "a1841308-3541-4fab-bc81-f71556f20b4a": "power saver",
    "381b4222-f694-41f0-9685-ff5bb260df2e": "balanced",
    "8c5e7fda-e8bf-4a96-9a85-a6e23a8c635c": "high performance",
    "e9a42b02-d5df-448d-aa00-03f14749eb61": "ultimate performance",
}
"""Windows' own power schemes, whose names are translated and whose numbers are not."""
ANSWER_S = 5.0
"""How long a system's own tool may take."""


class Power(Part):
    """What feeds the machine at one moment, and under which profile."""

    on_battery: bool | None = None
    power_profile: str | None = None


def now() -> Power:
    """Return what feeds this machine now."""
    return Power(on_battery=on_battery(), power_profile=profile())


def on_battery() -> bool | None:
    """Return whether the machine runs on a battery; ``None`` where it tells of no supply."""
    if _system() == "linux":
        return _on_battery_by_sys(limits.ROOT / "sys/class/power_supply")
    battery = getattr(psutil, "sensors_battery", lambda: None)()
    return None if battery is None or battery.power_plugged is None else not battery.power_plugged


def _on_battery_by_sys(folder: Path) -> bool | None:
    """Return it as Linux tells it; the batteries of mice and headsets do not feed a machine."""
    mains, batteries = [], []
    for supply in sorted(folder.glob("*")):
        kind = _read(supply / "type") or ""
        if kind == "Battery" and _read(supply / "scope") != "Device":
            batteries.append(_read(supply / "status"))
        elif kind == "Mains" or kind.startswith("USB"):
            mains.append(_read(supply / "online") == "1")
    if any(mains) or not batteries:
        return False if any(mains) else None
    # An adapter that is not told leaves what the batteries do.
    return bool(mains) or "Discharging" in batteries


def profile() -> str | None:
    """Return the power profile that is chosen; ``None`` where the system does not tell."""
    system = _system()
    if system == "linux":
        folder = limits.ROOT / "sys"
        preference = "devices/system/cpu/cpu0/cpufreq/energy_performance_preference"
        return _read(folder / "firmware/acpi/platform_profile") or _read(folder / preference)
    if system == "darwin":
        low = re.search(r"lowpowermode\s+(\d)", _said("pmset", "-g"))
        return None if low is None else "low-power" if low[1] == "1" else "normal"
    if system == "win32":
        scheme = re.search(r"[0-9a-f]{8}(-[0-9a-f]+){4}", _said("powercfg", "/getactivescheme"))
        return None if scheme is None else SCHEMES.get(scheme[0], scheme[0])
    return None


def cpu_frequency_hz(cpus: Sequence[int] | None = None) -> float | None:
    """Return the mean frequency now; ``None`` where nobody tells, as in a virtual machine.

    Parameters
    ----------
    cpus
        The logical CPUs that count; by default those that this process may use.
    """
    counted = limits.allowed_cpus() if cpus is None else cpus
    folder = limits.ROOT / "sys/devices/system/cpu"
    kilohertz = [_read(folder / f"cpu{cpu}/cpufreq/scaling_cur_freq") for cpu in counted]
    told = [int(one) * 1e3 for one in kilohertz if one and one.isdecimal()]
    return sum(told) / len(told) if told else None


def _system() -> str:
    return sys.platform  # whose value a type checker takes for known where it is compared


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def _said(*command: str) -> str:
    """Return what a tool of the system says; nothing where there is no such tool."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=ANSWER_S
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
