"""What each hospital gains: the shared model, its own alone, and a personal copy, on its own test patients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fedhealth.config.schema import Config, Sends
from fedhealth.data.augmentation import make_augmentation
from fedhealth.data.examples import Examples
from fedhealth.evaluation.metrics import PRIMARY_METRIC, estimate_interval
from fedhealth.evaluation.predictions import Predictions, bootstrap_metrics
from fedhealth.models.model_state import get_model_arrays, list_trained_arrays, set_model_arrays
from fedhealth.models.multimodal import MultimodalModel
from fedhealth.training.trainer import TrainingTask, fit_without_noise

TUNING_STEPS = 20
"""Steps of the personal copy: the default of personalization=finetune."""


def tune_model(model: MultimodalModel, examples: Examples, rows: np.ndarray, config: Config) -> None:
    """Train a model further on one hospital's rows, like personalization=finetune; it stays as it was if that diverges.

    A personal copy never leaves its hospital, so it is trained without noise, also if the run is private.
    """
    before = get_model_arrays(model, list_trained_arrays(model))
    training = replace(config.training, local_steps=TUNING_STEPS, local_epochs=None, sends=Sends.update)
    own = replace(examples, augmentation=make_augmentation(config.training))
    report = fit_without_noise(TrainingTask(model, own, rows, training, config.data.task.kind, config.seed))
    if not math.isfinite(report.loss):
        set_model_arrays(model, before)


def compare_sites(
    shared: Mapping[str, Predictions],
    alone: Mapping[str, Predictions],
    tuned: Mapping[str, Predictions],
    config: Config,
) -> list[dict[str, object]]:
    """Return for each hospital the AUROC of the models and their paired differences to its own model, for JSON.

    Args:
        shared: predictions of the federation's model, by hospital, on its own test patients.
        alone: the same of the model that the hospital trained alone.
        tuned: the same of its personal copy; empty if the run has personal models already.
        config: sets the bootstrap.

    """
    return [_compare_site(site, shared[site], own, tuned.get(site), config) for site, own in alone.items()]


def _compare_site(
    site: str, shared: Predictions, alone: Predictions, tuned: Predictions | None, config: Config
) -> dict[str, object]:
    base = _draw_scores(alone, config)
    draws = {"shared": _draw_scores(shared, config)} | ({"tuned": _draw_scores(tuned, config)} if tuned else {})
    row: dict[str, object] = {"site": site, "alone": _to_json(base)}
    for name, drawn in draws.items():
        row |= {name: _to_json(drawn), f"{name}_gain": _to_json(drawn - base)}
    return row


def _draw_scores(scored: Predictions, config: Config) -> np.ndarray:
    """Return the AUROC [0] and its bootstrap values [1:]; equal patients give paired ones."""
    return bootstrap_metrics(scored, config.evaluation.bootstrap, config.seed)[PRIMARY_METRIC]


def _to_json(drawn: np.ndarray) -> dict[str, float | None]:
    return estimate_interval(drawn[1:], float(drawn[0])).as_dict()
