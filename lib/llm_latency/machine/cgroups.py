"""The control groups of Linux that this process is in, and what they allow.

A group may use no more than every group above it: a container, a batch job and a user's slice
nest, and the smallest limit counts. ``/proc/self/cgroup`` names the group, ``mountinfo`` says
where its files are: version 1 has a tree per controller, version 2 one for all, and machines
have either or both. Within a cgroup namespace a name may be ``/`` or lead outside (``/../..``);
then what is mounted is all that can be seen, and the walk ends there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Group(NamedTuple):
    """A control group, by its folder."""

    folder: Path
    version: int

    def cpus(self) -> float | None:
        """Return its CPU quota, in CPUs; ``None`` where it has none."""
        if self.version == 2:
            quota, period = [*_read(self.folder / "cpu.max").split(), "", ""][:2]
        else:
            quota = _read(self.folder / "cpu.cfs_quota_us")
            period = _read(self.folder / "cpu.cfs_period_us")
        # Without a quota it is "max" in version 2, and -1 in version 1.
        return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None

    def memory_bytes(self) -> int | None:
        """Return its memory limit; ``None`` where it has none."""
        name = "memory.max" if self.version == 2 else "memory.limit_in_bytes"
        limit = _read(self.folder / name)
        # Without a limit it is "max" in version 2, and pages up to 2^63 bytes in version 1.
        return int(limit) if limit.isdigit() and int(limit) < 1 << 62 else None

    def held_back(self) -> HeldBack:
        """Return how often, and for how long, its quota has held it back so far."""
        lines = (line.split() for line in _read(self.folder / "cpu.stat").splitlines())
        count = {words[0]: int(words[1]) for words in lines if len(words) == 2}
        spent_s = count.get("throttled_usec", 0) / 1e6 + count.get("throttled_time", 0) / 1e9
        return HeldBack(count.get("nr_throttled", 0), spent_s)


class HeldBack(NamedTuple):
    """What a CPU quota cost: periods, and the time of all CPUs together."""

    periods: int
    seconds: float


def groups(controller: str, root: Path = Path("/")) -> list[Group]:
    """Return the groups of this process that may limit it, its own first, then those around it.

    Parameters
    ----------
    controller
        ``cpu`` or ``memory``.
    root
        Where the system's files are.
    """
    names: dict[int, str] = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controller in controllers.split(","):
            names[1] = name
        elif number == "0" and not controllers:
            names[2] = name
    # A controller belongs to one version at a time; where version 1 has it, 2 has not.
    for version, name in sorted(names.items()):
        for folder, top in _mounts(controller, version, root):
            return _up(folder, _inside(name, top), version)
    return []


def _mounts(controller: str, version: int, root: Path) -> list[tuple[Path, str]]:
    """Return where a tree is mounted, and which of its groups is seen there."""
    found = []
    for line in _read(root / "proc/self/mountinfo").splitlines():
        place, _, kind = line.partition(" - ")
        _, _, _, top, folder = place.split()[:5]
        system, _, options = (*kind.split(), "", "")[:3]
        if (system == "cgroup2" and version == 2) or (
            system == "cgroup" and version == 1 and controller in options.split(",")
        ):
            found.append((root / folder.replace("\\040", " ").lstrip("/"), top))
    return found


def _inside(name: str, top: str) -> list[str]:
    """Return the parts of a group's name below the group that is mounted."""
    parts, above = ([one for one in text.split("/") if one] for text in (name, top))
    below = parts[len(above) :] if parts[: len(above)] == above else []
    return [] if ".." in below else below


def _up(folder: Path, parts: list[str], version: int) -> list[Group]:
    return [Group(folder.joinpath(*parts[:n]), version) for n in range(len(parts), -1, -1)]


def smallest(
    controller: str, limit: Callable[[Group], float | None], root: Path = Path("/")
) -> float | None:
    """Return the smallest limit of all groups; ``None`` where none has any."""
    return min((n for group in groups(controller, root) if (n := limit(group))), default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
