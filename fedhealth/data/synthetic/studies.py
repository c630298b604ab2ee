"""Draw studies: three hidden factors for every study, and a label that depends on them.

Factor a appears in the image, b in the wording of the note, c (weakly) in the laboratory values. They are independent,
so no modality can replace another: P(label = 1) = sigmoid(WEIGHTS . (a, b, c) + intercept of the hospital). The factors
are in memory only; no file contains them.
"""

from dataclasses import dataclass

import numpy as np

from fedhealth.data.synthetic.types import Float64

WEIGHTS = np.array([3.8, 3.8, 1.3])
_STUDIES = (0.5, 0.3, 0.13, 0.07)  # share of patients with 1, 2, 3, 4 studies
_SAME_PATIENT = 0.5  # variance of a factor that a patient's studies share


@dataclass(frozen=True)
class SyntheticStudy:
    """One visit. `number` counts a patient's studies from 1; `factors` is (a, b, c)."""

    patient: int
    number: int
    age: int
    sex: str
    factors: Float64
    label: int


def draw_studies(rng: np.random.Generator, patients: int, prevalence: float) -> list[SyntheticStudy]:
    """Draw one hospital's studies, ordered by patient, with the given expected share of label 1."""
    counts = rng.choice(len(_STUDIES), size=patients, p=_STUDIES) + 1
    owner = np.repeat(np.arange(patients), counts)
    shared = rng.standard_normal((patients, 3))[owner] * np.sqrt(_SAME_PATIENT)
    factors = shared + rng.standard_normal((owner.size, 3)) * np.sqrt(1.0 - _SAME_PATIENT)
    logits = factors @ WEIGHTS
    probability = _sigmoid(logits + _find_intercept(logits, prevalence))
    labels = rng.random(owner.size) < probability
    ages = np.clip(rng.normal(62.0, 15.0, patients), 19, 95).astype(int)
    sexes = rng.choice(["F", "M"], size=patients)
    first = np.cumsum(counts) - counts
    return [
        SyntheticStudy(
            patient=int(who),
            number=int(row - first[who]) + 1,
            age=int(ages[who]),
            sex=str(sexes[who]),
            factors=factors[row],
            label=int(labels[row]),
        )
        for row, who in enumerate(owner)
    ]


def _sigmoid(logits: Float64) -> Float64:
    return np.asarray(1.0 / (1.0 + np.exp(-logits)))


def _find_intercept(logits: Float64, prevalence: float) -> float:
    """Find by bisection the intercept at which the mean probability equals the prevalence."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _sigmoid(logits + middle).mean() > prevalence else (middle, high)
    return low
