"""Time a step."""

import gc
import time
from collections.abc import Callable
from typing import Any


def measure_seconds(step: Callable[[], Any], repeats: int) -> float:
    """Return the shortest of `repeats` wall times, in seconds."""
    times = []
    for _ in range(repeats):
        gc.collect()
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)


def measure_cpu_seconds(step: Callable[[], Any]) -> float:
    """Return the CPU time of a step, of all threads, in seconds: other processes change it little."""
    gc.collect()
    start = time.process_time()
    step()
    return time.process_time() - start
