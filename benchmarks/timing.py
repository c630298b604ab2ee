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
