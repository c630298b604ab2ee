"""The machine: room on the disk, memory, processors, a graphics card where the policy asks for one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from fedhealth.consortium.identity import secrets_folder
from fedhealth.errors import ConfigError
from fedhealth.site.check.contract import Check, failed, passed, warned
from fedhealth.site.policy import Resources

_LEAST_DISK, _ENOUGH_DISK = 2.0, 20.0  # GB
_LEAST_MEMORY = 4.0  # GB


def check_machine(home: Path, resources: Resources) -> Iterator[Check]:
    """Yield the checks of what tasks may use."""
    yield check_disk(home)
    yield check_memory(resources, _memory())
    yield check_threads(resources, len(os.sched_getaffinity(0)))
    yield check_secrets(home)
    if resources.device.startswith("cuda"):
        yield check_gpu(resources.device)


def check_disk(folder: Path) -> Check:
    """Check the room where the site's folder is."""
    free = shutil.disk_usage(folder).free / 1e9
    seen = f"{free:.0f} GB free at {folder}"
    if free < _LEAST_DISK:
        return failed("disk", seen, "Make room, or move the site's folder.")
    if free < _ENOUGH_DISK:
        return warned("disk", seen, f"{_ENOUGH_DISK:.0f} GB are comfortable for cached images.")
    return passed("disk", seen)


def check_memory(resources: Resources, total: float) -> Check:
    """Check the machine's memory, in GB, against what the policy lets a task use."""
    seen = f"{total:.0f} GB, a task may use {resources.memory_gb:g}"
    if total < _LEAST_MEMORY:
        return failed("memory", seen, f"Give the machine at least {_LEAST_MEMORY:.0f} GB.")
    if total < resources.memory_gb:
        return warned("memory", seen, "Lower resources.memory_gb in site.yaml below what the machine has.")
    return passed("memory", seen)


def check_threads(resources: Resources, processors: int) -> Check:
    """Check the number of threads against the processors that this process may use."""
    seen = f"{processors}, a task uses {resources.threads}"
    if resources.threads > processors:
        return warned("processors", seen, "Lower resources.threads in site.yaml: more are slower, not faster.")
    return passed("processors", seen)


def check_secrets(home: Path) -> Check:
    """Check that secrets of a run can lie in memory instead of on the disk."""
    folder = secrets_folder("check", "check", home)
    if folder.is_relative_to(home):
        fix = "Give the machine a tmpfs at /dev/shm, or keep the site's folder out of backups and snapshots."
        return warned("secrets", "they would lie on the disk during a run", fix)
    return passed("secrets", "kept in memory only")


def check_gpu(device: str) -> Check:
    """Check the graphics card that the policy names."""
    import torch

    from fedhealth.training.trainer import device_of

    try:
        found = device_of(device)
    except ConfigError as fault:
        return failed("GPU", fault.problem, "Correct resources.device in site.yaml, or install the driver.")
    about = torch.cuda.get_device_properties(found)
    return passed("GPU", f"{about.name}, {about.total_memory / 1e9:.0f} GB, torch {torch.__version__}")


def _memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
