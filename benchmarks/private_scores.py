"""Coverage of the intervals of private scores: how often a 95 % interval holds the true value of each metric.

`python -m benchmarks.private_scores [--quick]` prints a table and, as its last line, one JSON object. Four hospitals
release noised score histograms, which are summed and scored as at the lead. True values are those of a large sample.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch import Tensor, from_numpy

from fedhealth.evaluation.metrics import METRICS
from fedhealth.evaluation.noised_scores import NOISED_LOGIT_LIMIT, count_score_cells
from fedhealth.evaluation.predictions import (
    Predictions,
    ScoreHistograms,
    compute_histogram_metrics,
    compute_metrics,
    count_scores,
)
from fedhealth.privacy.accounting.accountant import calibrate_noise_multiplier
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.privacy.mechanisms.histogram_release import noise_histograms
from strategies.statistics import read_score_counts

SITES = 4
DELTA, SHARE = 1e-6, 0.1
SEPARATION = 1.58  # of the classes' scores, in standard deviations: AUROC .868
TRUE_STUDIES = 400_000
RESAMPLES = 400


@dataclass(frozen=True)
class Setting:
    """What is released.

    Attributes:
        epsilon: of the run.
        patients: of one hospital's split.
        prevalence: share of patients with the finding.
        slope: of the logits; above 1, the model is too sure of itself.

    """

    epsilon: float
    patients: int
    prevalence: float
    slope: float

    @property
    def name(self) -> str:
        """Name in the output."""
        return f"epsilon {self.epsilon:g}, {self.patients} patients, {self.prevalence:.0%} positive, slope {self.slope}"


SETTINGS = tuple(
    Setting(epsilon, patients, prevalence, slope)
    for epsilon in (2.0, 8.0)
    for patients in (120, 1000)
    for prevalence, slope in ((0.5, 1.0), (0.3, 1.6))
)


class SeededNoise(NoiseSource):
    """Gaussian noise that can be repeated, for simulations only."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = np.random.default_rng(seed)

    def add_(self, total: Tensor, std: float) -> Tensor:
        """Add noise in place."""
        total += from_numpy(self.generator.normal(0.0, std, tuple(total.shape)))
        return total


def draw_predictions(setting: Setting, studies: int, generator: np.random.Generator) -> Predictions:
    """Return predictions whose logits are normal in each class."""
    labels = (np.arange(studies) < round(studies * setting.prevalence)).astype(float)
    centred = SEPARATION * (generator.standard_normal(studies) + (labels - 0.5) * SEPARATION)
    prior = math.log(setting.prevalence / (1 - setting.prevalence))
    scores = 1 / (1 + np.exp(-(setting.slope * centred + prior)))
    return Predictions(scores[:, None], labels[:, None], np.arange(studies))


@lru_cache
def compute_true_metrics(setting: Setting) -> dict[str, float]:
    """Return every metric of a large sample, without noise."""
    found = compute_metrics(draw_predictions(setting, TRUE_STUDIES, np.random.default_rng(0)), 0)
    return {name: estimate.value for name, estimate in found.items()}


@lru_cache
def compute_noise_multiplier(epsilon: float) -> float:
    """Return the noise multiplier of the release of scores."""
    return calibrate_noise_multiplier(epsilon, DELTA, 1.0, 1) / math.sqrt(SHARE)


def release_and_sum(setting: Setting, seed: int) -> ScoreHistograms:
    """Return what the lead reads of the sum of all hospitals' releases."""
    cells = count_score_cells(setting.epsilon)
    summed: dict[str, np.ndarray] = {}
    for site in range(SITES):
        generator = np.random.default_rng([seed, site])
        counts = count_scores(draw_predictions(setting, setting.patients, generator), cells, NOISED_LOGIT_LIMIT)
        exact = {"test.positives": counts.positives, "test.negatives": counts.negatives}
        noise = SeededNoise(SITES * seed + site)
        for name, words in noise_histograms(exact, compute_noise_multiplier(setting.epsilon), noise).items():
            summed[name] = summed.get(name, 0) + words
    return read_score_counts(summed)["test"]


def measure_coverage(setting: Setting, releases: int) -> tuple[dict[str, float], int]:
    """Return by metric the share of intervals that hold the true value, and how many releases were not scored."""
    truth, hits, refused = compute_true_metrics(setting), dict.fromkeys(METRICS, 0), 0
    for seed in range(releases):
        found = compute_histogram_metrics(release_and_sum(setting, seed), RESAMPLES, seed)
        if math.isnan(found["auroc"].value):
            refused += 1
            continue
        for name, estimate in found.items():
            hits[name] += estimate.low <= truth[name] <= estimate.high
    scored = releases - refused
    return ({name: count / scored for name, count in hits.items()} if scored else {}), refused


def run_measurements(releases: int) -> Iterator[tuple[str, dict[str, float], int]]:
    """Yield (setting, coverage by metric, releases that were not scored) as they are measured."""
    for setting in SETTINGS:
        yield setting.name, *measure_coverage(setting, releases)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="40 releases instead of 200")
    releases = 40 if parser.parse_args().quick else 200
    results: dict[str, float] = {}
    for name, coverage, refused in run_measurements(releases):
        cells = "  ".join(f"{metric} {share:.3f}" for metric, share in coverage.items())
        print(f"{name:55} {cells or 'not scored'}  ({refused} of {releases} not scored)", flush=True)
        if releases - refused >= releases // 2:
            results |= {f"{name}: {metric}": round(share, 3) for metric, share in coverage.items()}
    print(json.dumps({"lowest": min(results.values()), "highest": max(results.values()), **results}))


if __name__ == "__main__":
    main()
