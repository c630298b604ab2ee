"""How much memory this process can still take, on a CPU or a GPU, in bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")

_siblings = 1


def share_memory(processes: int) -> None:
    """Let this process, one of several that take memory side by side, count with its share of what is free."""
    global _siblings  # of the process, which belongs to one run
    _siblings = processes


def measure_free_memory() -> int:
    """Return what the machine has available, or less if a control group of this process (a container) allows less.

    Processes that work side by side get a share each, see `share_memory`.
    """
    return max(0, min([_read_available(), *_list_group_rooms()])) // _siblings


def measure_free_gpu_memory(device: torch.device) -> int:
    """Return what a GPU has free, and what torch holds of it without using it."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def measure_resident_memory() -> int:
    """Return what this process holds; 0 where the system does not say."""
    try:
        return int((_PROC / "self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def _read_available() -> int:
    """Return the machine's available memory, or half of all where the system does not say."""
    with suppress(OSError, StopIteration, ValueError):
        lines = (_PROC / "meminfo").read_text("ascii").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _list_group_rooms() -> Iterator[int]:
    """Yield what each control group (version 2) that this process is in can still take; its caches can be dropped."""
    own = Path()
    with suppress(OSError, StopIteration, UnicodeDecodeError):
        lines = (_PROC / "self/cgroup").read_text("utf-8").splitlines()
        own = Path(next(line for line in lines if line.startswith("0::")).removeprefix("0::/"))
    for folder in (_CGROUPS / each for each in (own, *own.parents)):
        with suppress(OSError, ValueError, StopIteration):  # the outermost group has no limit, and "max" is none
            limit, used = (int((folder / name).read_text("ascii")) for name in ("memory.max", "memory.current"))
            stat = (folder / "memory.stat").read_text("ascii").splitlines()
            yield limit - used + int(next(line.split()[1] for line in stat if line.startswith("inactive_file ")))
