"""Decide whether a paired difference is an improvement, and describe it; no other module decides this."""

from __future__ import annotations

import math
from enum import Enum

from fedhealth.evaluation.metrics import Estimate
from fedhealth.report import wording
from fedhealth.runs.record import ALONE_ON_AVERAGE, CENTRALISED, MODALITIES
from fedhealth.runs.results import BaselineComparison, BaselineGain


class Verdict(Enum):
    """Position of the 95 % interval of a gain relative to zero."""

    better = "better"
    worse = "worse"
    unclear = "no clear difference"
    undefined = wording.UNDEFINED


def judge_gain(gain: Estimate) -> Verdict:
    """Return where the gain's 95 % interval lies relative to zero."""
    if math.isnan(gain.low) or math.isnan(gain.high):
        return Verdict.undefined
    if gain.low > 0:
        return Verdict.better
    return Verdict.worse if gain.high < 0 else Verdict.unclear


def describe_verdict(gain: BaselineGain) -> str:
    """Return the verdict as text for a table."""
    subject = "all together" if is_modality_model(gain.name) else "federated"
    return {
        Verdict.better: f"{subject} is better",
        Verdict.worse: f"{subject} is worse",
        Verdict.unclear: "no clear difference",
        Verdict.undefined: "not defined: only one class",
    }[judge_gain(gain.gain)]


def format_model_name(name: str) -> str:
    """Return the name of a compared model in the report."""
    if name == CENTRALISED:
        return "All data pooled in one place"
    if name == ALONE_ON_AVERAGE:
        return "Alone, on average"
    if name.startswith("alone "):
        return f"{name.removeprefix('alone ')} alone"
    return name[:1].upper() + name[1:]


def list_local_gains(comparison: BaselineComparison) -> list[BaselineGain]:
    """Return the gains over the models that single sites trained alone, without their average."""
    return [gain for name, gain in comparison.gains.items() if name.startswith("alone ")]


def find_mean_local_gain(comparison: BaselineComparison) -> BaselineGain | None:
    """Return the mean gain over training alone; with a single site, the gain over that site."""
    gains = list_local_gains(comparison)
    return comparison.gains.get(ALONE_ON_AVERAGE) or (gains[0] if len(gains) == 1 else None)


def list_modality_gains(comparison: BaselineComparison) -> list[BaselineGain]:
    """Return the gains over the models that use a single modality."""
    return [gain for name, gain in comparison.gains.items() if is_modality_model(name)]


def is_modality_model(name: str) -> bool:
    """Return whether a compared model uses a single modality."""
    return name in {f"{modality} only" for modality in MODALITIES}
