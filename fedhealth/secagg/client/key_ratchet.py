"""A site's chain keys: made once for a set of announcements, moved on with every exchange, never back."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from fedhealth.protocol.digest import transcript
from fedhealth.secagg.client.journal import Secrets
from fedhealth.secagg.primitives import keys
from fedhealth.secagg.protocol.errors import RefusedError
from fedhealth.secagg.protocol.messages import LEAD, Announcement, Directive


def at_directive(
    site: str, run: str, secrets: Secrets, members: Sequence[Announcement], directive: Directive
) -> Secrets:
    """Return the chain keys for these members at this exchange, agreeing on new ones after an announcement."""
    digest = hashlib.sha256(transcript(*directive.members)).digest()
    own = next(blob for blob, m in zip(directive.members, members, strict=True) if m.site == site)
    if own == secrets.pending:
        secrets = _agree(site, run, secrets, members, digest)
    if own != secrets.announced:
        raise RefusedError("the keys behind this site's announcement are gone", "Announce a new epoch.", blame=(site,))
    if digest != secrets.members:
        raise RefusedError(
            "the members' announcements changed within an epoch",
            "Ask every member to announce a new epoch when one joins.",
            rule="R8",
            blame=(LEAD,),
        )
    return at_exchange(secrets, directive.exchange)


def _agree(site: str, run: str, secrets: Secrets, members: Sequence[Announcement], digest: bytes) -> Secrets:
    """Make a chain with every member from the pending private key, which is then erased."""

    def label(member: Announcement) -> bytes:
        return transcript(member.site.encode(), member.epoch.to_bytes(8, "little"), member.key)

    mine = next(member for member in members if member.site == site)
    chains = [(site, keys.self_root(secrets.private))]
    for member in members:
        if member.site != site:
            pair = sorted((label(mine), label(member)))
            chains.append((member.site, keys.pair_root(secrets.private, member.key, run.encode(), *pair)))
    return Secrets(announced=secrets.pending, members=digest, exchange=0, chains=tuple(chains))


def at_exchange(secrets: Secrets, exchange: int) -> Secrets:
    """Ratchet all chains; refuses to go back, which the erased keys could not do anyway."""
    steps = exchange - secrets.exchange
    if steps < 0:
        raise RefusedError(f"the keys of exchange {exchange} are erased", rule="R7", blame=(LEAD,))
    chains = tuple((site, keys.advance(chain, steps)) for site, chain in secrets.chains)
    return replace(secrets, exchange=exchange, chains=chains)
