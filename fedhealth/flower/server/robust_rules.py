"""Flower's robust aggregation rules for flat vectors that all have the same weight."""

from __future__ import annotations

import numpy as np
from flwr.server.strategy.aggregate import aggregate_krum, aggregate_median, aggregate_trimmed_avg


def compute_median(vectors: list[np.ndarray]) -> np.ndarray:
    """Return the median of every coordinate."""
    return aggregate_median(_add_equal_weights(vectors))[0]


def compute_trimmed_mean(vectors: list[np.ndarray], share: float) -> np.ndarray:
    """Return the mean of every coordinate without a share (rounded down to whole vectors) at each end."""
    return aggregate_trimmed_avg(_add_equal_weights(vectors), share)[0]


def compute_krum(vectors: list[np.ndarray], num_malicious: int, num_kept: int) -> np.ndarray:
    """Return the mean of the `num_kept` vectors that are nearest to their neighbours."""
    return aggregate_krum(_add_equal_weights(vectors), num_malicious, num_kept)[0]


def _add_equal_weights(vectors: list[np.ndarray]) -> list[tuple[list[np.ndarray], int]]:
    """Return the vectors in the form that Flower's functions take, each with weight 1."""
    return [([vector], 1) for vector in vectors]
