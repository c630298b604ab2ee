"""Results of the final model: metrics by split, by group of patients, and compared with the baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedhealth.evaluation.metrics import Estimate


@dataclass(frozen=True)
class HistogramNoise:
    """The noise of differential privacy in summed score histograms, as standard deviations in studies.

    Attributes:
        count_std: of every count.
        studies_std: of the number of studies.
        cells: number of cells that each class's scores are counted in.
        classes_scored: how many classes are far enough above the noise to be scored.

    """

    count_std: float
    studies_std: float
    cells: int
    classes_scored: int


ALL_HOSPITALS = "all hospitals"


@dataclass(frozen=True)
class CalibratedResult:
    """The final model's test metrics once its scores are calibrated; nothing of test patients calibrates them.

    Attributes:
        metrics: estimate with its confidence interval, by metric name.
        thresholds: the calibrated probability of each class from which a study counts as having it, by hospital; of
            `ALL_HOSPITALS` where one calibration is for all. NaN for a class without calibration.

    """

    metrics: Mapping[str, Estimate]
    thresholds: Mapping[str, tuple[float, ...]]

    @property
    def is_by_hospital(self) -> bool:
        """Whether each hospital has its own calibration."""
        return ALL_HOSPITALS not in self.thresholds


@dataclass(frozen=True)
class SplitResult:
    """The final model's metrics on one split (validation or test), pooled over all sites.

    Attributes:
        studies: number of labelled studies.
        metrics: estimate with its confidence interval, by metric name.
        errors: largest error of a metric that is computed from summed histograms; empty if unknown.
        noise: of the summed histograms; None if they are exact.
        calibrated: what a calibration makes of the test metrics; None if there is none.

    """

    studies: int
    metrics: Mapping[str, Estimate]
    errors: Mapping[str, float] = field(default_factory=dict)
    noise: HistogramNoise | None = None
    calibrated: CalibratedResult | None = None


@dataclass(frozen=True)
class ScoreBinCounts:
    """Studies with and without the class, counted by score bin (`metrics.bin_centres`); each [classes, bins].

    Attributes:
        positives: studies with the class; raw and noised where `noise_std` is not 0.
        negatives: studies without it.
        noise_std: standard deviation of the noise of every count.

    """

    positives: np.ndarray
    negatives: np.ndarray
    noise_std: float = 0.0


@dataclass(frozen=True)
class GroupResult:
    """The final model on one group of test patients; `studies` is None if too few, `metrics` is empty then."""

    name: str
    studies: int | None
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True)
class GroupingResult:
    """The groups of one grouping variable.

    Attributes:
        variable: its name.
        groups: in the configured order.
        gap: the AUROC of the best group minus that of the worst.
        noise: of the groups' summed histograms; None if they are exact.

    """

    variable: str
    groups: tuple[GroupResult, ...]
    gap: Estimate
    noise: HistogramNoise | None = None


@dataclass(frozen=True)
class AuditResult:
    """The audit of one site's private training.

    Attributes:
        site: its name.
        checks: how many there were.
        failures: the failed ones, with what was found.
        bounds: empirical lower bounds on epsilon, as sentences.
        success: the most that an attacker's guess about one unit can be right, of 1; NaN if unknown.
        unit: whom the run protects.
        skipped: why the membership test was left out, as a sentence; empty if it was not.

    """

    site: str
    checks: int
    failures: tuple[str, ...]
    bounds: tuple[str, ...]
    success: float
    unit: str = "patient"
    skipped: str = ""


@dataclass(frozen=True)
class BaselineGain:
    """A baseline's metric (`alternative`), and the federated model's paired gain over it."""

    name: str
    alternative: Estimate
    gain: Estimate


@dataclass(frozen=True)
class SiteGain:
    """What one hospital gains on its own test patients; differences are paired.

    Attributes:
        site: its name.
        alone: of the model that it trained alone.
        shared: of the federation's model.
        gain: shared minus alone.
        tuned: of its personal copy of the shared model; NaN if there is none.
        tuned_gain: personal copy minus alone.

    """

    site: str
    alone: Estimate
    shared: Estimate
    gain: Estimate
    tuned: Estimate
    tuned_gain: Estimate


@dataclass(frozen=True)
class BaselineComparison:
    """The federated model compared with its baselines, all on the same test patients.

    Attributes:
        metric: the metric that is compared.
        federated: the federated model's pooled estimates, by metric.
        site_scores: each model's score on one site's own test patients, by (model, site).
        gains: by the baseline's name.
        sites: what each hospital gains; empty if none was trained alone.
        calibrated: the federated model with each hospital's calibration; None if one has none.

    """

    metric: str
    federated: Mapping[str, Estimate]
    site_scores: Mapping[tuple[str, str], Estimate]
    gains: Mapping[str, BaselineGain]
    sites: tuple[SiteGain, ...] = ()
    calibrated: CalibratedResult | None = None
