"""Choose who adds the noise of a private run, where its configuration leaves it open (`privacy.noise=null`).

Shared noise is less noise for the same epsilon, but epsilon then rests on the other hospitals. So it is chosen where
all hospitals' data are on one machine, whose user may choose for them all. Between hospitals each adds all noise itself
unless the lead asks for less, and every hospital's policy decides whether it may.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedhealth.config.incompatibilities import INCOMPATIBILITIES

SHARED_NOISE = "privacy.noise=shared"


def is_noise_open(privacy: Mapping[str, Any]) -> bool:
    """Return whether a private configuration leaves open who adds the noise."""
    return "noise" in privacy and privacy["noise"] is None


def can_share_noise(plain: Mapping[str, Any]) -> bool:
    """Return whether the rest of a resolved configuration allows shared noise.

    Args:
        plain: the configuration, whose `privacy` may be any.

    """
    if "noise" not in plain["privacy"]:
        return False
    asked = {**plain, "privacy": {**plain["privacy"], "noise": "shared"}}
    return not any(pair.holds(asked) for pair in INCOMPATIBILITIES if pair.first == SHARED_NOISE)
