"""What a command and all its processes use: wall time, processor time and memory."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_INTERVAL = 0.2  # seconds between two looks: short against a run, long against the cost of a look
_PR_SET_CHILD_SUBREAPER = 36
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """What a command used.

    Attributes:
        wall: seconds until it ended.
        cpu: processor seconds, user and system, of all its processes.
        memory: peak of their proportional memory together, in bytes: shared pages count once.

    """

    wall: float
    cpu: float
    memory: int


class CommandFailedError(RuntimeError):
    """The command failed or took too long; the message has the end of what it printed."""


def measure_command(command: Sequence[str], environment: Mapping[str, str], folder: Path, limit: float) -> Usage:
    """Run a command to its end, with all the processes that it leaves behind; return what they used.

    Processor time is what the kernel says of ended processes, or the sum of what was last seen of each, if that is
    more: the kernel forgets processes whose parents do not wait for them. The calling process has no other children:
    they would be counted and ended.

    Args:
        command: the command line.
        environment: its variables.
        folder: where it runs; its output goes to `output.txt` there.
        limit: seconds after which all its processes are killed.

    Raises:
        CommandFailedError: it failed or took too long.

    """
    _adopt_orphans()
    before, started, seen, memory = _read_waited(), time.perf_counter(), dict[int, float](), 0
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=output, stderr=output)
    try:
        while process.poll() is None and time.perf_counter() - started < limit:
            tree = list_descendants(os.getpid())
            seen |= {pid: read_cpu_seconds(pid) for pid in tree}
            memory = max(memory, sum(map(read_proportional_memory, tree)))
            time.sleep(_INTERVAL)
        wall = time.perf_counter() - started
    finally:
        _end_descendants()
    if process.returncode != 0:
        end = (folder / "output.txt").read_text("utf-8", "replace")[-2000:]
        raise CommandFailedError(f"{' '.join(command)[:200]}: exit code {process.returncode} after {wall:.0f} s\n{end}")
    return Usage(wall, max(_read_waited() - before, sum(seen.values())), memory)


def list_descendants(pid: int) -> list[int]:
    """Return the processes below a process."""
    found, rest = list[int](), [pid]
    while rest:
        with suppress(OSError):
            for thread in Path(f"/proc/{rest.pop()}/task").iterdir():
                children = [int(child) for child in (thread / "children").read_text("ascii").split()]
                found += children
                rest += children
    return found


def read_cpu_seconds(pid: int, *, ended: bool = False) -> float:
    """Return the processor seconds of a process, on request with its ended children; 0 if it has ended itself."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return sum(map(int, fields[11 : 15 if ended else 13])) / _TICKS
    return 0.0


def read_proportional_memory(pid: int) -> int:
    """Return the proportional memory (PSS) of a process in bytes; 0 if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that they can be waited for."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_descendants() -> None:
    """Wait for the processes that are left; kill those that do not end within seconds."""
    kill_at = time.monotonic() + 5
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not (left := list_descendants(os.getpid())):
            return
        if time.monotonic() > kill_at:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def _read_waited() -> float:
    times = os.times()
    return times.children_user + times.children_system
