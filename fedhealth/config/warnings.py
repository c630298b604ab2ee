"""Where users go wrong: settings that are allowed and seldom meant. Said before a run, and in its report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Caution = tuple[str, str]
"""What is so, and what follows from it."""

LARGE_EPSILON = 10.0
FEWEST_SITES = 3


def cautions(plain: Mapping[str, Any]) -> list[Caution]:
    """Return what to tell about a resolved configuration; what it does not say is not guessed."""
    return [caution for rule in RULES for caution in rule(plain)]


def unprotected(plain: Mapping[str, Any]) -> Iterator[Caution]:
    """Say that real hospitals would send updates that reveal their data."""
    open_sum = _target(plain, "secagg", "lead").startswith("strategies.aggregation.mean.")
    if in_hospitals(plain) and open_sum and _target(plain, "privacy").endswith(".PlainTrainer"):
        yield (
            "Between hospitals without differential privacy and without secure aggregation",
            "The lead can reconstruct patients' data from a single hospital's update. Use secagg=on, privacy=patient.",
        )


def weak_privacy(plain: Mapping[str, Any]) -> Iterator[Caution]:
    """Say that a promise is too weak to mean much."""
    epsilon = _node(plain, "privacy").get("epsilon")
    if epsilon is not None and float(epsilon) > LARGE_EPSILON:
        yield (
            f"Epsilon {float(epsilon):g} promises little",
            f"Above {LARGE_EPSILON:g} the guarantee is hardly one: an attacker may become far surer that somebody took "
            "part. Use 8 or less, or call the result not private.",
        )


def few_sites(plain: Mapping[str, Any]) -> Iterator[Caution]:
    """Say that a sum over very few sites hides little."""
    sites = _node(plain, "data").get("sites") or ()
    if 0 < len(sites) < FEWEST_SITES:
        yield (
            f"Fewer than {FEWEST_SITES} hospitals",
            "With two, each can subtract its own part and see the other's; with one there is nothing to federate.",
        )


def everything_here(plain: Mapping[str, Any]) -> Iterator[Caution]:
    """Say that data which lie together need no federation."""
    if not in_hospitals(plain) and _target(plain, "runtime"):
        yield (
            "All data are on this machine",
            "Good for a rehearsal. Where they may lie together for good, training on all of them at once is simpler.",
        )


def in_hospitals(plain: Mapping[str, Any]) -> bool:
    """Tell whether a configuration's data are elsewhere."""
    return _target(plain, "runtime").startswith("fedhealth.runtime.deployment.")


def _node(plain: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    node: Any = plain
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}


def _target(plain: Mapping[str, Any], *path: str) -> str:
    return str(_node(plain, *path).get("_target_", ""))


RULES: tuple[Callable[[Mapping[str, Any]], Iterator[Caution]], ...] = (
    unprotected,
    weak_privacy,
    few_sites,
    everything_here,
)
