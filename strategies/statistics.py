"""Read the summed statistics of a round: examples, loss, score histograms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import MetricRecord

from fedhealth.errors import FederationError
from fedhealth.evaluation.predictions import ScoreHistograms, compute_histogram_metrics
from fedhealth.privacy.mechanisms.noised_counts import NOISE, decode_counts
from fedhealth.protocol.messages import LOSS_UNIT, SAME_RELEASE
from fedhealth.statistics.shapes import SIDES

Statistics = Mapping[str, np.ndarray]


def read_score_counts(statistics: Statistics) -> dict[str, ScoreHistograms]:
    """Return the score histograms by split; those of a private run hold raw counts with noise."""
    splits = sorted({name.split(".")[0] for name in statistics if name.endswith(".positives")})
    return {split: _read_histograms(statistics, split) for split in splits}


def summarize_statistics(statistics: Statistics) -> dict[str, Any]:
    """Return examples, mean training loss, and each split's metrics (without intervals), ready for JSON."""
    summary: dict[str, Any] = _compute_task_means(statistics, "train") | _compute_task_means(statistics, "evaluate")
    for split, counts in read_score_counts(statistics).items():
        summary[split] = {
            name: estimate.as_dict()["value"] for name, estimate in compute_histogram_metrics(counts, 0).items()
        }
    return summary


def _compute_task_means(statistics: Statistics, task: str) -> dict[str, Any]:
    """Return the number of examples and the mean of every `<task>.<metric>`; empty without examples."""
    counted = statistics.get(f"{task}.examples")
    if counted is None or (examples := int(counted[0])) <= 0:  # under differential privacy the sites do not send them
        return {}
    sums = {name.partition(".")[2]: value for name, value in statistics.items() if name.startswith(f"{task}.")}
    means = {name: float(value[0]) / LOSS_UNIT / examples for name, value in sums.items() if name != "examples"}
    return {"examples": examples, **means}


def build_metric_record(statistics: Statistics) -> MetricRecord:
    """Return the summary as a flat Flower record, without undefined values."""
    flat: dict[str, int | float | list[int] | list[float]] = {}
    for name, value in summarize_statistics(statistics).items():
        inner = {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        flat |= {key: part for key, part in inner.items() if part is not None}
    return MetricRecord(flat)


def _read_histograms(statistics: Statistics, split: str) -> ScoreHistograms:
    positives, negatives = (statistics[f"{split}.{side}"] for side in SIDES)
    if (variance := statistics.get(f"{split}.{NOISE}")) is None:
        if min(int(positives.min(initial=0)), int(negatives.min(initial=0))) < 0:  # a secure sum shows no single site
            raise FederationError(
                f"The summed score counts of {split} are below zero: a site sent impossible counts.", SAME_RELEASE
            )
        return ScoreHistograms(positives, negatives)
    noise_std = math.sqrt(max(float(decode_counts(variance)[0]), 0.0))
    return ScoreHistograms(decode_counts(positives), decode_counts(negatives), noise_std)
