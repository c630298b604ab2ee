"""One way to time a step."""

import gc
import time
from collections.abc import Callable
from typing import Any


def timed(step: Callable[[], Any], repeats: int) -> float:
    """Return the shortest of some wall times, in seconds."""
    times = []
    for _ in range(repeats):
        gc.collect()
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)
