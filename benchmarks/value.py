"""What calibration at the hospital brings: calibration error and abstention at 20 synthetic hospitals that differ.

`python -m benchmarks.value [--quick]` prints a table and, as its last line, one JSON object. The hospitals differ in
size, prevalence, and in how far the shared model is too sure of itself. Held-out studies calibrate; errors and risks
are those of a large sample of the same hospital. `one pooled threshold`: what a consortium would use without shrinkage.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass

import numpy as np

from benchmarks.private_scores import SeededNoise, compute_noise_multiplier
from fedhealth.evaluation.calibration import OWN_BINS, ClassCalibration, calibrate_classes
from fedhealth.evaluation.metrics import build_score_table, compute_calibration_error
from fedhealth.evaluation.noised_scores import NOISED_LOGIT_LIMIT, count_score_cells
from fedhealth.evaluation.predictions import Predictions, ScoreHistograms, count_scores
from fedhealth.privacy.mechanisms.histogram_release import noise_histograms
from strategies.statistics import read_score_counts

SITES = 20
RISK = 0.1
EPSILON = 8.0
SEPARATION = 1.9  # of the classes, in standard deviations: AUROC about .91
TRUE_STUDIES = 50_000
FIGURES = ("before", "pooled", "after", "within", "pooled_within", "undecided")


@dataclass(frozen=True)
class Hospital:
    """One synthetic hospital: size of its validation split, prevalence, and how the shared model bends its logits."""

    studies: int
    prevalence: float
    slope: float
    shift: float

    def draw_predictions(self, studies: int, generator: np.random.Generator) -> Predictions:
        """Return predictions whose logits are normal in each class."""
        labels = (generator.random(studies) < self.prevalence).astype(float)
        logits = SEPARATION * (generator.standard_normal(studies) + (labels - 0.5) * SEPARATION)
        scores = 1 / (1 + np.exp(-(self.slope * logits + self.shift)))
        return Predictions(scores[:, None], labels[:, None], np.arange(studies))


def draw_hospitals(generator: np.random.Generator) -> list[Hospital]:
    """Return hospitals of 60 to 600 validation studies."""
    return [
        Hospital(
            int(60 * 10 ** generator.random()),
            float(generator.uniform(0.12, 0.5)),
            float(np.exp(generator.normal(math.log(1.7), 0.2))),
            float(generator.normal(0.5, 0.6)),
        )
        for _ in range(SITES)
    ]


def pool_scores(parts: list[Predictions], is_private: bool, seed: int) -> ScoreHistograms:
    """Return the sum of the hospitals' histograms as the lead gets it; each with its own noise if private."""
    if not is_private:
        counted = [count_scores(each, OWN_BINS) for each in parts]
        return ScoreHistograms(
            np.sum([each.positives for each in counted], axis=0), np.sum([each.negatives for each in counted], axis=0)
        )
    summed: dict[str, np.ndarray] = {}
    for site, each in enumerate(parts):
        counts = count_scores(each, count_score_cells(EPSILON), NOISED_LOGIT_LIMIT)
        exact = {"validation.positives": counts.positives, "validation.negatives": counts.negatives}
        words = noise_histograms(exact, compute_noise_multiplier(EPSILON), SeededNoise(SITES * seed + site))
        summed = {name: summed.get(name, 0) + array for name, array in words.items()}
    return read_score_counts(summed)["validation"]


def compute_error(probability: np.ndarray, truth: Predictions) -> float:
    """Return the expected calibration error."""
    positive = truth.labels[:, 0] == 1
    return float(compute_calibration_error(build_score_table(probability, positive, np.ones(len(positive)))))


def measure_risks(calibration: ClassCalibration, truth: Predictions) -> tuple[float, float, float]:
    """Return the share of positives called negative, of negatives called positive, and of studies not decided."""
    decision, positive = calibration.decide_studies(truth.scores[:, 0], RISK), truth.labels[:, 0] == 1
    return (
        float((decision[positive] == 0).mean()),
        float((decision[~positive] == 1).mean()),
        float((decision < 0).mean()),
    )


def measure_repetition(seed: int, is_private: bool) -> list[dict[str, float]]:
    """Return the figures of each hospital."""
    generator = np.random.default_rng([seed, 28])
    hospitals = draw_hospitals(generator)
    parts = [each.draw_predictions(each.studies, generator) for each in hospitals]
    pooled = pool_scores(parts, is_private, seed)
    empty = ScoreHistograms(np.zeros((1, OWN_BINS), np.int64), np.zeros((1, OWN_BINS), np.int64))
    everyone = pool_scores(parts, False, seed)
    (alike,) = calibrate_classes(everyone, None)  # one threshold for all, from all studies in one place
    rows = []
    for hospital, part in zip(hospitals, parts, strict=True):
        truth = hospital.draw_predictions(TRUE_STUDIES, generator)
        (own,) = calibrate_classes(count_scores(part, OWN_BINS), pooled)
        (untested,) = calibrate_classes(empty, pooled)
        missed, called, undecided = measure_risks(own, truth)
        rows.append(
            {
                "before": compute_error(truth.scores[:, 0], truth),
                "pooled": compute_error(untested.calibrate_scores(truth.scores[:, 0]), truth),
                "after": compute_error(own.calibrate_scores(truth.scores[:, 0]), truth),
                "within": float(max(missed, called) <= RISK),
                "pooled_within": float(max(measure_risks(alike, truth)[:2]) <= RISK),
                "undecided": undecided,
            }
        )
    return rows


def average_rows(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each figure."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 repetitions instead of 100")
    repetitions = 10 if parser.parse_args().quick else 100
    results = {}
    for name, is_private in (("secure", False), ("private", True)):
        rows = [row for seed in range(repetitions) for row in measure_repetition(seed, is_private)]
        results[name] = found = average_rows(rows)
        print(f"{name:8} sum: " + "  ".join(f"{key} {value:.3f}" for key, value in found.items()), flush=True)
    worst = {key: max(found[key] for found in results.values()) for key in ("before", "after")}
    figures = {
        "calibration_error_before": worst["before"],
        "calibration_error_after": worst["after"],
        "sites_within_risk": min(found["within"] for found in results.values()),
        "sites_within_risk_one_pooled_threshold": min(found["pooled_within"] for found in results.values()),
        "undecided": max(found["undecided"] for found in results.values()),
    }
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
