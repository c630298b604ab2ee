"""Secret sharing of mask keys: their shares, sealed to each site, and commitments to secrets and shares.

A site deals, for each mask group that it owns, its own secret and one per other owner; the mask key of a segment is
derived from the secret of its group (see `context.MaskGroup`). The commitments show who is to blame for a bad share:
the replying site (share against commitment) or the dealer (secret against commitment). A hash of a 256-bit secret
reveals nothing.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from fedhealth.secagg.primitives import field, shamir
from fedhealth.secagg.primitives.keys import build_label, derive_key, expand_key
from fedhealth.secagg.primitives.remembered_digests import RememberedDigests
from fedhealth.secagg.protocol.context import AttemptContext
from fedhealth.utils.digest import encode_parts

COMMIT_BYTES = 16
TAG_BYTES = 16
NONCE_BYTES = 12
_DIGEST_BYTES = 32
_COMMITTED_BYTES = 3 * 8 + field.ELEMENT_BYTES  # an index and a share, each with its length
OWN = ""

_committed = RememberedDigests(2**14)  # of shares with their commitments: those of 128 virtual sites


@dataclass(frozen=True)
class SecretSlot:
    """One secret of a dealer: the one it shares with `peer` in a mask group, or its own (peer "")."""

    group: str
    peer: str


@dataclass(frozen=True)
class DealtShares:
    """A dealer's secrets, which it keeps, and the parts that it sends (see `messages.MaskedUpload`)."""

    keys: dict[tuple[str, SecretSlot], bytes]
    secret_commits: bytes
    share_commits: tuple[bytes, ...]
    envelopes: tuple[bytes, ...]


@dataclass(frozen=True)
class OpenedEnvelope:
    """What a reader finds in an envelope: its shares of the dealer's secrets, joined, and the dealer's notice to it."""

    shares: bytes
    notice: bytes

    def get_share(self, index: int) -> bytes:
        """Return the share of one secret."""
        return self.shares[field.ELEMENT_BYTES * index : field.ELEMENT_BYTES * (index + 1)]


def list_slots(context: AttemptContext, dealer: str) -> tuple[SecretSlot, ...]:
    """Return the slots of a dealer's secrets in their fixed order."""
    found = []
    for group in context.groups:
        if dealer in group.owners:
            found.append(SecretSlot(group.name, OWN))
            found += [SecretSlot(group.name, peer) for peer in group.owners if peer != dealer]
    return tuple(found)


def count_slots(context: AttemptContext, dealer: str) -> int:
    """Return the number of a dealer's secrets."""
    return sum(len(group.owners) for group in context.groups if dealer in group.owners)


@lru_cache(maxsize=8)
def list_unmask_slots(
    context: AttemptContext, survivors: tuple[str, ...], segments: tuple[str, ...]
) -> tuple[tuple[str, int, SecretSlot], ...]:
    """Return the secrets that UNMASK opens, in order: (dealer, index of the secret, slot).

    Survivors' own masks, and the masks between a survivor and an owner that is not among the survivors.
    """
    wanted, alive = {context.get_group(segment) for segment in segments}, set(survivors)
    return tuple(
        (dealer, index, slot)
        for dealer in survivors
        for index, slot in enumerate(list_slots(context, dealer))
        if slot.group in wanted and slot.peer not in alive
    )


def select_mask_keys(
    context: AttemptContext, secrets: Mapping[tuple[str, SecretSlot], bytes], segment: str
) -> tuple[list[bytes], list[bytes]]:
    """Derive from {(dealer, slot): secret} the keys whose masks are added in a segment, and those subtracted."""
    plus: list[bytes] = []
    minus: list[bytes] = []
    group, label = context.get_group(segment), build_label(b"segment", segment.encode())
    for (dealer, slot), secret in secrets.items():
        if slot.group == group:
            key = expand_key(secret, label)
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
    """Create the secrets of this attempt and share them among the cohort.

    Args:
        context: of the attempt.
        dealer: the site that shares its secrets.
        chains: of every site of the cohort, the dealer included: the chain key of this exchange.
        notices: for every site of the cohort: what its envelope holds after the shares.

    """
    keys: dict[tuple[str, SecretSlot], bytes] = {}
    for slot in list_slots(context, dealer):
        if slot.peer == OWN:
            keys[dealer, slot] = os.urandom(shamir.SECRET_BYTES)
        else:
            label = build_pair_label(b"mask", context.ctx, dealer, slot.peer)
            keys[dealer, slot] = derive_key(chains[slot.peer], *label, slot.group.encode())
    dealt = shamir.split_secrets(list(keys.values()), context.descriptor.threshold, len(context.cohort))
    share_commits, envelopes = [], []
    for site, row in zip(context.cohort, dealt, strict=True):
        shares = row.tobytes()
        share_commits.append(commit_shares(context.ctx, dealer, site, shares))
        envelopes.append(_seal_shares(chains[site], context.ctx, dealer, site, shares + notices[site]))
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
    end = field.ELEMENT_BYTES * count_slots(context, dealer)
    shares = plain[:end]
    is_sound = len(shares) == end and are_committed(context.ctx, dealer, reader, shares, commits)
    return OpenedEnvelope(shares, plain[end:]) if is_sound else None


def commit_shares(ctx: bytes, dealer: str, reader: str, shares: bytes) -> bytes:
    """Return 16 bytes for each of the joined shares, joined."""
    prefix = encode_parts(b"share", ctx, dealer.encode(), reader.encode())
    count = len(shares) // field.ELEMENT_BYTES
    rows = np.empty((count, len(prefix) + _COMMITTED_BYTES), np.uint8)  # what `commit_share` hashes
    rows[:, : len(prefix)] = np.frombuffer(prefix, np.uint8)
    rows[:, len(prefix) : -field.ELEMENT_BYTES] = _encode_indices(count)
    rows[:, -field.ELEMENT_BYTES :] = np.frombuffer(shares, np.uint8).reshape(count, field.ELEMENT_BYTES)
    parts = rows.view(f"V{rows.shape[1]}").reshape(count).tolist()  # one `bytes` for each row
    digests = np.frombuffer(b"".join([sha256(part).digest() for part in parts]), np.uint8)
    commits = digests.reshape(count, _DIGEST_BYTES)[:, :COMMIT_BYTES].tobytes()
    _committed.add(_name_committed(prefix, shares, commits))
    return commits


def are_committed(ctx: bytes, dealer: str, reader: str, shares: bytes, commits: bytes) -> bool:
    """Return whether these are the commitments to the joined shares.

    A process that has committed to the very same shares compares digests: a virtual site reads what another one dealt.
    """
    prefix = encode_parts(b"share", ctx, dealer.encode(), reader.encode())
    is_known = _name_committed(prefix, shares, commits) in _committed
    return is_known or commit_shares(ctx, dealer, reader, shares) == commits


def _name_committed(prefix: bytes, shares: bytes, commits: bytes) -> bytes:
    return sha256(encode_parts(prefix, shares, commits)).digest()


def commit_share(ctx: bytes, dealer: str, reader: str, index: int, share: bytes) -> bytes:
    """Return the 16 bytes that commit a dealer to one share."""
    return _commit_value(encode_parts(b"share", ctx, dealer.encode(), reader.encode()), index, share)


def commit_secret(ctx: bytes, dealer: str, index: int, secret: bytes) -> bytes:
    """Return the 16 bytes that commit a dealer to one secret."""
    return _commit_value(encode_parts(b"secret", ctx, dealer.encode()), index, secret)


def _commit_value(prefix: bytes, index: int, value: bytes) -> bytes:
    return sha256(prefix + encode_parts(index.to_bytes(8, "little"), value)).digest()[:COMMIT_BYTES]


@lru_cache(maxsize=8)
def _encode_indices(count: int) -> NDArray[np.uint8]:
    """Return what precedes each share in a commitment: its index as a part, and the length of the share."""
    rows = np.zeros((count, 3), "<u8")
    rows[:, 0], rows[:, 1], rows[:, 2] = 8, np.arange(count), field.ELEMENT_BYTES
    return rows.view(np.uint8)


def _seal_shares(chain: bytes, ctx: bytes, dealer: str, reader: str, plain: bytes) -> bytes:
    label = encode_parts(b"seal", ctx, dealer.encode(), reader.encode())
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(derive_key(chain, label)).encrypt(nonce, plain, label)
