"""Describe the noise of differential privacy in scores: how many studies there are, how large it is, what is lost."""

from __future__ import annotations

import math

from fedhealth.evaluation.noised_scores import LEAST_SIGNAL
from fedhealth.report.wording import format_count, format_integer, format_noised_count
from fedhealth.runs.results import HistogramNoise, SplitResult

_Z = 1.96  # half width of a 95 % interval, in standard deviations
LOST = "not reported: lost in the noise"


def format_studies(result: SplitResult, noun: str) -> str:
    """Return the number of studies; with noise, `about 1,211 ± 42 test studies`."""
    if result.noise is None:
        return format_count(result.studies, noun)
    return format_noised_count(result.studies, compute_half_width(result.noise), noun)


def compute_half_width(noise: HistogramNoise) -> float:
    """Return half the width of the 95 % interval of a number of studies."""
    return _Z * noise.studies_std


def count_least_studies(noise: HistogramNoise) -> int:
    """Return how many studies with a class, and without it, are needed for a score."""
    return math.ceil(LEAST_SIGNAL * noise.count_std * math.sqrt(noise.cells))


def describe_noise(result: SplitResult) -> tuple[str, ...]:
    """Return sentences about the noise in a split's scores; empty for exact ones."""
    noise = result.noise
    if noise is None:
        return ()
    return (
        "The scores hold noise: every hospital counted its studies in "
        f"{noise.cells} score cells and added noise once. In the sum, the noise has a standard deviation of "
        f"{noise.count_std:.1f} studies in every count and {noise.studies_std:.0f} in the number of studies. The "
        "intervals include it. A class is scored only if the studies with it and those without it are at least "
        f"{format_integer(count_least_studies(noise))} each.",
    )
