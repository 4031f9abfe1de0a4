"""The memory of this machine, or of the container that this process is in: how much it may take, has taken, and whether the
kernel has killed something for taking more.

In: the files of the memory cgroup, version 2 or 1. Out: numbers, None where the kernel does not tell.
Source: the kernel's admin-guide, cgroup-v2 and cgroup-v1/memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_UNLIMITED = 2**60
"""Version 1 has no word for "no limit" but a number that no machine has."""


@dataclass(frozen=True)
class HostMemory:
    """`limit`: bytes, None if there is none. `peak`: bytes, since the container has started. `kills`: how many processes the
    kernel has killed for want of memory."""

    limit: int | None
    peak: int | None
    kills: int


def host_memory(root: Path = _ROOT) -> HostMemory:
    """Of where this process is."""
    limit = _number(root, "memory.max", "memory/memory.limit_in_bytes")
    return HostMemory(
        limit=limit if limit is not None and limit < _UNLIMITED else None,
        peak=_number(root, "memory.peak", "memory/memory.max_usage_in_bytes"),
        kills=_kills(root),
    )


def _kills(root: Path) -> int:
    for name in ("memory.events", "memory/memory.oom_control"):
        for line in _text(root / name).splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
    return 0


def _number(root: Path, *names: str) -> int | None:
    for name in names:
        text = _text(root / name).strip()
        if text.isdigit():
            return int(text)
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
