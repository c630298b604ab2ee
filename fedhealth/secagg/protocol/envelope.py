"""Dealing the secrets of an attempt: which there are, their shares sealed to each site, and commitments to all.

A site deals, for each segment it owns, its own mask key and one key per other owner. The commitments let everybody
tell who is to blame for a bad share: the answering site (share against commitment) or the dealer (secret against
commitment). A hash of a 256-bit secret gives nothing away.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedhealth.protocol.digest import transcript
from fedhealth.secagg.primitives import field, shamir
from fedhealth.secagg.primitives.keys import derive
from fedhealth.secagg.protocol.context import Context

COMMIT_BYTES = 16
TAG_BYTES = 16
NONCE_BYTES = 12
OWN = ""


@dataclass(frozen=True)
class Slot:
    """One secret of a dealer: the mask key it shares with `peer` in a segment, or its own (peer "")."""

    segment: str
    peer: str


@dataclass(frozen=True)
class Dealt:
    """What a dealer keeps (its mask keys) and what it sends (see `messages.Upload`)."""

    keys: dict[tuple[str, Slot], bytes]
    secret_commits: bytes
    share_commits: tuple[bytes, ...]
    envelopes: tuple[bytes, ...]


def slots(context: Context, dealer: str) -> tuple[Slot, ...]:
    """Return a dealer's secrets in their fixed order."""
    found = []
    for segment in context.owned(dealer):
        found.append(Slot(segment.name, OWN))
        peers = context.owners(segment, context.cohort)
        found += [Slot(segment.name, peer) for peer in peers if peer != dealer]
    return tuple(found)


def opened(context: Context, survivors: Sequence[str], segments: Sequence[str]) -> list[tuple[str, int, Slot]]:
    """Return what UNMASK opens, in order: (dealer, index of the secret, slot).

    Survivors' own masks, and the masks between a survivor and an owner that is not among the survivors.
    """
    wanted, alive = set(segments), set(survivors)
    return [
        (dealer, index, slot)
        for dealer in survivors
        for index, slot in enumerate(slots(context, dealer))
        if slot.segment in wanted and slot.peer not in alive
    ]


def mask_keys(secrets: Mapping[tuple[str, Slot], bytes], segment: str) -> tuple[list[bytes], list[bytes]]:
    """Return, of {(dealer, slot): key}, the keys whose masks the dealers add in a segment and those they subtract."""
    plus: list[bytes] = []
    minus: list[bytes] = []
    for (dealer, slot), key in secrets.items():
        if slot.segment == segment:
            (plus if slot.peer == OWN or slot.peer > dealer else minus).append(key)
    return plus, minus


def pair_label(kind: bytes, ctx: bytes, one: str, other: str) -> tuple[bytes, ...]:
    """Return a label that both sites of a pair write the same way."""
    low, high = sorted((one, other))
    return (kind, ctx, low.encode(), high.encode())


def pair_tag(chain: bytes, ctx: bytes, one: str, other: str) -> bytes:
    """Return the tag that shows the lead that both sites of a pair hold the same key and the same ctx."""
    return derive(chain, *pair_label(b"tag", ctx, one, other))[:TAG_BYTES]


def deal(context: Context, dealer: str, chains: Mapping[str, bytes]) -> Dealt:
    """Make this attempt's mask keys and share them among the cohort.

    `chains` maps every site of the cohort, the dealer included, to the chain key of this exchange.
    """
    keys: dict[tuple[str, Slot], bytes] = {}
    for slot in slots(context, dealer):
        if slot.peer == OWN:
            keys[dealer, slot] = os.urandom(shamir.SECRET_BYTES)
        else:
            label = pair_label(b"mask", context.ctx, dealer, slot.peer)
            keys[dealer, slot] = derive(chains[slot.peer], *label, slot.segment.encode())
    threshold, count = context.directive.threshold, len(context.cohort)
    columns = [shamir.split(key, threshold, count) for key in keys.values()]
    share_commits, envelopes = [], []
    for position, site in enumerate(context.cohort):
        shares = [field.to_bytes(column[position]) for column in columns]
        share_commits.append(commit_shares(context.ctx, dealer, site, shares))
        envelopes.append(_seal(chains[site], context.ctx, dealer, site, b"".join(shares)))
    commits = b"".join(commit_secret(context.ctx, dealer, i, key) for i, key in enumerate(keys.values()))
    return Dealt(keys, commits, tuple(share_commits), tuple(envelopes))


def unseal(
    context: Context, chain: bytes, dealer: str, reader: str, sealed: bytes, commits: bytes
) -> list[bytes] | None:
    """Open one envelope; None unless it is authentic, laid out exactly, and what the dealer committed to."""
    label = transcript(b"seal", context.ctx, dealer.encode(), reader.encode())
    try:
        plain = AESGCM(derive(chain, label)).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], label)
    except (InvalidTag, ValueError):
        return None
    size = field.ELEMENT_BYTES
    shares = [plain[at : at + size] for at in range(0, len(plain), size)]
    if len(plain) != size * len(slots(context, dealer)):
        return None
    return shares if commit_shares(context.ctx, dealer, reader, shares) == commits else None


def commit_shares(ctx: bytes, dealer: str, reader: str, shares: Sequence[bytes], first: int = 0) -> bytes:
    """Return 16 bytes for each share, joined; `first` is the index of the first."""
    prefix = transcript(b"share", ctx, dealer.encode(), reader.encode())
    return b"".join(_commit(prefix, first + i, share) for i, share in enumerate(shares))


def commit_secret(ctx: bytes, dealer: str, index: int, secret: bytes) -> bytes:
    """Return the 16 bytes that commit a dealer to one secret."""
    return _commit(transcript(b"secret", ctx, dealer.encode()), index, secret)


def _commit(prefix: bytes, index: int, value: bytes) -> bytes:
    return hashlib.sha256(prefix + index.to_bytes(8, "little") + value).digest()[:COMMIT_BYTES]


def _seal(chain: bytes, ctx: bytes, dealer: str, reader: str, plain: bytes) -> bytes:
    label = transcript(b"seal", ctx, dealer.encode(), reader.encode())
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(derive(chain, label)).encrypt(nonce, plain, label)
