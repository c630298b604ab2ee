"""Check the machine: free disk space, memory, processors, and a GPU if the policy names one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from fedhealth.consortium.identity import get_secrets_folder
from fedhealth.errors import ConfigError
from fedhealth.site.check.base import CheckResult, report_failure, report_pass, report_warning
from fedhealth.site.policy import Resources

_MIN_DISK, _ENOUGH_DISK = 2.0, 20.0  # GB
_MIN_MEMORY = 4.0  # GB


def check_machine(home: Path, resources: Resources) -> Iterator[CheckResult]:
    """Yield the checks of the resources of tasks."""
    yield check_disk(home)
    yield check_memory(resources, _get_total_memory_gb())
    yield check_threads(resources, len(os.sched_getaffinity(0)))
    yield check_secrets(home)
    if resources.device.startswith("cuda"):
        yield check_gpu(resources.device)


def check_disk(folder: Path) -> CheckResult:
    """Check the free space on the disk of the site's folder."""
    free = shutil.disk_usage(folder).free / 1e9
    finding = f"{free:.0f} GB free at {folder}"
    if free < _MIN_DISK:
        return report_failure("disk", finding, "Free disk space, or move the site's folder.")
    if free < _ENOUGH_DISK:
        return report_warning("disk", finding, f"Free at least {_ENOUGH_DISK:.0f} GB: decoded images are cached there.")
    return report_pass("disk", finding)


def check_memory(resources: Resources, total: float) -> CheckResult:
    """Check the machine's memory, in GB, against resources.memory_gb."""
    finding = f"{total:.0f} GB, a task may use {resources.memory_gb:g}"
    if total < _MIN_MEMORY:
        return report_failure("memory", finding, f"Use a machine with at least {_MIN_MEMORY:.0f} GB of memory.")
    if total < resources.memory_gb:
        return report_warning(
            "memory", finding, "Lower resources.memory_gb in site.yaml below the memory of this machine."
        )
    return report_pass("memory", finding)


def check_threads(resources: Resources, processors: int) -> CheckResult:
    """Check the number of threads against the processors that this process may use."""
    finding = f"{processors}, a task uses {resources.threads}"
    if resources.threads > processors:
        return report_warning(
            "processors", finding, "Lower resources.threads in site.yaml: more threads than processors are slower."
        )
    return report_pass("processors", finding)


def check_secrets(home: Path) -> CheckResult:
    """Check that the secrets of a run can be held in memory instead of on disk."""
    folder = get_secrets_folder("check", "check", home)
    if folder.is_relative_to(home):
        fix = "Mount a tmpfs at /dev/shm, or exclude the site's folder from backups and snapshots."
        return report_warning("secrets", "secure aggregation would write secrets to disk during a run", fix)
    return report_pass("secrets", "stored in memory only")


def check_gpu(device: str) -> CheckResult:
    """Check the GPU that the policy names."""
    import torch

    from fedhealth.training.devices import select_device

    try:
        found = select_device(device)
    except ConfigError as fault:
        return report_failure("GPU", fault.problem, "Correct resources.device in site.yaml, or install the GPU driver.")
    about = torch.cuda.get_device_properties(found)
    return report_pass("GPU", f"{about.name}, {about.total_memory / 1e9:.0f} GB, torch {torch.__version__}")


def _get_total_memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
