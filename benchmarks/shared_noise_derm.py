"""Shared against local noise on real hospitals' skin lesions at epsilon 1: the same training, less noise in the sum.

A run of one-step rounds is central DP-SGD with the noise of the sum (`tests/fedhealth/runtime/test_one_step.py`), so
the arms are simulated in one process, on the features that the product's own model gives its last layer. The settings
of each arm are chosen on the validation patients; the test patients are used once. Seeds are paired.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from fedhealth.privacy.accounting.accountant import calibrate_noise_multiplier
from fedhealth.utils.auroc import compute_auroc_from_counts

DELTA = 1e-6
SITES = 4
FACTORS = {"local": float(SITES), "shared": SITES / (SITES - 1)}
"""Variance of the noise of a sum, in that of one mechanism: each site's whole noise; shares of n - 1 honest sites."""
ROUNDS, BOUNDS, RATES = (25, 50), (1.0, 5.0, 20.0), (0.05, 0.2, 0.6)


@dataclass(frozen=True)
class Patients:
    """Inputs of the last layer [n, d], with a column of ones, and labels [n], of one split of all hospitals."""

    inputs: np.ndarray
    labels: np.ndarray


def load_patients(data: Path, cache: Path) -> dict[str, Patients]:
    """Return the patients of each split; the features of the frozen encoder are computed once and cached."""
    import torch
    from omegaconf import OmegaConf

    from fedhealth.config.compose import compose_config
    from fedhealth.config.schema import Config
    from fedhealth.experiment.baselines import BaselineData

    weights = data / "image_encoder" / "mobilenet_v2_imagenet_fp16.safetensors"
    words = ["experiment=derm", "privacy=patient", f"data.root='{data / 'fed_derm'}'", f"data.cache='{cache}'"]
    config = OmegaConf.to_object(compose_config([*words, f"model.image.weights='{weights}'"]))
    assert isinstance(config, Config)  # noqa: S101 - the schema's root
    bench = BaselineData.prepare(config)
    last = [module for module in bench.model.modules() if isinstance(module, torch.nn.Linear)][-1]
    seen: list[np.ndarray] = []
    last.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().double().numpy()))
    found = {}
    for split in ("train", "validation", "test"):
        seen.clear()
        labels = []
        with torch.inference_mode():
            for site, cohort in bench.cohorts.items():
                rows, examples = _select_first_studies(cohort.rows(split), cohort.patient), bench.examples[site]
                bench.model.eval()(examples.batch(rows))
                labels.append(np.asarray(examples.labels[rows, 0], np.float64))
        inputs = np.concatenate(seen)
        found[split] = Patients(np.hstack([inputs, np.ones((len(inputs), 1))]), np.concatenate(labels))
    return found


def _select_first_studies(rows: np.ndarray, patient: np.ndarray) -> np.ndarray:
    return rows[np.unique(patient[rows], return_index=True)[1]]


def train_weights(
    patients: Patients, noise_std: float, rounds: int, bound: float, rate: float, seed: int
) -> np.ndarray:
    """Return the weights of logistic regression after clipped and noised full-batch steps."""
    generator = np.random.default_rng(seed)
    weights, lengths = np.zeros(patients.inputs.shape[1]), np.linalg.norm(patients.inputs, axis=1)
    for _ in range(rounds):
        off = 1 / (1 + np.exp(-patients.inputs @ weights)) - patients.labels
        off *= np.minimum(1.0, bound / np.maximum(np.abs(off) * lengths, 1e-12))
        total = off @ patients.inputs + generator.normal(0.0, noise_std * bound, len(weights))
        weights -= rate * total / len(patients.labels)
    return weights


def measure_gain(splits: dict[str, Patients], epsilon: float, seeds: int) -> Iterator[tuple[str, float]]:
    """Yield the mean AUROC of both arms, and the paired difference with its 95 % interval over seeds."""
    scores = {}
    for arm, factor in FACTORS.items():
        tried = {}
        for rounds, bound, rate in itertools.product(ROUNDS, BOUNDS, RATES):
            std = calibrate_noise_multiplier(epsilon, DELTA, 1.0, rounds + 1) * math.sqrt(factor)
            trained = [train_weights(splits["train"], std, rounds, bound, rate, seed) for seed in range(seeds)]
            tried[rounds, bound, rate] = [
                [score_patients(splits[name], each) for each in trained] for name in ("validation", "test")
            ]
        best = max(tried, key=lambda setting: float(np.mean(tried[setting][0])))
        scores[arm] = np.array(tried[best][1])
        yield f"derm_eps{epsilon:g}_{arm}", float(scores[arm].mean())
    gains = scores["shared"] - scores["local"]
    half = float(student.ppf(0.975, seeds - 1)) * gains.std(ddof=1) / math.sqrt(seeds)
    yield f"derm_eps{epsilon:g}_gain", float(gains.mean())
    yield f"derm_eps{epsilon:g}_gain_low", float(gains.mean() - half)
    yield f"derm_eps{epsilon:g}_gain_high", float(gains.mean() + half)


def score_patients(patients: Patients, weights: np.ndarray) -> float:
    """Return the AUROC of a model on some patients."""
    distinct, place = np.unique(patients.inputs @ weights, return_inverse=True)
    positives, negatives = (np.bincount(place, part, len(distinct)) for part in (patients.labels, 1 - patients.labels))
    return float(compute_auroc_from_counts(positives, negatives))
