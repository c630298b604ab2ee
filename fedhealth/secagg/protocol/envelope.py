"""Secret sharing of mask keys: their shares, sealed to each site, and commitments to secrets and shares.

A site deals, for each segment that it owns, its own mask key and one key per other owner. The commitments show who is
to blame for a bad share: the replying site (share against commitment) or the dealer (secret against commitment). A hash
of a 256-bit secret reveals nothing.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedhealth.secagg.primitives import field, shamir
from fedhealth.secagg.primitives.keys import derive_key
from fedhealth.secagg.protocol.context import AttemptContext
from fedhealth.utils.digest import encode_parts

COMMIT_BYTES = 16
TAG_BYTES = 16
NONCE_BYTES = 12
OWN = ""


@dataclass(frozen=True)
class SecretSlot:
    """One secret of a dealer: the mask key it shares with `peer` in a segment, or its own (peer "")."""

    segment: str
    peer: str


@dataclass(frozen=True)
class DealtShares:
    """A dealer's mask keys, which it keeps, and the parts that it sends (see `messages.MaskedUpload`)."""

    keys: dict[tuple[str, SecretSlot], bytes]
    secret_commits: bytes
    share_commits: tuple[bytes, ...]
    envelopes: tuple[bytes, ...]


@dataclass(frozen=True)
class OpenedEnvelope:
    """What a reader finds in an envelope: its shares of the dealer's secrets, and the dealer's notice to it."""

    shares: tuple[bytes, ...]
    notice: bytes


def list_slots(context: AttemptContext, dealer: str) -> tuple[SecretSlot, ...]:
    """Return the slots of a dealer's secrets in their fixed order."""
    found = []
    for segment in context.owned_segments(dealer):
        found.append(SecretSlot(segment.name, OWN))
        peers = context.owners(segment, context.cohort)
        found += [SecretSlot(segment.name, peer) for peer in peers if peer != dealer]
    return tuple(found)


def list_unmask_slots(
    context: AttemptContext, survivors: Sequence[str], segments: Sequence[str]
) -> list[tuple[str, int, SecretSlot]]:
    """Return the secrets that UNMASK opens, in order: (dealer, index of the secret, slot).

    Survivors' own masks, and the masks between a survivor and an owner that is not among the survivors.
    """
    wanted, alive = set(segments), set(survivors)
    return [
        (dealer, index, slot)
        for dealer in survivors
        for index, slot in enumerate(list_slots(context, dealer))
        if slot.segment in wanted and slot.peer not in alive
    ]


def select_mask_keys(secrets: Mapping[tuple[str, SecretSlot], bytes], segment: str) -> tuple[list[bytes], list[bytes]]:
    """Select from {(dealer, slot): key} the keys whose masks are added in a segment, and those subtracted."""
    plus: list[bytes] = []
    minus: list[bytes] = []
    for (dealer, slot), key in secrets.items():
        if slot.segment == segment:
            (plus if slot.peer == OWN or slot.peer > dealer else minus).append(key)
    return plus, minus


def build_pair_label(kind: bytes, ctx: bytes, one: str, other: str) -> tuple[bytes, ...]:
    """Return a label that is the same at both sites of a pair."""
    low, high = sorted((one, other))
    return (kind, ctx, low.encode(), high.encode())


def compute_pair_tag(chain: bytes, ctx: bytes, one: str, other: str) -> bytes:
    """Return the tag that proves to the lead that both sites of a pair have the same key and ctx."""
    return derive_key(chain, *build_pair_label(b"tag", ctx, one, other))[:TAG_BYTES]


def deal_shares(
    context: AttemptContext, dealer: str, chains: Mapping[str, bytes], notices: Mapping[str, bytes]
) -> DealtShares:
    """Create the mask keys of this attempt and share them among the cohort.

    Args:
        context: of the attempt.
        dealer: the site that shares its keys.
        chains: of every site of the cohort, the dealer included: the chain key of this exchange.
        notices: for every site of the cohort: what its envelope holds after the shares.

    """
    keys: dict[tuple[str, SecretSlot], bytes] = {}
    for slot in list_slots(context, dealer):
        if slot.peer == OWN:
            keys[dealer, slot] = os.urandom(shamir.SECRET_BYTES)
        else:
            label = build_pair_label(b"mask", context.ctx, dealer, slot.peer)
            keys[dealer, slot] = derive_key(chains[slot.peer], *label, slot.segment.encode())
    threshold, count = context.descriptor.threshold, len(context.cohort)
    columns = [shamir.split_secret(key, threshold, count) for key in keys.values()]
    share_commits, envelopes = [], []
    for position, site in enumerate(context.cohort):
        shares = [field.encode_element(column[position]) for column in columns]
        share_commits.append(commit_shares(context.ctx, dealer, site, shares))
        envelopes.append(_seal_shares(chains[site], context.ctx, dealer, site, b"".join(shares) + notices[site]))
    commits = b"".join(commit_secret(context.ctx, dealer, i, key) for i, key in enumerate(keys.values()))
    return DealtShares(keys, commits, tuple(share_commits), tuple(envelopes))


def unseal_shares(
    context: AttemptContext, chain: bytes, dealer: str, reader: str, sealed: bytes, commits: bytes
) -> OpenedEnvelope | None:
    """Open one envelope; None unless it is authentic, of the right size, and matches the dealer's commitments."""
    label = encode_parts(b"seal", context.ctx, dealer.encode(), reader.encode())
    try:
        plain = AESGCM(derive_key(chain, label)).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], label)
    except (InvalidTag, ValueError):
        return None
    size, end = field.ELEMENT_BYTES, field.ELEMENT_BYTES * len(list_slots(context, dealer))
    if len(plain) < end:
        return None
    shares = tuple(plain[at : at + size] for at in range(0, end, size))
    is_sound = commit_shares(context.ctx, dealer, reader, shares) == commits
    return OpenedEnvelope(shares, plain[end:]) if is_sound else None


def commit_shares(ctx: bytes, dealer: str, reader: str, shares: Sequence[bytes], first: int = 0) -> bytes:
    """Return 16 bytes for each share, joined; `first` is the index of the first."""
    prefix = encode_parts(b"share", ctx, dealer.encode(), reader.encode())
    return b"".join(_commit_value(prefix, first + i, share) for i, share in enumerate(shares))


def commit_secret(ctx: bytes, dealer: str, index: int, secret: bytes) -> bytes:
    """Return the 16 bytes that commit a dealer to one secret."""
    return _commit_value(encode_parts(b"secret", ctx, dealer.encode()), index, secret)


def _commit_value(prefix: bytes, index: int, value: bytes) -> bytes:
    return hashlib.sha256(prefix + encode_parts(index.to_bytes(8, "little"), value)).digest()[:COMMIT_BYTES]


def _seal_shares(chain: bytes, ctx: bytes, dealer: str, reader: str, plain: bytes) -> bytes:
    label = encode_parts(b"seal", ctx, dealer.encode(), reader.encode())
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(derive_key(chain, label)).encrypt(nonce, plain, label)
