"""Format an epsilon for people: never without its delta, its noise multiplier and whom it protects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_UNIT_NAMES = {"client": "hospital", "record": "study"}


def format_delta(delta: float) -> str:
    """Return `1e-6`; NaN becomes `chosen by each hospital`."""
    if math.isnan(delta):
        return "chosen by each hospital"
    mantissa, _, exponent = f"{delta:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def format_noise_multiplier(noise_multiplier: float) -> str:
    """Return `2.53`; NaN becomes `computed by each hospital`."""
    return "computed by each hospital" if math.isnan(noise_multiplier) else f"{noise_multiplier:.3g}"


def format_unit(unit: str) -> str:
    """Return whom a privacy unit protects: `patient`, `study` or `hospital`."""
    return _UNIT_NAMES.get(unit, unit)


def format_epsilon(epsilon: float, delta: float, digits: int = 3) -> str:
    """Return `epsilon 7.98 at delta 1e-6`: an epsilon is never shown without its delta."""
    return f"epsilon {epsilon:.{digits}g} at delta {format_delta(delta)}"


def format_guarantee(epsilon: float, delta: float, noise_multiplier: float, unit: str, digits: int = 3) -> str:
    """Return `epsilon 7.98 at delta 1e-6 for each patient, noise multiplier 2.53`."""
    noise = f"noise multiplier {format_noise_multiplier(noise_multiplier)}"
    return f"{format_epsilon(epsilon, delta, digits)} for each {format_unit(unit)}, {noise}"


def format_local_epsilon(epsilon: float, delta: float) -> str:
    """Return `if all other hospitals colluded, epsilon 12.3 at delta 1e-6`."""
    return f"if all other hospitals colluded, {format_epsilon(epsilon, delta)}"


def describe_privacy(privacy: Mapping[str, Any]) -> str:
    """Return what a private run promises by its section `privacy`, and how to turn it off."""
    epsilon, delta, noise = (privacy.get(name) for name in ("epsilon", "delta", "noise_multiplier"))
    unit = format_unit(str(privacy.get("unit") or "client"))
    if epsilon is not None:
        promise = format_epsilon(float(epsilon), math.nan if delta is None else float(delta))
    else:
        promise = f"noise multiplier {format_noise_multiplier(math.nan if noise is None else float(noise))}"
    return f"{promise} for each {unit}; `privacy=none` turns it off"
