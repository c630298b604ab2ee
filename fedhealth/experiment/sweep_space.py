"""The search space of a hyperparameter search: by configuration key, a list of options or a range."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from fedhealth.errors import ConfigError

Space = dict[str, BaseDistribution]
_RANGE = {"low", "high", "log", "step"}


def parse_space(space: Mapping[str, Any]) -> Space:
    """Return the search space that a configuration describes; nested keys are joined by dots.

    Raises:
        ConfigError: an entry is neither a list of options nor a range.

    """
    return dict(_parse_entries(space, ""))


def _parse_entries(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, BaseDistribution]]:
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and not _RANGE & set(value):
            yield from _parse_entries(value, f"{key}.")
        else:
            yield key, _parse_distribution(key, value)


def _parse_distribution(key: str, value: Any) -> BaseDistribution:
    if not isinstance(value, Mapping):
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) < 2:
            raise ConfigError(f"sweep.space.{key}: give a list of options or a range.", "Such as {low: 0, high: 1}.")
        return CategoricalDistribution(list(value))
    try:
        low, high, log = value["low"], value["high"], bool(value.get("log", False))
        if all(isinstance(end, int) for end in (low, high)):
            return IntDistribution(low, high, log, int(value.get("step", 1)))
        return FloatDistribution(float(low), float(high), log, value.get("step"))
    except (KeyError, TypeError, ValueError) as fault:
        raise ConfigError(
            f"sweep.space.{key}: is not a range ({fault}).", "Such as {low: 1e-4, high: 0.1, log: true}."
        ) from fault
