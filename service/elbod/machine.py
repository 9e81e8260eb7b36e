"""What this machine lends to the process: cores and GPUs, asked without loading torch."""

import ctypes
import math
import os
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Cores by affinity and by the quotas of the process's control groups, at least 1. `root` holds `proc` and `sys`.

    A quota of 1.5 cores counts as 2: the second worker has work for half of its time.
    """
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), _quota(root))))


def _quota(root: Path) -> float:
    """The tightest CPU quota of the control groups that hold this process, in cores; infinity if there is none."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    quotas = [math.inf]
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        if controllers == "":
            top, read = root / "sys/fs/cgroup", _v2
        elif "cpu" in controllers.split(","):
            top, read = root / "sys/fs/cgroup/cpu", _v1
        else:
            continue
        # Inside a container the path may be the host's: then only the top is there.
        group = top / path.lstrip("/")
        quotas += [read(folder) for folder in (group, *group.parents) if folder.is_relative_to(top)]
    return min(quotas)


def _v2(group: Path) -> float:
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return math.inf
    return math.inf if quota == "max" else int(quota) / int(period)


def _v1(group: Path) -> float:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text())
        period = int((group / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return math.inf
    return math.inf if quota <= 0 else quota / period


def has_gpu() -> bool:
    """Whether the CUDA driver is here and finds a device."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
