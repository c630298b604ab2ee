"""The rule R14: an announcement is used only while it shows what its site knows and the others do not acknowledge.

A site that was restored from an older copy and has lost its keys announces again, and so must everybody. What the
others announced before would hide from it what it has forgotten. Each member compares itself: a statement that it knows
of another site is either acknowledged by that site's own announcement, which has then not forgotten it, or shown by
this member's. Otherwise this member's is too old, whenever and in whichever run the statement was learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.protocol.messages import LEAD, KeyAnnouncement
from fedhealth.secagg.protocol.statement import StateStatement, digest_statement


def r14_shows_what_is_known(
    own: KeyAnnouncement, members: Sequence[KeyAnnouncement], known: Mapping[str, Sequence[bytes]]
) -> None:
    """Check that an announcement of this site may be used for the first time.

    Args:
        own: the announcement of this site.
        members: the verified announcements of the attempt.
        known: what this site knows of the others, see `StatementBook.load_known_statements`.

    """
    for member in members:
        shown = own.get_shown_names(member.site)
        for statement in known.get(member.site, ()):
            if digest_statement(statement) not in shown and not _is_acknowledged(statement, member):
                problem = f"this site's announcement does not show what it knows of {member.site} by now"
                raise ProtocolViolationError(problem, "Announce a new epoch.", rule="R14", blame=(LEAD,))


def _is_acknowledged(known: bytes, member: KeyAnnouncement) -> bool:
    """Return whether a site's announcement is of a time at which it knew this statement, or was to make it later."""
    announced, name = StateStatement.from_bytes(member.statement, member.site), digest_statement(member.statement)
    found = StateStatement.from_bytes(known, "this site's own disk")
    return known == member.statement or digest_statement(known) in announced.known or name in found.known
