"""A site's signed statement of its own state: what a machine that was restored from an older copy has forgotten.

Each site numbers its statements, and lists in each the ones that its disk knows. The others keep of every site those
that no later one lists, and show them again with the owner's signature: a site that sees a statement of its own that
its disk does not know has been restored. Nobody can invent a statement of another site.

An announcement names the statements that it shows by their digests; the statements themselves travel beside it, and
each site receives its own. So TRAIN grows with the number of sites, not with that of pairs.
"""

import hashlib
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedhealth.consortium.roster import Roster
from fedhealth.secagg.errors import ProtocolViolationError, refuse_unless
from fedhealth.secagg.primitives.codec import MessageReader, MessageWriter
from fedhealth.secagg.primitives.keys import SIGNATURE_BYTES, derive_key, is_signed_by, sign_parts
from fedhealth.utils.digest import encode_parts

STATEMENT_KIND, NOTICE_KIND = 32, 33
MAX_STATEMENT_BYTES = 16384
MAX_SHOWN = 8  # statements of one site that another one keeps, and shows
MAX_NOTICE_BYTES = (1 + MAX_SHOWN) * MAX_STATEMENT_BYTES + 64
DIGEST_BYTES = 32
NAME_BYTES = 16  # of a statement's own digest
_NONCE_BYTES = 12
_PURPOSE = b"state statement"

ShownNames = tuple[tuple[str, tuple[bytes, ...]], ...]
"""Of other sites, sorted: the digests of the statements that a member shows, see `digest_statement`."""


@dataclass(frozen=True)
class StateHeads:
    """The ends of a site's hash chains.

    Args:
        ledgers: digest of the last line of every privacy ledger, in order of the data sets' names.
        audit: digest of the last line of the audit log; zeros without one.

    """

    ledgers: tuple[bytes, ...] = ()
    audit: bytes = bytes(DIGEST_BYTES)


@dataclass(frozen=True)
class StateStatement:
    """What a site signs about its own state.

    Args:
        site: the owner.
        counter: 1, 2, ... over all runs of the site.
        run: the run in which it was signed.
        exchange: the latest exchange of that run that the site has accepted.
        heads: of its ledgers and its audit log.
        record: for the owner alone, sealed: what its ledgers hold.
        known: digests of earlier statements that the owner's disk knows: the latest, and older ones that were shown.
        signature: by the owner's identity over all of the above.

    """

    site: str
    counter: int
    run: str
    exchange: int
    heads: StateHeads
    record: bytes
    known: tuple[bytes, ...] = ()
    signature: bytes = bytes(SIGNATURE_BYTES)

    def body(self) -> bytes:
        """Return the signed bytes."""
        out = MessageWriter(STATEMENT_KIND).text(self.site).number(self.counter).text(self.run).number(self.exchange)
        out.number(len(self.heads.ledgers), 4)
        for head in self.heads.ledgers:
            out.fixed_bytes(head, DIGEST_BYTES)
        out.fixed_bytes(self.heads.audit, DIGEST_BYTES).blob(self.record).number(len(self.known), 4)
        for digest in self.known:
            out.fixed_bytes(digest, NAME_BYTES)
        return out.bytes()

    def to_bytes(self) -> bytes:
        """Encode."""
        return self.body() + self.signature

    def sign(self, identity: Ed25519PrivateKey) -> Self:
        """Return the statement with its owner's signature."""
        return replace(self, signature=sign_parts(identity, _PURPOSE, self.body()))

    @classmethod
    def from_bytes(cls, data: bytes, sender: str) -> "StateStatement":
        """Decode; parsed once, because every member shows the same statements in every exchange."""
        try:
            return _parse_statement_once(data)
        except ProtocolViolationError:
            return _parse_statement(data, sender)  # which blames the sender


def _parse_statement(data: bytes, sender: str = "") -> StateStatement:
    r = MessageReader(data, STATEMENT_KIND, "state statement", sender)
    if len(data) > MAX_STATEMENT_BYTES:
        raise r.fault("oversized")
    site, counter, run, exchange = r.site(), r.number(), r.text(), r.number()
    heads = StateHeads(r.sequence(lambda: r.fixed_bytes(DIGEST_BYTES)), r.fixed_bytes(DIGEST_BYTES))
    record, known = r.blob(), r.sequence(lambda: r.fixed_bytes(NAME_BYTES))
    found = StateStatement(site, counter, run, exchange, heads, record, known, r.fixed_bytes(SIGNATURE_BYTES))
    r.end()
    return found


_parse_statement_once = lru_cache(maxsize=256)(_parse_statement)  # two of each of 100 sites; of at most 16 KB


@dataclass(frozen=True)
class StateNotice:
    """What a dealer tells one reader inside its envelope: the lead can neither read it nor leave it out.

    Args:
        own: the dealer's own latest statement.
        shown: the reader's statements that no later one lists, as far as the dealer knows.

    """

    own: bytes
    shown: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """Encode."""
        return MessageWriter(NOTICE_KIND).blob(self.own).blobs(self.shown).bytes()

    @classmethod
    def from_bytes(cls, data: bytes, sender: str) -> Self:
        """Decode."""
        r = MessageReader(data, NOTICE_KIND, "state notice", sender)
        found = cls(r.blob(), r.blobs())
        r.end()
        return found


def digest_statement(data: bytes) -> bytes:
    """Return the digest by which this statement is named: in later ones, in announcements, in logs and in ledgers."""
    return hashlib.sha256(data).digest()[:NAME_BYTES]


def verify_statement(data: bytes, roster: Roster, sender: str) -> StateStatement:
    """Decode a statement and verify its owner's signature; `ProtocolViolationError` blames the sender who shows it."""
    found = StateStatement.from_bytes(data, sender)
    key = roster.keys.get(found.site)
    if key is None:
        raise ProtocolViolationError(f"{found.site} is not an approved member", rule="R8", blame=(sender,))
    if not _is_signed_once(data, key):
        problem = f"{sender} shows a statement that {found.site} never signed"
        raise ProtocolViolationError(problem, rule="R13", blame=(sender,))
    return found


@lru_cache(maxsize=1024)  # of at most 16 KB
def _is_signed_once(data: bytes, public: bytes) -> bool:
    """Return whether the owner of a public key signed a statement; every member shows it in every exchange."""
    return is_signed_by(public, data[-SIGNATURE_BYTES:], _PURPOSE, data[:-SIGNATURE_BYTES])


def is_genuine_statement(data: bytes, roster: Roster) -> bool:
    """Return whether a statement is valid with the members approved today; a member may have a new key."""
    try:
        verify_statement(data, roster, "this site's own disk")
    except ProtocolViolationError:
        return False
    return True


def verify_shown_names(shown: ShownNames, sender: str) -> None:
    """Check the form of what a member shows of the other sites: sorted, and a few different digests for each."""
    sites = [site for site, _ in shown]
    proper = sites == sorted(set(sites)) and sender not in sites
    proper = proper and all(0 < len(names) == len(set(names)) <= MAX_SHOWN for _, names in shown)
    refuse_unless(proper, f"{sender} names the statements of other sites in a wrong form", rule="R13", blame=(sender,))


def seal_record(identity: Ed25519PrivateKey, site: str, counter: int, record: bytes) -> bytes:
    """Encrypt a record so that its owner alone can read it, also on a machine that has lost everything but its key."""
    nonce, label = os.urandom(_NONCE_BYTES), _label_record(site, counter)
    return nonce + AESGCM(_derive_record_key(identity)).encrypt(nonce, record, label)


def unseal_record(identity: Ed25519PrivateKey, statement: StateStatement) -> bytes | None:
    """Decrypt the record of an own statement; None if another key sealed it."""
    nonce, sealed = statement.record[:_NONCE_BYTES], statement.record[_NONCE_BYTES:]
    try:
        label = _label_record(statement.site, statement.counter)
        return AESGCM(_derive_record_key(identity)).decrypt(nonce, sealed, label)
    except (InvalidTag, ValueError):
        return None


def _derive_record_key(identity: Ed25519PrivateKey) -> bytes:
    return derive_key(identity.private_bytes_raw(), b"state record")


def _label_record(site: str, counter: int) -> bytes:
    return encode_parts(_PURPOSE, site.encode(), counter.to_bytes(8, "little"))
