"""The learning rate over the rounds of a run: a warm-up, then constant, or falling along a line or half a cosine.

Loshchilov and Hutter, "SGDR: Stochastic gradient descent with warm restarts", ICLR 2017 (without restarts); Goyal et
al., "Accurate, large minibatch SGD", 2017, for the warm-up. The factor follows from public numbers alone.
"""

from __future__ import annotations

import math

from fedhealth.config.schema import Schedule


def compute_rate_factor(schedule: Schedule, warmup: int, rounds: int, number: int) -> float:
    """Return the factor on the learning rate in a round, positive and at most 1.

    Args:
        schedule: of the run.
        warmup: number of first rounds in which the rate rises.
        rounds: of the run.
        number: of the round, from 1.

    """
    if number <= warmup:
        return number / (warmup + 1)
    done = (number - warmup - 1) / max(1, rounds - warmup)
    if schedule is Schedule.constant:
        return 1.0
    return 1 - done if schedule is Schedule.linear else (1 + math.cos(math.pi * done)) / 2
