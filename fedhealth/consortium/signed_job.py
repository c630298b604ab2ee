"""A job as it crosses the network: words, bound to project, members, bundle and time, signed by the consortium.

Flower's control API authenticates nobody, so a site believes a job for its signature alone. An order that ended here is
never taken up again.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import asdict, dataclass
from typing import Any

from fedhealth.consortium.membership import Membership, exactly, hexadecimal, matching, text, whole
from fedhealth.consortium.signatures import canonical, is_signed, parse_json
from fedhealth.errors import TrustError
from fedhealth.protocol.budget_request import MOST_WORDS, Statement
from fedhealth.protocol.messages import PROTOCOL_VERSION

PURPOSE = "order"
_RUN = re.compile(r"[a-z0-9]{8,40}", re.ASCII)
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}", re.ASCII)
LIMIT = 2**17  # characters of an order
_LONGEST_WORD = 1000
_CLOCKS = 300  # seconds by which two clocks may differ
_ADVICE = "Nothing was run. Ask the lead whether they sent it."


@dataclass(frozen=True)
class Order:
    """What the lead asks of all sites.

    Attributes:
        project: the consortium.
        run: our own run id, unique.
        words: Hydra override words.
        digest: of the configuration that they compose to at the lead.
        roster: digest of the members that the lead means, hexadecimal.
        bundle: SHA-256 of the thin Flower bundle, hexadecimal.
        issued: seconds since 1970.
        expires: seconds since 1970; nothing is answered afterwards.
        nonce: 16 random bytes, hexadecimal.
        statement: what a sweep is going to spend: a site is asked to reserve it, and for nothing else.
        protocol: of `fedhealth.protocol.messages`.

    """

    project: str
    run: str
    words: tuple[str, ...]
    digest: str
    roster: str
    bundle: str
    issued: int
    expires: int
    nonce: str
    statement: Statement | None = None
    protocol: int = PROTOCOL_VERSION

    @property
    def identity(self) -> str:
        """A digest of what is asked: a renewed order for the same work has the same."""
        asked = [self.project, self.run, list(self.words), self.digest, self.statement and asdict(self.statement)]
        return hashlib.sha256(canonical(asked)).hexdigest()

    def dumps(self) -> str:
        """Return what is signed and sent."""
        return canonical(asdict(self)).decode()

    @staticmethod
    def parse(content: str) -> Order:
        """Read it back.

        Raises:
            TrustError: malformed.

        """
        fields = parse_json(content, "The job", LIMIT)
        exactly(fields, set(Order.__dataclass_fields__), "job")
        words = fields["words"]
        if not isinstance(words, list) or len(words) > MOST_WORDS or not all(map(_is_word, words)):
            raise TrustError("The job's words are too many, too long, or no text.", _ADVICE)
        digests = {
            name: hexadecimal(text(fields, name, "job"), 32, name).hex() for name in ("digest", "roster", "bundle")
        }
        return Order(
            project=matching(fields, "project", _NAME),
            run=matching(fields, "run", _RUN),
            words=tuple(words),
            issued=whole(fields, "issued"),
            expires=whole(fields, "expires"),
            nonce=hexadecimal(text(fields, "nonce", "job"), 16, "nonce").hex(),
            statement=_statement(fields["statement"]),
            protocol=whole(fields, "protocol"),
            **digests,
        )


def verified(content: str, signature: str, membership: Membership, bundle: str, now: float | None = None) -> Order:
    """Return the order if it is the consortium's, for these members, this bundle and this time.

    Args:
        content: as it arrived.
        signature: hexadecimal, as it arrived.
        membership: the approved one.
        bundle: SHA-256 of the bundle that came with it, already equal to the one the installed package predicts.
        now: seconds since 1970; None for the clock's.

    Raises:
        TrustError: it is not.

    """
    if len(content) > LIMIT or not content.isascii():
        raise TrustError("The job is too long or no ASCII.", _ADVICE)
    proof = hexadecimal(signature, 64, "signature of a job")
    if not is_signed(membership.consortium, proof, PURPOSE, content.encode("ascii")):
        raise TrustError("The job is not signed by the consortium.", _ADVICE)
    order, clock = Order.parse(content), time.time() if now is None else now
    expected = {
        "project": membership.project,
        "roster": membership.roster.digest.hex(),
        "bundle": bundle,
        "protocol": PROTOCOL_VERSION,
    }
    for name, value in expected.items():
        if getattr(order, name) != value:
            raise TrustError(
                f"The job names another {name} than this site.", "Use the same kit and release everywhere."
            )
    if order.issued > clock + _CLOCKS:
        raise TrustError("The job was signed in the future.", "Set the clocks of this machine and of the lead's.")
    if clock > order.expires:
        raise TrustError("The job has expired.", _ADVICE)
    return order


def _statement(fields: Any) -> Statement | None:
    try:
        return Statement.parse(fields)
    except ValueError as fault:
        raise TrustError(f"The job's statement of a sweep is malformed: {fault}.", _ADVICE) from fault


def _is_word(word: Any) -> bool:
    return isinstance(word, str) and len(word) <= _LONGEST_WORD and word.isprintable()
