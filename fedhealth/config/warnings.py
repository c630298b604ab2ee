"""Warnings about configurations that are valid but rarely intended; shown before a run and in its report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from fedhealth.config.capabilities import Capabilities
from fedhealth.config.noise_choice import can_share_noise, is_noise_open
from fedhealth.utils.privacy_text import format_epsilon, format_unit

ConfigWarning = tuple[str, str]
"""A title, and its consequence."""

LARGE_EPSILON = 10.0
FEWEST_SITES = 3


def list_warnings(plain: Mapping[str, Any], capabilities: Capabilities) -> list[ConfigWarning]:
    """Return the warnings about a resolved configuration; keys that it does not have give none."""
    return [
        *warn_unprotected(capabilities),
        *warn_weak_privacy(plain),
        *warn_few_sites(plain),
        *warn_shared_noise(plain),
        *warn_unshared_noise(plain, capabilities),
        *warn_local_data(capabilities),
    ]


def warn_unprotected(capabilities: Capabilities) -> Iterator[ConfigWarning]:
    """Warn that real hospitals would send updates that reveal their data."""
    local, private = capabilities.data_are_local, capabilities.trainer_is_private
    if capabilities.lead_sees_single_updates and not local and not private:
        yield (
            "Between hospitals without differential privacy and without secure aggregation",
            "The lead can reconstruct patients' data from a single hospital's update. Use secagg=on, privacy=patient.",
        )


def warn_weak_privacy(plain: Mapping[str, Any]) -> Iterator[ConfigWarning]:
    """Warn that the privacy guarantee is weak."""
    privacy = _get_node(plain, "privacy")
    epsilon, delta, unit = privacy.get("epsilon"), privacy.get("delta"), format_unit(privacy.get("unit") or "client")
    if epsilon is not None and float(epsilon) > LARGE_EPSILON:
        promise = format_epsilon(float(epsilon), math.nan if delta is None else float(delta)).capitalize()
        yield (
            f"{promise} promises each {unit} little",
            f"Above {LARGE_EPSILON:g} the guarantee is hardly one: an attacker may become far surer that somebody took "
            "part. Use 8 or less, or call the result not private.",
        )


def warn_few_sites(plain: Mapping[str, Any]) -> Iterator[ConfigWarning]:
    """Warn that a sum over very few sites hides little."""
    sites = _get_node(plain, "data").get("sites") or ()
    if 0 < len(sites) < FEWEST_SITES:
        yield (
            f"Fewer than {FEWEST_SITES} hospitals",
            "With two, each can subtract its own part and see the other's; with one there is nothing to federate.",
        )


def warn_shared_noise(plain: Mapping[str, Any]) -> Iterator[ConfigWarning]:
    """Say on whom the promise rests where the hospitals share the noise."""
    if _get_node(plain, "privacy").get("noise") != "shared":
        return
    sites, colluders = len(_get_node(plain, "data").get("sites") or ()), _get_node(plain, "secagg").get("colluders")
    most = (sites - 1) // 3 if colluders is None else int(colluders)
    yield (
        "The hospitals share the noise",
        f"Epsilon holds as long as no more than {most} of the {sites} hospitals work with the lead; if all others do, "
        "only the local epsilon holds. With privacy.noise=local it rests on nobody, with more noise.",
    )


def warn_unshared_noise(plain: Mapping[str, Any], capabilities: Capabilities) -> Iterator[ConfigWarning]:
    """Tell the lead of a consortium that the hospitals could share the noise."""
    privacy = _get_node(plain, "privacy")
    if is_noise_open(privacy) and not capabilities.data_are_local and can_share_noise(plain):
        yield (
            "Every hospital adds all noise itself",
            "With privacy.noise=shared they would add it together: less noise at the same epsilon, which then rests on "
            "the other hospitals. Each hospital's policy decides (limits.local_epsilon).",
        )


def warn_local_data(capabilities: Capabilities) -> Iterator[ConfigWarning]:
    """Warn that data on one machine need no federation."""
    if capabilities.data_are_local:
        yield (
            "All data are on this machine",
            "Good for a rehearsal. Where they may lie together for good, training on all of them at once is simpler.",
        )


def _get_node(plain: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    node = plain.get(key)
    return node if isinstance(node, Mapping) else {}
