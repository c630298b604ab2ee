"""The reasons for which a site declines a job: a closed list, so that they name limits and settings and never data.

A reason that is not listed here stays in the site's log; the lead receives `UNLISTED_REASON` instead.
"""

from __future__ import annotations

import re
from functools import lru_cache

from fedhealth.privacy.auditing.audit_reasons import FAILED_AUDIT, FAILED_SELF_CHECK

UNLISTED_REASON = "the site's policy or state does not allow it (see the site's own log)"

CONFIG_MISMATCH = "the configuration differs from the lead's"
COHORT_TOO_SMALL = "the cohort is too small to report on its own"
OVERRIDE_NOT_ACCEPTED = "the override {name} is not accepted"
OVERRIDES_DO_NOT_COMPOSE = "the overrides do not compose with the installed release"
NO_SUCH_DATA = "this site offers no data called {name}"
PRIVACY_UNIT_NOT_ALLOWED = "the privacy unit {name} is not allowed here, only: {names}"
DELTA_ABOVE_LIMIT = "delta {number} is above this site's limit of {number}"
OPTION_NOT_ALLOWED = "{name}={name} is not allowed here"
SECURE_AGGREGATION_REQUIRED = "secure aggregation is required here"
TOO_FEW_SITES_IN_SUM = "the run opens sums of {number} sites, this site requires {number}"
TOO_FEW_COLLUDERS = "the run assumes {number} colluding sites, this site requires {number}"
TOO_FEW_HONEST_SITES = "the run opens sums of {number} honest sites, this site requires {number}"
TOO_FEW_MEMBERS = "the run's {number} sites are too few for this site's limits"
ORDER_TOO_LONG = "the job is valid for {number} hours, this site allows {number}"
WORD_EMBEDDINGS_NOT_ALLOWED = "rows of word embeddings may not leave here without differential privacy"
EXACT_WEIGHTS_NOT_ALLOWED = "exact weights are not allowed here"
SITE_NOT_IN_RUN = "{name} is not one of the run's sites"
UNAPPROVED_SITES = "the run names sites that are not approved members"

NO_PLAIN_GRADIENTS = "training.sends=gradient needs one local step, personalization that shares all, and no staleness"
NO_SHARED_NOISE = "shared noise needs secure aggregation, three sites and no strategy.max_update_norm"
SHARED_NOISE_NOT_ALLOWED = "shared noise is not allowed here: limits.local_epsilon is not set"
NO_BODY_STEPS = "personalization.head_steps {number} leaves no step of a round for the body"
RECORD_NOT_ALLOWED = "replies that hold the record {name} are not allowed here"
REPLY_TOO_LARGE = "a reply of {number} bytes is above this site's limit of {number} for one round"

SWEEP_EPSILON_MISMATCH = (
    "the sweep requests epsilon {number} at delta {number}, its runs would spend epsilon {number} at delta {number} "
    "for each {name}, noise multiplier {number} or more"
)

_TRAINER_REASONS = (  # from the privacy and training code
    "the run asks for noise multiplier {number}, below this site's minimum {number}",
    "the cohort is empty",
    "the cohort is smaller than the policy's minimum of {number}",
    "the run would exceed the privacy budget of {name}",
    "the run would exceed the privacy budget of {name}, part of which is reserved for a sweep",
    "the runs of the sweep together would exceed the privacy budget of {name}",
    "another run is using the data set of {name}",
    "the data set has reached limits.max_failures: {number} private requests failed",
    "delta {number} times the number of patients is above {number}",
    "privacy.max_records_per_patient must be at least 1 and privacy.spare_rounds at least 0",
    "delta {number} is not between 0 and 1",
    "an event with noise multiplier {number}, sample rate {number} and {number} steps cannot be accounted",
    "the clock is behind the privacy ledger's last entry",
    "epsilon {number} at delta {number} is unreachable with sample rate {number} and {number} steps",
    "a score release share of {number} is not in [0, 1)",
    "privacy.epsilon must be positive, not {number}",
    "shared noise needs training.sends=gradient with one local step",
    "shared noise needs one privacy.sample_rate for all sites",
    "shared noise needs secure aggregation and two honest sites in every sum",
    FAILED_SELF_CHECK,
    FAILED_AUDIT,
    "layer {name} ({name}) computes statistics over the batch",
    "layer {name} ({name}) has no per-sample gradient rule in Opacus",
)
_TEMPLATES = (
    *(
        CONFIG_MISMATCH,
        COHORT_TOO_SMALL,
        OVERRIDE_NOT_ACCEPTED,
        OVERRIDES_DO_NOT_COMPOSE,
        NO_SUCH_DATA,
        PRIVACY_UNIT_NOT_ALLOWED,
        DELTA_ABOVE_LIMIT,
        OPTION_NOT_ALLOWED,
        SECURE_AGGREGATION_REQUIRED,
        TOO_FEW_SITES_IN_SUM,
        TOO_FEW_COLLUDERS,
        TOO_FEW_HONEST_SITES,
        TOO_FEW_MEMBERS,
        ORDER_TOO_LONG,
        WORD_EMBEDDINGS_NOT_ALLOWED,
        EXACT_WEIGHTS_NOT_ALLOWED,
    ),
    *(
        SITE_NOT_IN_RUN,
        UNAPPROVED_SITES,
        NO_PLAIN_GRADIENTS,
        NO_SHARED_NOISE,
        SHARED_NOISE_NOT_ALLOWED,
        NO_BODY_STEPS,
        RECORD_NOT_ALLOWED,
        REPLY_TOO_LARGE,
        SWEEP_EPSILON_MISMATCH,
        UNLISTED_REASON,
    ),
    *_TRAINER_REASONS,
)
_PLACEHOLDERS = {
    "{number}": r"-?[0-9][0-9.e+-]{0,15}",
    "{name}": r"[A-Za-z0-9_./-]{1,64}",
    "{names}": r"[A-Za-z0-9_., /-]{0,200}",
}


def redact_reason(reason: str) -> str:
    """Return a reason as it may be sent to the lead: itself if it is listed, else `UNLISTED_REASON`."""
    return reason if any(pattern.fullmatch(reason) for pattern in _compile_patterns()) else UNLISTED_REASON


def format_reason(template: str, *values: object) -> str:
    """Fill a template of this file; a value of another form than its placeholder is replaced by a fallback."""
    parts = re.split(r"(\{\w+\})", template)
    remaining = iter(values)
    return "".join(_fill_placeholder(part, str(next(remaining))) if part in _PLACEHOLDERS else part for part in parts)


def _fill_placeholder(place: str, value: str) -> str:
    fallback = "0" if place == "{number}" else "..."
    return value if re.fullmatch(_PLACEHOLDERS[place], value, re.ASCII) else fallback


@lru_cache(maxsize=1)
def _compile_patterns() -> tuple[re.Pattern[str], ...]:
    return tuple(map(_make_pattern, _TEMPLATES))


def _make_pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"(\{\w+\})", template)
    return re.compile("".join(_PLACEHOLDERS.get(part) or re.escape(part) for part in parts), re.ASCII)
