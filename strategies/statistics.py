"""Read the summed statistics of a round: examples, loss, score histograms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import MetricRecord

from fedhealth.evaluation.predictions import ScoreCounts, score_counts
from fedhealth.protocol.messages import LOSS_UNIT

Statistics = Mapping[str, np.ndarray]


def counts_of(statistics: Statistics) -> dict[str, ScoreCounts]:
    """Return the score histograms by split."""
    splits = sorted({name.split(".")[0] for name in statistics if name.endswith(".positives")})
    return {split: ScoreCounts(statistics[f"{split}.positives"], statistics[f"{split}.negatives"]) for split in splits}


def summary(statistics: Statistics) -> dict[str, Any]:
    """Return examples, mean training loss, and each split's metrics (without intervals), ready for JSON."""
    found: dict[str, Any] = {}
    examples = int(statistics["train.examples"][0]) if "train.examples" in statistics else 0
    if examples:  # under differential privacy they stay at the sites, and a secure sum of nothing is zero
        found |= {"examples": examples, "loss": float(statistics["train.loss"][0]) / LOSS_UNIT / examples}
    for split, counts in counts_of(statistics).items():
        found[split] = {name: estimate.as_dict()["value"] for name, estimate in score_counts(counts, 0).items()}
    return found


def metrics(statistics: Statistics) -> MetricRecord:
    """Return the summary as a flat Flower record, what is not defined left out."""
    flat: dict[str, int | float | list[int] | list[float]] = {}
    for name, value in summary(statistics).items():
        inner = {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        flat |= {key: part for key, part in inner.items() if part is not None}
    return MetricRecord(flat)
