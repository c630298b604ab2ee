"""What a paired difference says, in words: the one place that decides."""

from __future__ import annotations

import math
from enum import Enum

from fedhealth.evaluation.metrics import Estimate
from fedhealth.report import wording
from fedhealth.runs.record import ALONE_ON_AVERAGE, CENTRALISED, MODALITIES, Comparison, Gain


class Verdict(Enum):
    """Where the 95 % interval of the federation's gain lies."""

    better = "better"
    worse = "worse"
    unclear = "no clear difference"
    undefined = wording.UNDEFINED


def verdict(gain: Estimate) -> Verdict:
    """Compare the interval with zero."""
    if math.isnan(gain.low) or math.isnan(gain.high):
        return Verdict.undefined
    if gain.low > 0:
        return Verdict.better
    return Verdict.worse if gain.high < 0 else Verdict.unclear


def in_words(gain: Gain) -> str:
    """Say it for a table."""
    subject = "all together" if is_modality(gain.name) else "federated"
    return {
        Verdict.better: f"{subject} is better",
        Verdict.worse: f"{subject} is worse",
        Verdict.unclear: "no clear difference",
        Verdict.undefined: "cannot be told: one class only",
    }[verdict(gain.gain)]


def display_name(name: str) -> str:
    """Return how a compared model is called on the page."""
    if name == CENTRALISED:
        return "All data in one place"
    if name == ALONE_ON_AVERAGE:
        return "Alone, on average"
    if name.startswith("alone "):
        return f"{name.removeprefix('alone ')} alone"
    return name[:1].upper() + name[1:]


def alone(comparison: Comparison) -> list[Gain]:
    """Return the gains over single sites, without their average."""
    return [gain for name, gain in comparison.gains.items() if name.startswith("alone ")]


def alone_on_average(comparison: Comparison) -> Gain | None:
    """Return the gain over the mean of the sites alone, or over the only one."""
    singles = alone(comparison)
    return comparison.gains.get(ALONE_ON_AVERAGE) or (singles[0] if len(singles) == 1 else None)


def modalities(comparison: Comparison) -> list[Gain]:
    """Return the gains over models of one modality."""
    return [gain for name, gain in comparison.gains.items() if is_modality(name)]


def is_modality(name: str) -> bool:
    """Say whether a compared model is one of a single modality."""
    return name in {f"{modality} only" for modality in MODALITIES}
