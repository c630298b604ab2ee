"""What a configuration chooses about noise that the sites of a sum share."""

from __future__ import annotations

from typing import Any

from fedhealth.config.capabilities import get_capability
from fedhealth.config.step_choices import sends_gradients

Plain = dict[str, Any]
_FEWEST_SITES = 3  # of a run that shares noise


def shares_noise(plain: Plain) -> bool:
    """Return whether the honest sites of a sum add its noise together."""
    return plain["privacy"].get("noise") == "shared"


def shares_noise_in_the_open(plain: Plain) -> bool:
    """Return whether the lead would see each share of the noise."""
    return shares_noise(plain) and get_capability(plain["secagg"].get("site"), "is_plaintext", default=True)


def trains_with_shared_noise(plain: Plain) -> bool:
    """Return whether sums of training have shared noise."""
    return shares_noise(plain) and plain.get("purpose") != "describe"


def shares_noise_of_updates(plain: Plain) -> bool:
    """Return whether the noise of changed weights would be shared."""
    return trains_with_shared_noise(plain) and not sends_gradients(plain)


def shares_noise_at_own_rates(plain: Plain) -> bool:
    """Return whether each site would draw its batches at a rate of its own."""
    return trains_with_shared_noise(plain) and plain["privacy"].get("sample_rate") is None


def shares_noise_of_two(plain: Plain) -> bool:
    """Return whether too few sites would share the noise."""
    return shares_noise(plain) and len(plain.get("data", {}).get("sites", "abc")) < _FEWEST_SITES


def shares_noise_of_clients(plain: Plain) -> bool:
    """Return whether noise that protects whole sites would be shared."""
    return shares_noise(plain) and get_capability(plain["privacy"], "unit", default="none") == "client"


def scales_shared_noise(plain: Plain) -> bool:
    """Return whether the lead would scale sums and their noise."""
    return trains_with_shared_noise(plain) and plain["strategy"]["max_update_norm"] is not None


def shares_noise_of_equal_sites(plain: Plain) -> bool:
    """Return whether shares of noise would be weighted."""
    return trains_with_shared_noise(plain) and plain["secagg"].get("weights") == "uniform"
