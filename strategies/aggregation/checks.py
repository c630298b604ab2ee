"""Checks of a site's whole reply before any part of it is aggregated, for aggregations without secure sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from flwr.app import RecordDict

from fedhealth.errors import ConfigError, FederationError
from fedhealth.models.model_state import compute_l2_norm
from fedhealth.privacy.mechanisms.noised_counts import NOISE
from fedhealth.protocol.array_codec import get_arrays, unpack_arrays
from fedhealth.protocol.count_codec import unpack_counts
from fedhealth.protocol.messages import SAME_RELEASE, STATISTICS, UPDATE
from fedhealth.secagg.protocol.layout_plan import STATISTICS_BOUND
from fedhealth.statistics.shapes import SIDES
from fedhealth.types import State
from fedhealth.utils.guarded_part import describe_value, get_part
from fedhealth.utils.own_code import OwnCodeError, call_own, name_part
from strategies.aggregation.base import Aggregate, Shapes
from strategies.array_fault import ArrayFault, find_array_fault

_FLOAT32 = np.dtype(np.float32)
_RULE = (
    "A rule takes the list of the sites' vectors, float32 [D] each, and returns one vector of their size; further"
    " parameters have their values in conf/strategy/aggregation."
)


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
        fault = find_array_fault(values, expected[name].shape, _FLOAT32)
        if fault is ArrayFault.form:
            raise FederationError(f"Site {site!r} sent {name} as {values.dtype}{values.shape}.", SAME_RELEASE)
        if fault is ArrayFault.values:
            raise FederationError(
                f"Site {site!r} sent {name} with non-finite values such as {values[~np.isfinite(values)][0]}.",
                "Lower the learning rate; its training may have diverged.",
            )


def check_result(aggregation: object, result: object, expected: Mapping[str, np.ndarray]) -> None:
    """Refuse what an aggregation returns for a round unless it is an update of the model that was sent.

    Args:
        aggregation: whose result it is, perhaps a user's own.
        result: of its `close`; its update may omit arrays that too few sites can train.
        expected: the arrays of an update.

    Raises:
        ConfigError: naming the aggregation and the array.

    """
    name = name_part(get_part(aggregation))
    advice = "`close` returns an Aggregate of finite float32 arrays, named and shaped as in `attempt.expected`."
    if not isinstance(result, Aggregate) or not isinstance(result.update, Mapping):
        raise ConfigError(f"The aggregation {name} returned {type(result).__name__}, no Aggregate.", advice)
    for key, values in result.update.items():
        if key not in expected:
            raise ConfigError(f"The aggregation {name} returned the array {key}, which the model has not.", advice)
        fault = find_array_fault(values, expected[key].shape, _FLOAT32)
        if fault is ArrayFault.form:
            found = f"{values.dtype}{values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
            problem = f"The aggregation {name} returned {key} as {found}, not as float32{expected[key].shape}."
            raise ConfigError(problem, advice)
        if fault is ArrayFault.values:
            raise ConfigError(f"The aggregation {name} returned {key} with values that are not finite.", advice)


def apply_rule(rule: Callable[[list[np.ndarray]], np.ndarray], vectors: list[np.ndarray]) -> np.ndarray:
    """Return what a rule makes of the sites' vectors, float32 [D] each: one float32 [D].

    Raises:
        OwnCodeError: it takes other arguments, fails, or returns something else; naming the rule.

    """
    result, size = call_own(rule, vectors, contract=_RULE), vectors[0].size
    try:
        found = np.asarray(result, np.float32)
    except (TypeError, ValueError):
        found = None
    if found is None or found.shape != (size,):
        raise OwnCodeError(f"The rule {name_part(rule)} returned {describe_value(result)}, not shape [{size}].", _RULE)
    return found


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
