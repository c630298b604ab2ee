"""A site's chain keys: agreed once for a set of announcements, ratcheted forward with every exchange."""

from collections.abc import Sequence
from dataclasses import replace

from fedhealth.secagg.client.journal import Secrets
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives import keys
from fedhealth.secagg.protocol.messages import LEAD, AttemptDescriptor, KeyAnnouncement
from fedhealth.utils.digest import digest_parts, encode_parts


def ratchet_to_attempt(
    site: str, run: str, secrets: Secrets, members: Sequence[KeyAnnouncement], descriptor: AttemptDescriptor
) -> Secrets:
    """Return the chain keys for these members and this exchange; agree on new ones after an announcement."""
    digest = digest_parts(b"members", *descriptor.members)
    own = next(blob for blob, m in zip(descriptor.members, members, strict=True) if m.site == site)
    if own == secrets.pending:
        secrets = _agree_chains(site, run, secrets, members, digest)
    if own != secrets.announced:
        raise ProtocolViolationError(
            "the keys behind this site's announcement are gone", "Announce a new epoch.", blame=(site,)
        )
    if digest != secrets.members:
        raise ProtocolViolationError(
            "the members' announcements changed within an epoch",
            "Ask every member to announce a new epoch when one joins.",
            rule="R8",
            blame=(LEAD,),
        )
    return ratchet_to_exchange(secrets, descriptor.exchange)


def _agree_chains(site: str, run: str, secrets: Secrets, members: Sequence[KeyAnnouncement], digest: bytes) -> Secrets:
    """Agree on a chain key with every member from the pending private key, which is then erased."""

    def label(member: KeyAnnouncement) -> bytes:
        return encode_parts(member.site.encode(), member.epoch.to_bytes(8, "little"), member.key)

    mine = next(member for member in members if member.site == site)
    chains = [(site, keys.derive_self_root(secrets.private))]
    for member in members:
        if member.site != site:
            pair = sorted((label(mine), label(member)))
            chains.append((member.site, keys.derive_pair_root(secrets.private, member.key, run.encode(), *pair)))
    return Secrets(announced=secrets.pending, members=digest, exchange=0, chains=tuple(chains))


def ratchet_to_exchange(secrets: Secrets, exchange: int) -> Secrets:
    """Ratchet all chains forward; going back is refused, since the old keys are erased."""
    steps = exchange - secrets.exchange
    if steps < 0:
        raise ProtocolViolationError(f"the keys of exchange {exchange} are erased", rule="R7", blame=(LEAD,))
    chains = tuple((site, keys.ratchet_chain(chain, steps)) for site, chain in secrets.chains)
    return replace(secrets, exchange=exchange, chains=chains)
