"""A covering array: few cases in which every pair of options of any two factors occurs (greedy, after AETG)."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product

Case = dict[str, str]
Option = tuple[str, str]


def pairs_of(case: Mapping[str, str]) -> set[tuple[Option, Option]]:
    """Return the pairs that a (partial) case covers, each in the order of the factors."""
    return set(combinations(case.items(), 2))


def covering(factors: Mapping[str, Sequence[str]], allowed: Callable[[Case], bool]) -> list[Case]:
    """Return cases that cover every pair some allowed case covers; the same for the same factors.

    Args:
        factors: options by factor.
        allowed: whether a partial case can be completed and is possible.

    """
    left = [
        pair
        for (f, fs), (g, gs) in combinations(factors.items(), 2)
        for pair in product(((f, a) for a in fs), ((g, b) for b in gs))
        if allowed(dict(pair))
    ]
    cases = []
    while left:
        case = dict(left[0])
        for factor, options in factors.items():
            if factor not in case:
                case[factor] = max(
                    (option for option in options if allowed({**case, factor: option})),
                    key=lambda option: sum(set(pair) <= {*case.items(), (factor, option)} for pair in left),
                )
        ordered = {factor: case[factor] for factor in factors}
        cases.append(ordered)
        left = [pair for pair in left if not set(pair) <= set(ordered.items())]
    return cases
