"""Time a step."""

import gc
import time
from collections.abc import Callable
from typing import Any


def measure_cpu_seconds(step: Callable[[], Any], repeats: int = 1) -> float:
    """Return the shortest of `repeats` processor times, of all threads, in seconds: other load changes it little."""
    times = []
    for _ in range(repeats):
        gc.collect()
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return min(times)
