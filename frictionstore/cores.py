"""How many cores this process may use: the machine's, its affinity, its container's share."""

from __future__ import annotations

import os
from functools import cache
from math import ceil
from pathlib import Path

SHARE = "FRICTIONSTORE_CORES"


def cores(most: int | None = None) -> int:
    """Cores that this process may keep busy, `most` at the most.

    The least of what the machine has, what the process is bound to (`taskset`, a batch system),
    what the quota of its control group comes to (a container), rounded up, and the variable
    `FRICTIONSTORE_CORES`, by which several processes of one machine share its cores.
    """
    try:
        known = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not every system has it
        known = os.cpu_count() or 1
    said = os.environ.get(SHARE, "")
    limits = [known, quota(), most, int(said) if said.isdecimal() else None]
    return max(min(limit for limit in limits if limit is not None), 1)


@cache
def quota(
    proc: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Cores that control groups allow, of version 1 or 2; None where they set no limit."""
    try:
        groups = [line.split(":", 2) for line in proc.read_text().splitlines()]
    except OSError:
        return None
    found = []
    for number, controllers, name in (group for group in groups if len(group) == 3):
        if number == "0" and not controllers:
            roots = [mount, mount / "unified"]
        elif "cpu" in controllers.split(","):
            roots = [mount / controllers, mount / "cpu"]
        else:
            continue
        for root in roots:
            # a group's limit holds for those in it; in a container the path may be the host's
            for folder in (root / name.strip("/"), *(root / name.strip("/")).parents):
                limit = _limit(folder)
                if limit is not None:
                    found.append(limit)
                if folder == root:
                    break
    return min(found, default=None)


def _limit(folder: Path) -> int | None:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            text = " ".join((folder / name).read_text() for name in names)
            allowed, period = map(int, text.split())
        except (OSError, ValueError):  # not there, or "max"
            continue
        if allowed > 0 and period > 0:
            return ceil(allowed / period)
    return None
