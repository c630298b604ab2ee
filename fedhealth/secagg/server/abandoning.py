"""The lead's check of a site's promise never to answer an attempt."""

from fedhealth.secagg.errors import refuse_unless
from fedhealth.secagg.primitives.keys import is_signed_by
from fedhealth.secagg.protocol.abandon import Abandonment, build_abandon_label
from fedhealth.secagg.protocol.context import AttemptContext
from fedhealth.secagg.server.server_protocol import ServerParameters


def verify_abandonment(lead: ServerParameters, context: AttemptContext, data: bytes, sender: str) -> bytes:
    """Return the signature of a reply to ABANDON; raises `ProtocolViolationError`."""
    found, who = Abandonment.from_bytes(data, sender), (sender,)
    right = found.site == sender and sender in context.cohort and found.ctx == context.ctx
    refuse_unless(right, f"the abandonment from {sender} is not for this attempt", blame=who)
    right = is_signed_by(lead.roster.keys[sender], found.signature, *build_abandon_label(found.ctx))
    refuse_unless(right, f"the abandonment from {sender} is not signed by its identity", blame=who)
    return found.signature
