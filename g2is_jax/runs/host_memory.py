"""The memory of this machine that this process may still take."""

import os
import resource
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")  # version 2; of this process where it has a namespace of its own


def available_bytes() -> int:
    """The bytes that are free or can be freed, within the limits of the process and its group."""
    soft = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    limits = [limit for limit in soft if limit != resource.RLIM_INFINITY]
    return min([_of_machine(), *limits, *_of_group()])


def _of_machine() -> int:
    if MEMINFO.exists():
        for line in MEMINFO.read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return 1024 * int(rest.split()[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_group() -> list[int]:
    try:
        return [int((CGROUP / "memory.max").read_text())]
    except (OSError, ValueError):  # there is none, or it says `max`
        return []
