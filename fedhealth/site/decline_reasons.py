"""Why a site declines, in a closed vocabulary: what is said to the lead names limits and settings, never data.

A reason that is not listed here stays in the site's log; the lead hears that there is one.
"""

from __future__ import annotations

import re
from functools import lru_cache

UNTOLD = "the site's policy or state does not allow it (its own log says why)"

DIFFERS = "the configuration differs from the lead's"
SMALL = "the cohort is too small to report on its own"
WORD = "the word {name} is not accepted"
COMPOSE = "the words do not compose with the installed release"
NO_SOURCE = "there are no data called {name} here"
UNIT = "privacy for each {name} is not allowed here, only for: {names}"
DELTA = "delta {number} is above this site's limit of {number}"
OPTION = "{name}={name} is not allowed here"
NO_SECAGG = "secure aggregation is required here"
SUM = "sums over {number} sites are opened, this site asks for {number}"
WEIGHTS = "exact weights are not allowed here"
NOT_MEMBER = "{name} is not one of the run's sites"
STRANGERS = "the run names sites that are not approved members"

STATED = "the sweep states epsilon {number}, its runs would spend {number}"

_TRAINERS = (  # what the trainers say
    "the run asks for sigma {number}, below this site's minimum {number}",
    "the cohort is empty",
    "the cohort is smaller than the policy's minimum of {number}",
    "the run would exceed the privacy budget of {name}",
    "the run would exceed the privacy budget of {name}, part of which is reserved for a sweep",
    "the runs of the sweep together would exceed the privacy budget of {name}",
    "another run is using the data set of {name}",
    "delta {number} is not between 0 and 1",
    "an event with sigma {number}, rate {number} and {number} steps cannot be accounted",
    "the clock is behind the privacy ledger's last entry",
    "epsilon {number} at delta {number} is unreachable with rate {number} and {number} steps",
    "a share of {number} for the scores is not in [0, 1)",
    "target epsilon {number} is not positive",
    "the gradient engine fails its self-check on this model (the site's log says where)",
    "layer {name} ({name}) computes statistics over the batch",
    "layer {name} ({name}) has no per-sample gradient rule in Opacus",
)
_TEMPLATES = (
    *(DIFFERS, SMALL, WORD, COMPOSE, NO_SOURCE, UNIT, DELTA, OPTION, NO_SECAGG, SUM, WEIGHTS),
    *(NOT_MEMBER, STRANGERS, STATED, UNTOLD),
    *_TRAINERS,
)
_PLACES = {
    "{number}": r"-?[0-9][0-9.e+-]{0,15}",
    "{name}": r"[A-Za-z0-9_./-]{1,64}",
    "{names}": r"[A-Za-z0-9_., /-]{0,200}",
}


def told(reason: str) -> str:
    """Return a reason as the lead may hear it."""
    return reason if any(pattern.fullmatch(reason) for pattern in _patterns()) else UNTOLD


def say(template: str, *values: object) -> str:
    """Fill a template of this file; a value that does not have its form is left out."""
    parts = re.split(r"(\{\w+\})", template)
    given = iter(values)
    return "".join(_fitting(part, str(next(given))) if part in _PLACES else part for part in parts)


def _fitting(place: str, value: str) -> str:
    fallback = "0" if place == "{number}" else "..."
    return value if re.fullmatch(_PLACES[place], value, re.ASCII) else fallback


@lru_cache(maxsize=1)
def _patterns() -> tuple[re.Pattern[str], ...]:
    return tuple(map(_pattern, _TEMPLATES))


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"(\{\w+\})", template)
    return re.compile("".join(_PLACES.get(part) or re.escape(part) for part in parts), re.ASCII)
