"""The rule R10: a vector is in at most one opened sum, for life.

A vector is named (run, purpose, round, repetition). A site answers UNMASK for a vector once. Because any two sets of t
answers share an honest site (2t > N + c), at most one sum with the vector can open. Every further upload of the same
vector gives up the right to answer for the attempt before; a site that has answered uploads the vector again only with
the proof that its attempt can never open. A new repetition is a new vector: it is drawn, and booked, anew.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedhealth.consortium.roster import Roster
from fedhealth.secagg.client.journal import Journal
from fedhealth.secagg.protocol.abandon import AbandonCertificate, proves_abandonment
from fedhealth.secagg.protocol.context import digest_attempt
from fedhealth.secagg.protocol.messages import AttemptDescriptor
from fedhealth.secagg.protocol.rules import lead_must
from fedhealth.utils.digest import digest_parts


def r10_check_vector(
    journal: Journal, descriptor: AttemptDescriptor, roster: Roster, colluders: int, certificates: Sequence[bytes]
) -> None:
    """Check that this site may upload the vector of an attempt.

    Args:
        journal: of the site.
        descriptor: of the attempt.
        roster: the approved members.
        colluders: assumed by the site.
        certificates: of abandoned attempts, as received.

    """
    if _names_new_vector(journal, descriptor):
        return
    lead_must(digest_input(descriptor) == journal.model, "R10", "the vector was computed from another model")
    if descriptor.exchange == journal.exchange:
        lead_must(not journal.signed_survivors, "R10", "a list of survivors was signed in this exchange")
    if journal.unmask_reply:
        abandoned = _is_answer_void(journal, roster, colluders, certificates)
        lead_must(abandoned, "R10", "this vector was already answered for, and may be in an opened sum")


def r10_may_pass(journal: Journal, descriptor: AttemptDescriptor) -> None:
    """Check that an attempt that did not arrive may count as the latest: an answer for its vector is not forgotten."""
    is_new = _names_new_vector(journal, descriptor)
    lead_must(is_new or not journal.unmask_reply, "R10", "this vector was already answered for")


def digest_input(descriptor: AttemptDescriptor) -> bytes:
    """Return the SHA-256 of what a vector is computed from: the incoming model, and the history behind local arrays."""
    return digest_parts(b"fedhealth vector input 1", descriptor.model_digest, descriptor.history)


def r10_not_abandoned(journal: Journal, ctx: bytes) -> None:
    """Check that the attempt was not abandoned."""
    lead_must(ctx != journal.abandoned, "R10", "this site has abandoned the attempt")


def r10_may_abandon(journal: Journal) -> None:
    """Check that the latest attempt was not answered."""
    lead_must(not journal.unmask_reply, "R10", "the attempt was already answered")


def _names_new_vector(journal: Journal, descriptor: AttemptDescriptor) -> bool:
    """Return whether the vector is another one than the latest; a name of the past or of the future is refused."""
    vector = descriptor.vector
    lead_must(1 <= vector.repetition <= descriptor.exchange, "R10", "the vector is named by a later exchange")
    is_same = descriptor.vector_digest == journal.vector
    is_known = is_same or vector.repetition > journal.exchange
    lead_must(is_known, "R10", f"a {vector.purpose} vector of exchange {vector.repetition} is past")
    return not is_same


def _is_answer_void(journal: Journal, roster: Roster, colluders: int, certificates: Sequence[bytes]) -> bool:
    """Return whether the attempt that this site has answered can never open."""
    answered = AttemptDescriptor.from_bytes(journal.descriptor)
    ctx = digest_attempt(answered)
    found = (AbandonCertificate.from_bytes(each) for each in certificates)
    return any(proves_abandonment(each, ctx, answered, roster, colluders) for each in found)
