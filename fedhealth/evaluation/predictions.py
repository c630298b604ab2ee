"""A model's predictions for studies, and their score histograms, which may leave the site."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from fedhealth.config.schema import TaskKind
from fedhealth.data.examples import Examples
from fedhealth.evaluation import metrics
from fedhealth.evaluation.metrics import LOGIT_LIMIT, Estimate, ScoreTable
from fedhealth.evaluation.noised_scores import (
    NoisedCells,
    bootstrap_noised_auroc,
    estimate_noised_metrics,
    is_scorable,
)
from fedhealth.models.multimodal import MultimodalModel

_FEWEST_RESAMPLES = 200  # with noise even a value without interval needs resamples: its bias is estimated from them


@dataclass(frozen=True)
class Predictions:
    """Predictions for S studies, each once, with K score columns (1 for binary).

    Attributes:
        scores: float64 [S, K], probabilities.
        labels: float64 [S, K], 0 or 1; NaN = missing. Multiclass labels are one-hot.
        patient: int64 [S].

    """

    scores: np.ndarray
    labels: np.ndarray
    patient: np.ndarray


@dataclass(frozen=True)
class ScoreHistograms:
    """Counts of studies by score bin: enough for pooled metrics, without values of single studies.

    Attributes:
        positives: [K, bins], studies with the class, by score bin (`metrics.bin_scores`): int64, or float64 with noise.
        negatives: [K, bins], studies without the class.
        noise_std: standard deviation of the noise of every count; 0 for exact counts.
        scores: the probability [K, bins] that each bin states, ascending; None for those at the bins' centres.

    """

    positives: np.ndarray
    negatives: np.ndarray
    noise_std: float = 0.0
    scores: np.ndarray | None = None

    @property
    def columns(self) -> list[NoisedCells]:
        """The noised cells of each class."""
        stated = [None] * len(self.positives) if self.scores is None else list(self.scores)
        sides = zip(self.positives, self.negatives, stated, strict=True)
        return [NoisedCells(with_class, without, self.noise_std, scores) for with_class, without, scores in sides]

    def count_studies(self) -> tuple[np.ndarray, np.ndarray]:
        """Return how many studies there are with and without each class, int64 [K]; never below zero."""
        with_class, without = (
            np.rint(np.maximum(side.sum(axis=1), 0)).astype(np.int64) for side in (self.positives, self.negatives)
        )
        return with_class, without


def predict_studies(
    model: MultimodalModel, examples: Examples, rows: np.ndarray, kind: TaskKind, batch_size: int = 256
) -> Predictions:
    """Predict the studies of `rows`; a study with several images gets the mean of its logits.

    A logit that is not finite counts as zero, without an error or a warning: under privacy, neither may depend on a
    patient.
    """
    model.eval()
    device = next(model.parameters()).device
    parts = []
    with torch.inference_mode():
        for start in range(0, max(1, len(rows)), batch_size):  # without rows, one empty batch gives the width
            batch = {name: value.to(device) for name, value in examples.batch(rows[start : start + batch_size]).items()}
            parts.append(model(batch).double().cpu().numpy())
    logits = np.nan_to_num(np.concatenate(parts), nan=0.0, posinf=0.0, neginf=0.0)
    _, first, study = np.unique(examples.study[rows], return_index=True, return_inverse=True)
    sums = np.zeros((len(first), logits.shape[1]))
    np.add.at(sums, study, logits)
    means = sums / np.bincount(study, minlength=len(first))[:, None]
    chosen = rows[first]
    return Predictions(
        _to_probabilities(means, kind),
        _one_hot(examples.labels[chosen], means.shape[1], kind),
        examples.patient[chosen],
    )


def count_scores(predictions: Predictions, bins: int, limit: float = LOGIT_LIMIT) -> ScoreHistograms:
    """Return the score histograms of `predictions`, exact, in bins up to the logit `limit`."""
    columns = predictions.scores.shape[1]
    counts = np.zeros((2, columns, bins), np.int64)
    for column in range(columns):
        place = metrics.bin_scores(predictions.scores[:, column], bins, limit)
        for side, value in enumerate((1.0, 0.0)):
            counts[side, column] = np.bincount(place[predictions.labels[:, column] == value], minlength=bins)
    return ScoreHistograms(counts[0], counts[1])


def describe_histogram_noise(counts: ScoreHistograms) -> dict[str, float]:
    """Return the size of the noise in studies, and how many classes are far enough above it to be scored, for JSON.

    Args:
        counts: summed, [..., bins]; each of the leading dimensions' entries is a class.

    """
    cells = counts.positives.shape[-1]
    positives, negatives = (side.reshape(-1, cells) for side in (counts.positives, counts.negatives))
    return {
        "count_std": round(counts.noise_std, 4),
        "studies_std": round(counts.noise_std * math.sqrt(2 * cells), 4),
        "cells": cells,
        "classes_scored": sum(map(is_scorable, ScoreHistograms(positives, negatives, counts.noise_std).columns)),
    }


def compute_metrics(predictions: Predictions, resamples: int, seed: int = 0) -> dict[str, Estimate]:
    """Return every metric, macro-averaged over classes, with intervals from a bootstrap over patients."""
    return {
        name: metrics.estimate_metric(name, values)
        for name, values in bootstrap_metrics(predictions, resamples, seed).items()
    }


def bootstrap_metrics(predictions: Predictions, resamples: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return for each metric its value [0] and its bootstrap values [1:]; the same seed pairs two models' resamples."""
    known = ~np.isnan(predictions.labels)
    weights = metrics.draw_poisson_weights(predictions.patient, resamples, seed)
    weights = np.concatenate([np.ones((1, len(predictions.patient))), weights])

    def tables(chunk: np.ndarray) -> list[ScoreTable]:
        return [
            metrics.build_score_table(
                predictions.scores[rows, column], predictions.labels[rows, column] == 1, chunk[:, rows]
            )
            for column, rows in enumerate(known.T)
            if rows.any()
        ]

    if not known.any():
        return {name: np.full(resamples + 1, np.nan) for name in metrics.METRICS}
    return {
        name: metrics.apply_in_chunks(
            lambda chunk, metric=metric: metrics.macro_average(metric, tables(chunk)),  # type: ignore[misc]
            weights,
        )
        for name, metric in metrics.METRICS.items()
    }


def compute_histogram_metrics(counts: ScoreHistograms, resamples: int, seed: int = 0) -> dict[str, Estimate]:
    """Return every metric of summed histograms, with intervals from a Poisson bootstrap over studies.

    With noise, the intervals include it, and a metric that is lost in it is NaN (`noised_scores`).
    """
    if counts.noise_std:
        return estimate_noised_metrics(counts.columns, max(resamples, _FEWEST_RESAMPLES), seed)
    drawn = bootstrap_histogram_metrics(counts, resamples, seed)
    return {name: metrics.estimate_metric(name, values) for name, values in drawn.items()}


def bootstrap_histogram_auroc(counts: ScoreHistograms, resamples: int, seed: int = 0) -> np.ndarray:
    """Return the AUROC of summed histograms [0], and values [1:] whose percentiles give its interval."""
    if counts.noise_std:
        return bootstrap_noised_auroc(counts.columns, resamples, seed)
    return bootstrap_histogram_metrics(counts, resamples, seed)[metrics.PRIMARY_METRIC]


def bootstrap_histogram_metrics(counts: ScoreHistograms, resamples: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return for every metric of exact histograms its value [0] and its bootstrap values [1:]; NaN if not defined."""
    centres = np.broadcast_to(metrics.compute_bin_centres(counts.positives.shape[1]), counts.positives.shape)
    stated = centres if counts.scores is None else counts.scores
    generator = np.random.default_rng(seed)
    columns = [
        column
        for column in range(len(counts.positives))
        if counts.positives[column].any() and counts.negatives[column].any()
    ]
    if not columns:
        return {name: np.full(resamples + 1, np.nan) for name in metrics.METRICS}
    tables = []
    for column in columns:
        used = (counts.positives[column] + counts.negatives[column]) > 0
        sides = []
        for side in (counts.positives[column, used], counts.negatives[column, used]):
            sides.append(np.concatenate([side[None], generator.poisson(side, (resamples, len(side)))]).astype(float))
        tables.append(ScoreTable(stated[column, used], *sides))
    return {name: metrics.macro_average(metric, tables) for name, metric in metrics.METRICS.items()}


def _to_probabilities(logits: np.ndarray, kind: TaskKind) -> np.ndarray:
    if kind is TaskKind.multiclass:
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        softmax: np.ndarray = shifted / shifted.sum(axis=1, keepdims=True)
        return softmax
    sigmoid: np.ndarray = np.exp(-np.logaddexp(0.0, -logits))
    return sigmoid


def _one_hot(labels: np.ndarray, columns: int, kind: TaskKind) -> np.ndarray:
    labels = labels.astype(np.float64)
    if kind is not TaskKind.multiclass:
        return labels
    hot = (labels == np.arange(columns)).astype(np.float64)
    return np.where(np.isnan(labels), np.nan, hot)
