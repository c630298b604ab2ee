"""Checks of a site's whole reply before any part of it is aggregated, for aggregations without secure sums."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import RecordDict

from fedhealth.errors import FederationError
from fedhealth.models.model_state import compute_l2_norm
from fedhealth.privacy.mechanisms.noised_counts import NOISE
from fedhealth.protocol.array_codec import get_arrays, unpack_arrays
from fedhealth.protocol.count_codec import unpack_counts
from fedhealth.protocol.messages import SAME_RELEASE, STATISTICS, UPDATE
from fedhealth.secagg.protocol.layout_plan import STATISTICS_BOUND
from fedhealth.statistics.shapes import SIDES
from fedhealth.types import State
from strategies.aggregation.base import Shapes


def read_reply(content: RecordDict) -> tuple[State, dict[str, np.ndarray]]:
    """Return the update (float32 arrays by name) and the statistics (int64 vectors by name) of a site's reply.

    Raises:
        FederationError: they are not arrays.

    """
    update = unpack_arrays(get_arrays(content, UPDATE)) if UPDATE in content else {}
    return update, unpack_counts(get_arrays(content, STATISTICS)) if STATISTICS in content else {}


def add_statistics(total: dict[str, np.ndarray], statistics: Mapping[str, np.ndarray]) -> None:
    """Add checked statistics, int64 by name, to their sums in place; a site may omit some."""
    for name, vector in statistics.items():
        total[name] = total.get(name, np.zeros(vector.shape, np.int64)) + vector


def check_update(site: str, update: State, expected: Mapping[str, np.ndarray]) -> None:
    """Refuse an update (float32 by name) with other arrays than expected, or with non-finite values.

    Raises:
        FederationError: naming the site and the array.

    """
    if set(update) != set(expected):
        others = ", ".join(sorted(set(update) ^ set(expected))[:3])
        raise FederationError(f"Site {site!r} sent other arrays than requested: {others}.", SAME_RELEASE)
    for name, values in update.items():
        if values.shape != expected[name].shape or values.dtype != np.float32:
            raise FederationError(f"Site {site!r} sent {name} as {values.dtype}{values.shape}.", SAME_RELEASE)
        if (odd := values[~np.isfinite(values)]).size:
            raise FederationError(
                f"Site {site!r} sent {name} with non-finite values such as {odd[0]}.",
                "Lower the learning rate; its training may have diverged.",
            )


def check_norm(site: str, update: State, max_norm: float) -> None:
    """Refuse an update (float32 by name) whose L2 norm exceeds the limit (with a tolerance of 0.1 % for rounding).

    Raises:
        FederationError: naming the site.

    """
    norm = compute_l2_norm(update)
    if not norm <= max_norm * 1.001:
        raise FederationError(
            f"Site {site!r} sent an update of norm {norm:.3g}; the limit is {max_norm:g}.",
            "Check that site's installation.",
        )


def check_statistics(site: str, statistics: Mapping[str, np.ndarray], expected: Shapes) -> None:
    """Refuse statistics that were not requested, have another shape or type, or could overflow the sum.

    A site may omit some, such as those of a small group: then both sides of it, and the size of their noise.

    Raises:
        FederationError: naming the site and the vector.

    """
    for name, vector in statistics.items():
        if expected.get(name) != vector.shape or vector.dtype != np.int64:
            raise FederationError(f"Site {site!r} sent {name} as {vector.dtype}{vector.shape}.", SAME_RELEASE)
        if vector.size and max(-int(vector.min()), int(vector.max())) > STATISTICS_BOUND:
            raise FederationError(f"Site {site!r} sent {name} with impossible counts.", SAME_RELEASE)
        group, _, side = name.rpartition(".")
        if side in (*SIDES, NOISE):
            missing = sorted({f"{group}.{each}" for each in (*SIDES, NOISE)} & set(expected) - set(statistics))
            if missing:
                raise FederationError(f"Site {site!r} sent {name} without {missing[0]}.", SAME_RELEASE)
        is_exact = side == "examples" or (side in SIDES and f"{group}.{NOISE}" not in expected)
        if is_exact and vector.size and vector.min() < 0:
            raise FederationError(f"Site {site!r} sent {name} with negative counts.", SAME_RELEASE)
