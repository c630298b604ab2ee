"""What a request of the lead must agree with: the site computes every field that it can, and only compares.

A request that contradicts the site gets one refusal, whichever field is false and whatever the site's data are. Nothing
is booked for it, and nothing that is booked is spent. The site's own log names the field.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fedhealth.config.schema import Config
from fedhealth.config.selection_rule import may_end_early
from fedhealth.errors import FederationError, RequestMismatchError, SecureAggregationError
from fedhealth.protocol.messages import DESCRIBE, EVALUATE, PURPOSES, TRAIN, Directive
from fedhealth.secagg.client.statement_book import RestoredSiteError
from fedhealth.secagg.protocol.messages import AttemptDescriptor
from fedhealth.secagg.protocol.vector_name import VectorName

_ADVICE = "Nothing was computed, booked or sent."


@contextmanager
def refuse_mismatches() -> Iterator[None]:
    """Raise every contradiction between the request and this site as the one refusal.

    Raises:
        RequestMismatchError: the request is malformed, contradicts what this site computed or decided itself, or shows
            that this machine was restored from an older copy.

    """
    try:
        yield
    except (FederationError, SecureAggregationError, RestoredSiteError) as fault:
        raise RequestMismatchError(f"A request was refused: {fault.problem}", _ADVICE) from fault


def compare_directive(kind: str, directive: Directive, config: Config, digest: str, site: str) -> None:
    """Compare the fields of a directive with the approved configuration.

    Args:
        kind: of the message.
        directive: of the message; its run was compared with the job's.
        config: of the run.
        digest: of the configuration, as this site computed it.
        site: the name of this site.

    Raises:
        FederationError: a field differs.

    """
    cohort = directive.cohort
    found = {
        "digest": directive.digest == digest,
        "round": directive.round in _list_rounds(kind, config),
        "exchange": directive.exchange >= 1,
        "attempt": directive.attempt >= 0,
        "repetition": directive.repetition >= 0,
        "cohort": list(cohort) == sorted(set(cohort)) and site in cohort and set(cohort) <= set(config.data.sites),
        "missed": len(set(directive.missed)) == len(directive.missed) and set(directive.missed) <= set(cohort),
    }
    if wrong := [name for name, is_right in found.items() if not is_right]:
        raise FederationError(f"The directive's {', '.join(wrong)} differs from this site's own.", "Restart the run.")


def compare_attempt(kind: str, directive: Directive, descriptor: AttemptDescriptor) -> None:
    """Compare a directive with what secure aggregation's own message says about the same attempt, cohort and vector.

    Raises:
        FederationError: they differ.

    """
    vector = VectorName(PURPOSES[kind], directive.round, directive.repetition)
    named = (directive.exchange, directive.attempt + 1, directive.cohort, vector)
    if named != (descriptor.exchange, descriptor.attempt, descriptor.cohort, descriptor.vector):
        raise FederationError("The lead names two attempts, cohorts or vectors at once.", "Restart the run.")


def _list_rounds(kind: str, config: Config) -> range:
    """Return the rounds of a kind of message: training has numbered rounds, the final evaluation follows the last.

    Where the best round is exported, or training may end early, it may follow any round: the lead chooses by the sums
    that it has, and the arrays must be those of the round's link in the history. Requests of secure aggregation's own
    belong to any round; they name the attempt by its context.
    """
    rounds = config.strategy.rounds
    evaluated = 1 if may_end_early(config) else rounds
    first, last = {TRAIN: (1, rounds), EVALUATE: (evaluated, rounds), DESCRIBE: (0, 0)}.get(kind, (0, rounds))
    return range(first, last + 1)
