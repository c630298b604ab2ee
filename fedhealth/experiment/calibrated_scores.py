"""What each hospital's calibration brings on all hospitals' test patients, where the data are on this machine."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedhealth.config.schema import Config, TaskKind
from fedhealth.evaluation.metrics import Estimate
from fedhealth.evaluation.pooling import pool_predictions
from fedhealth.evaluation.predictions import Predictions, compute_metrics
from fedhealth.runs.hospital_calibration import HospitalCalibration, load_calibration
from fedhealth.runs.run_dir import RunDir
from fedhealth.runs.score_file import CALIBRATION_FILE


def describe_calibrated_scores(
    scored: Mapping[str, Predictions], config: Config, run: RunDir
) -> dict[str, object] | None:
    """Return the metrics with `predict --calibration`'s scores and each hospital's thresholds by class, for JSON.

    Nothing of the test patients is used to calibrate. None if a hospital has no calibration: it was absent at the end
    of the run, or there are no validation studies.

    Args:
        scored: the model's predictions for test patients, by hospital.
        config: of the run.
        run: whose sites' folders hold the calibrations.

    """
    paths = {site: run.site_dir(site) / CALIBRATION_FILE for site in scored}
    if not all(path.is_file() for path in paths.values()):
        return None
    found = {site: load_calibration(path) for site, path in paths.items()}
    if not all(map(_has_studies, found.values())):
        return None
    thresholds = {site: [round(each.threshold, 6) for each in own.classes] for site, own in found.items()}
    metrics = {name: value.as_dict() for name, value in _compute_metrics(scored, found, config).items()}
    return metrics | {"thresholds": thresholds}


def _has_studies(calibration: HospitalCalibration) -> bool:
    return any(each.has_pooled or each.positives or each.negatives for each in calibration.classes)


def _compute_metrics(
    scored: Mapping[str, Predictions], calibrations: Mapping[str, HospitalCalibration], config: Config
) -> dict[str, Estimate]:
    """Return the `CALIBRATED_METRICS` of calibrated scores, and of decisions at each hospital's own thresholds."""
    stated, decided = [], []
    for site, raw in scored.items():
        own, is_exclusive = calibrations[site], config.data.task.kind is TaskKind.multiclass
        scores = own.calibrate_scores(raw.scores, is_exclusive)
        called = scores >= np.array([each.threshold for each in own.classes])
        stated.append(Predictions(scores, raw.labels, raw.patient))
        decided.append(Predictions(called.astype(float), raw.labels, raw.patient))
    resamples, seed = config.evaluation.bootstrap, config.seed
    at_threshold, probabilities = (
        compute_metrics(pool_predictions(each), resamples, seed) for each in (decided, stated)
    )
    return {
        "balanced_accuracy": at_threshold["balanced_accuracy"],
        "calibration_error": probabilities["calibration_error"],
    }
