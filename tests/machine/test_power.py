"""What feeds the machine: by a made-up /sys, and by the tools of other systems."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

import llm_latency as lab
from llm_latency.machine import host, limits, power
from llm_latency.measure.trial import carry_out
from tests.support import jobs
from tests.support.factories import FakeChild, FakeWorker

ADAPTER = {"type": "Mains", "online": "1"}
UNPLUGGED = {"type": "Mains", "online": "0"}
FULL = {"type": "Battery", "status": "Full", "scope": "System"}
EMPTYING = {"type": "Battery", "status": "Discharging"}
MOUSE = {"type": "Battery", "status": "Discharging", "scope": "Device"}
PORT = {"type": "USB", "online": "0"}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a Linux machine of the test's own."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        ([], None),
        ([MOUSE], None),  # of a desktop, or of a container
        ([ADAPTER], False),
        ([ADAPTER, FULL], False),
        ([ADAPTER, EMPTYING], False),  # an adapter that is too weak
        ([UNPLUGGED, EMPTYING], True),
        ([UNPLUGGED, FULL], True),
        ([UNPLUGGED, MOUSE], None),
        ([PORT, EMPTYING], True),
        ([{"type": "USB", "online": "1"}, UNPLUGGED, FULL], False),
        ([EMPTYING], True),
        ([FULL, MOUSE], False),
    ],
)
def test_on_battery(machine: Path, supplies: list[dict[str, str]], expected: bool | None) -> None:
    for number, supply in enumerate(supplies):
        folder = f"sys/class/power_supply/S{number}"
        write(machine, {f"{folder}/{name}": text for name, text in supply.items()})
    assert power.on_battery() is expected


def test_the_profile_is_the_firmwares_or_else_the_cpus(machine: Path) -> None:
    assert power.profile() is None
    preference = "sys/devices/system/cpu/cpu0/cpufreq/energy_performance_preference"
    write(machine, {preference: "balance_power"})
    assert power.profile() == "balance_power"
    write(machine, {"sys/firmware/acpi/platform_profile": "low-power"})
    assert power.profile() == "low-power"
    assert power.profile() in power.LOW


def test_the_frequency_is_the_mean_of_the_cpus_that_are_ours(machine: Path) -> None:
    assert power.cpu_frequency_hz([0, 1]) is None
    for cpu, kilohertz in enumerate((1_000_000, 3_000_000, 9_000_000)):
        write(
            machine, {f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq": f"{kilohertz}"}
        )
    assert power.cpu_frequency_hz([0, 1]) == 2e9
    assert power.cpu_frequency_hz([1]) == 3e9


@pytest.mark.parametrize(
    ("system", "words", "expected"),
    [
        ("darwin", " lidwake              1\n lowpowermode         1\n", "low-power"),
        ("darwin", " lowpowermode         0\n", "normal"),
        ("darwin", " lidwake 1\n", None),
        ("win32", "GUID: 381b4222-f694-41f0-9685-ff5bb260df2e  (Ausbalanciert)", "balanced"),
        ("win32", "GUID: a1841308-3541-4fab-bc81-f71556f20b4a  (X)", "power saver"),
        ("win32", "", None),
        ("freebsd14", "", None),
    ],
)
def test_other_systems_are_asked_by_their_tools(
    system: str, words: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(power, "_said", lambda *command: words)
    assert power.profile() == expected


@pytest.mark.parametrize(("plugged", "expected"), [(True, False), (False, True), (None, None)])
def test_psutil_tells_of_other_systems_batteries(
    plugged: bool | None, expected: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    battery = SimpleNamespace(power_plugged=plugged)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
    assert power.on_battery() is expected


def test_a_tool_that_is_not_there_says_nothing() -> None:
    assert power._said("no-such-tool-of-any-system") == ""


@pytest.mark.usefixtures("outputs")
def test_power_is_kept_with_the_card_and_each_trial(
    fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = power.Power(on_battery=True, power_profile="low-power")
    monkeypatch.setattr(power, "now", lambda: fed)
    fake_worker("answers")
    plan = lab.experiments.sweep(n_ctx=512, n_batch=256, prompt_tokens=16, max_tokens=2, rounds=1)
    run = lab.run(plan, progress=False)
    card, rows = run.info["machine"], run.frame()
    assert (card["on_battery"], card["power_profile"]) == (True, "low-power")
    assert list(rows["on_battery"].unique()) == [True]
    assert list(rows["power_profile"].unique()) == ["low-power"]


@pytest.mark.parametrize(("ends", "expected"), [(True, (3e9, 2e9)), (False, (3e9, None))])
def test_the_frequency_is_that_before_and_behind_the_answers(
    tmp_path: Path, fake_child: FakeChild, ends: bool, expected: tuple[float, float | None]
) -> None:
    fake_child(
        f"""
        send(phase="generation 0", cpu_frequency_hz=3e9)
        for repeat in range(2):
            answer(repeat)
        if {ends}:
            send(phase="end", ended="done", cpu_s=0.0, cpu_frequency_hz=2e9)
        """
    )
    (trial,) = lab.experiments.sweep(n_ctx=512, n_batch=256, rounds=1).trials()[:1]
    state = carry_out(jobs.job(tmp_path, trial)).host
    assert (state.cpu_frequency_start_hz, state.cpu_frequency_end_hz) == expected


def test_what_is_not_known_has_a_reason_on_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "now", power.Power)
    card = host.machine_card()
    assert (card.on_battery, card.power_profile) == (None, None)
    assert card.on_battery_why and card.power_profile_why
