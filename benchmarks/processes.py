"""What a server costs the machine, read from /proc, and what the machine is."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

TICK_SECONDS = 1.0 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PACKAGES = (
    "torch",
    "numpy",
    "fastapi",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "pydantic",
    "msgspec",
    "mosec",
)


def cpu_seconds(pid: int) -> float:
    """Return user and system time spent so far by a process and all its living descendants, in seconds."""
    return sum(_own_cpu_seconds(member) for member in family(pid))


def core_seconds(core: int) -> float:
    """Return the time that all processes together have spent on a core, stolen time included, in seconds."""
    for line in _read(Path("/proc/stat")).splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _, _, _, _, steal = (int(field) for field in fields[:8])
            return (user + nice + system + steal) * TICK_SECONDS
    raise ValueError(f"there is no core {core}")


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and its descendants; pages that they share count once each."""
    return sum(_own_resident_bytes(member) for member in family(pid))


def family(pid: int) -> list[int]:
    """Return a process and all its living descendants."""
    members = [pid]
    for member in members:
        for task in Path(f"/proc/{member}/task").glob("*/children"):
            members.extend(int(child) for child in _read(task).split())
    return members


def parse_stat_cpu(stat: str) -> float:
    """Read utime and stime, in seconds, from a line of /proc/PID/stat; the name in it may hold anything."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_SECONDS


def machine_lines() -> list[str]:
    """Describe the machine and the versions that were measured, a line each."""
    gigabytes = os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES / 1e9
    return [
        f"{_processor()}, {os.cpu_count()} cores, {gigabytes:.0f} GB of memory",
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        ", ".join(f"{name} {_version(name)}" for name in PACKAGES if _version(name)),
    ]


def _own_cpu_seconds(pid: int) -> float:
    stat = _read(Path(f"/proc/{pid}/stat"))
    return parse_stat_cpu(stat) if stat else 0.0


def _own_resident_bytes(pid: int) -> int:
    statm = _read(Path(f"/proc/{pid}/statm"))
    return int(statm.split()[1]) * PAGE_BYTES if statm else 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):  # it ended between the listing and the reading
        return ""


def _processor() -> str:
    names = [line for line in _read(Path("/proc/cpuinfo")).splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
