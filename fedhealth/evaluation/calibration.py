"""Calibrate a shared model at one hospital: its own held-out scores, shrunk towards those of all hospitals together.

Probability: logistic recalibration of the logit with a temperature and an offset (Platt, 1999; Guo et al., ICML 2017).
The log-loss is that of the hospital's own studies and of `PRIOR_STUDIES` pseudo-studies, spread like the pooled scores.

Abstention band: the risk is the share of studies with the class that are called negative, and of those without it that
are called positive. Each risk curve is shrunk towards the pooled one, (n R_own + n0 R_pooled) / (n + n0), as in
federated conformal risk control (arXiv 2606.20115, June 2026: one pooled threshold failed at 40 % of 20 hospitals).
That paper's hospitals send their single curves; here the pooled curve comes from the sum of all score histograms, which
may hold noise, and the shrinkage is done at the hospital, whose own curve stays there. The bound is an upper confidence
limit of the risk (Bates et al., Journal of the ACM 2021) in the binomial form of Clopper and Pearson (1934), in which
the pseudo-studies count like studies: without pooled scores it is theirs, with them it also trusts that the hospitals
are alike.

Threshold of a decision without abstention: the share of the calibrating studies that have the class. On calibrated
probabilities it gives the highest balanced accuracy (Menon et al., ICML 2013), and it is one number that few studies
determine well, where the best threshold on the same studies (Youden, 1950) would follow their noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedhealth.evaluation.metrics import LOGIT_LIMIT, bin_scores
from fedhealth.evaluation.noised_scores import NOISED_LOGIT_LIMIT, is_scorable
from fedhealth.evaluation.predictions import ScoreHistograms
from fedhealth.privacy.mechanisms.noised_counts import project_to_counts

OWN_BINS = 2048
"""Bins of a hospital's own score histograms, over logits up to `LOGIT_LIMIT`."""
PRIOR_STUDIES = 19
"""Weight of the pooled scores, in studies; the value of arXiv 2606.20115."""
CONFIDENCE = 0.95
_RIDGE = 0.5  # of log temperature and offset: two classes that a few studies separate have no finite optimum
_LOG_TEMPERATURES, _OFFSETS = (-2.5, 2.5), (-8.0, 8.0)


@dataclass(frozen=True)
class RiskCurve:
    """How many studies of one kind would be called the other, by the bin up to which that is done.

    Attributes:
        wrong: [bins], in studies and pseudo-studies.
        studies: all of that kind.

    """

    wrong: np.ndarray
    studies: float

    def mark_safe_bins(self, risk: float) -> np.ndarray:
        """Return bool [bins]: whether the upper confidence limit of the share that is wrong is at most `risk`."""
        from scipy.special import betainc  # takes a tenth of a second to import

        right = self.studies - self.wrong
        safe = betainc(self.wrong + 1, np.maximum(right, 1e-9), risk) >= CONFIDENCE
        return np.asarray(safe & (right > 1e-9))


@dataclass(frozen=True)
class ClassCalibration:
    """The calibration of one class at one hospital.

    Attributes:
        temperature: divides the logit; above 1, the model was too sure of itself.
        offset: added afterwards; below 0, the class is rarer here than the model takes it to be.
        threshold: the calibrated probability from which a decision without abstention is yes.
        positives: number of the hospital's own studies with the class.
        negatives: the same without it.
        has_pooled: whether pooled scores were used.
        missed: the studies with the class whose score is in a bin or below it.
        called: the studies without the class whose score is in a bin or above it.

    """

    temperature: float
    offset: float
    threshold: float
    positives: int
    negatives: int
    has_pooled: bool
    missed: RiskCurve
    called: RiskCurve

    def calibrate_scores(self, scores: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities for the model's probabilities [S]."""
        return to_probability(_to_logit(scores) / self.temperature + self.offset)

    def find_band(self, risk: float) -> tuple[int, int]:
        """Return the last bin that is called negative, and the first that is called positive.

        Where the classes are so far apart that no study needs to abstain, one threshold takes the band's place: of all
        that keep the risk, the one nearest to a calibrated probability of a half.

        Args:
            risk: the largest share of studies with the class that may be called negative, and of those without it that
                may be called positive.

        """
        low = int(self.missed.mark_safe_bins(risk).sum()) - 1
        high = OWN_BINS - int(self.called.mark_safe_bins(risk).sum())
        if low < high:
            return low, high
        half = int(bin_scores(np.array([to_probability(np.array(-self.offset * self.temperature))]), OWN_BINS)[0])
        threshold = min(max(half, high), low)
        return threshold, threshold + 1

    def decide_studies(self, scores: np.ndarray, risk: float) -> np.ndarray:
        """Return 1 (has the class), 0 (has it not) or -1 (the model abstains) for the model's probabilities [S]."""
        low, high = self.find_band(risk)
        place = bin_scores(scores, OWN_BINS)
        return np.where(place <= low, 0, np.where(place >= high, 1, -1))


def calibrate_classes(own: ScoreHistograms, pooled: ScoreHistograms | None) -> tuple[ClassCalibration, ...]:
    """Return the calibration of every class.

    Args:
        own: exact counts of the hospital's held-out studies, [K, OWN_BINS].
        pooled: the sum over hospitals, in any number of bins, exact or with noise; None if there is none.

    """
    priors = [None] * len(own.positives) if pooled is None else spread_pooled_scores(pooled)
    sides = zip(own.positives, own.negatives, priors, strict=True)
    return tuple(_calibrate_class(positives, negatives, prior) for positives, negatives, prior in sides)


def spread_pooled_scores(pooled: ScoreHistograms) -> list[np.ndarray | None]:
    """Return by class the shares [2, OWN_BINS] of the pooled studies with and without it, by bin; together 1.

    Cells of another width are spread evenly over the logits that they hold. A class is None if the noise hides it, or
    nobody has studies of both kinds.
    """
    limit = NOISED_LOGIT_LIMIT if pooled.noise_std else LOGIT_LIMIT
    fine = np.linspace(-LOGIT_LIMIT, LOGIT_LIMIT, OWN_BINS + 1)
    found: list[np.ndarray | None] = []
    for cells in pooled.columns:
        if not is_scorable(cells):
            found.append(None)
            continue
        sides = np.stack([project_to_counts(side.astype(float)) for side in (cells.positives, cells.negatives)])
        edges = np.linspace(-limit, limit, sides.shape[1] + 1)
        below = np.concatenate([np.zeros((2, 1)), np.cumsum(sides, axis=1)], axis=1)
        found.append(np.diff(np.stack([np.interp(fine, edges, side) for side in below]), axis=1) / sides.sum())
    return found


def _calibrate_class(positives: np.ndarray, negatives: np.ndarray, prior: np.ndarray | None) -> ClassCalibration:
    shares = np.zeros((2, OWN_BINS)) if prior is None else prior
    own = np.stack([positives, negatives]).astype(float)
    shrunk = own + PRIOR_STUDIES * shares
    temperature, offset = fit_logistic(shrunk)
    curves = [np.cumsum(own[0]), np.cumsum(own[1][::-1])[::-1]]
    totals = shares.sum(axis=1)
    pooled = [np.cumsum(shares[0]) / (totals[0] or 1.0), np.cumsum(shares[1][::-1])[::-1] / (totals[1] or 1.0)]
    weight = 0 if prior is None else PRIOR_STUDIES
    missed, called = (
        RiskCurve(wrong + weight * share, float(studies + weight))
        for wrong, share, studies in zip(curves, pooled, own.sum(axis=1), strict=True)
    )
    threshold = estimate_share(*shrunk.sum(axis=1))
    with_class, without = map(int, own.sum(axis=1))
    return ClassCalibration(temperature, offset, threshold, with_class, without, prior is not None, missed, called)


def estimate_share(positives: float, negatives: float) -> float:
    """Return the share of studies with the class, never 0 or 1; one half without studies (Jeffreys' prior)."""
    return float((positives + 0.5) / (positives + negatives + 1))


def fit_logistic(counts: np.ndarray) -> tuple[float, float]:
    """Return temperature and offset that minimize the log-loss of weighted studies [2, bins] with and without a class.

    A slope below zero, which would turn the model around, is not possible. Without studies nothing is changed.
    """
    used = counts.sum(axis=0) > 0
    if not used.any():
        return 1.0, 0.0
    from scipy.optimize import minimize  # takes a quarter of a second to import

    logit, positives, negatives = _get_bin_logits()[used], counts[0, used], counts[1, used]

    def compute_loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope, offset = np.exp(-parameters[0]), parameters[1]
        calibrated = slope * logit + offset
        loss = (positives * np.logaddexp(0, -calibrated) + negatives * np.logaddexp(0, calibrated)).sum()
        residual = (positives + negatives) * to_probability(calibrated) - positives
        gradient = np.array([-(residual * slope * logit).sum(), residual.sum()])
        return float(loss + _RIDGE / 2 * parameters @ parameters), gradient + _RIDGE * parameters

    bounds: Sequence[tuple[float, float]] = (_LOG_TEMPERATURES, _OFFSETS)
    found = minimize(compute_loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(np.exp(found[0])), float(found[1])


def _get_bin_logits() -> np.ndarray:
    return (np.arange(OWN_BINS) + 0.5) / OWN_BINS * 2 * LOGIT_LIMIT - LOGIT_LIMIT


def _to_logit(scores: np.ndarray) -> np.ndarray:
    clipped = np.clip(scores, 1e-12, 1 - 1e-12)
    return np.log(clipped / (1 - clipped))


def to_probability(logits: np.ndarray) -> np.ndarray:
    """Return the logistic function of logits of any shape."""
    probability: np.ndarray = np.exp(-np.logaddexp(0.0, -logits))
    return probability
