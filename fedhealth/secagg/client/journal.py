"""A site's state: a journal that must survive every crash, and secrets that must never be copied.

If the secrets are lost, a new epoch is needed. If the journal were lost, a lead could repeat a request with another
list of survivors; therefore the journal is fsynced before any message that it records leaves the site.
"""

import json
from dataclasses import dataclass
from typing import Any

from fedhealth.errors import SecureAggregationError
from fedhealth.secagg.protocol.store import StateStore

JOURNAL = "journal"
SECRETS = "secrets"


@dataclass(frozen=True)
class Journal:
    """Counters and past replies; contains no key.

    Args:
        epoch: of the latest own announcement.
        peers: (site, epoch, SHA-256 of its announcement) as accepted last.
        exchange: the latest accepted.
        pin: digest of what all attempts of that exchange share (members, base cohort, t, model, training directives).
        attempt: the latest burned of that exchange.
        descriptor: of that attempt.
        vector: digest of the name of the vector that it uploads (see `protocol.vector_name`).
        model: digest of the model and the history that the vector was computed from.
        abandoned: ctx of that attempt, if this site has promised never to answer it.
        signed_survivors: the survivor list signed in that exchange.
        unmasked_survivors: the survivor list of the UNMASK reply in that exchange.
        unmask_reply: the bytes of that reply.
        models: (digest, vectors that were asked for with it).
        unshown: whether what the others sealed to this site in that attempt was not shown to it yet.
        announced: whether this site has announced a key since that attempt.

    """

    epoch: int = 0
    peers: tuple[tuple[str, int, bytes], ...] = ()
    exchange: int = 0
    pin: bytes = b""
    attempt: int = 0
    descriptor: bytes = b""
    vector: bytes = b""
    model: bytes = b""
    abandoned: bytes = b""
    signed_survivors: tuple[str, ...] = ()
    unmasked_survivors: tuple[str, ...] = ()
    unmask_reply: bytes = b""
    models: tuple[tuple[bytes, int], ...] = ()
    unshown: bool = False
    announced: bool = False


@dataclass(frozen=True)
class Secrets:
    """Keys in use.

    Args:
        announced: the own announcement that the chains belong to.
        members: SHA-256 over the announcements of all members that the chains were made with.
        exchange: the exchange that the chain keys belong to.
        chains: (site, chain key), the site's own included.
        pending: an announcement that is not yet used.
        private: its X25519 private key; erased once the chains exist.

    """

    announced: bytes = b""
    members: bytes = b""
    exchange: int = 0
    chains: tuple[tuple[str, bytes], ...] = ()
    pending: bytes = b""
    private: bytes = b""


def load_journal(store: StateStore) -> Journal:
    """Read the journal; an empty one when there is none."""
    return parse_journal(store.get(JOURNAL))


def parse_journal(data: bytes | None) -> Journal:
    """Return the journal with this content; an empty one for None."""
    return Journal(**_parse_fields(data, JOURNAL))


def load_secrets(store: StateStore) -> Secrets:
    """Read the secrets; empty ones when there are none."""
    return Secrets(**_parse_fields(store.get(SECRETS), SECRETS))


def save_journal(store: StateStore, journal: Journal) -> None:
    """Write the journal durably."""
    store.put(JOURNAL, json.dumps(vars(journal), default=_encode_bytes).encode())


def save_secrets(store: StateStore, secrets: Secrets) -> None:
    """Write the secrets over the old ones."""
    store.put(SECRETS, json.dumps(vars(secrets), default=_encode_bytes).encode())


def _encode_bytes(value: bytes) -> dict[str, str]:
    return {"hex": value.hex()}


def _parse_fields(data: bytes | None, name: str) -> dict[str, Any]:
    if data is None:
        return {}
    try:
        fields: dict[str, Any] = json.loads(data)
        return {key: _decode(value) for key, value in fields.items()}
    except (ValueError, KeyError, AttributeError):
        raise SecureAggregationError(
            f"the secure-aggregation {name} of this site is damaged",
            "Restore the journal from its disk; after losing the secrets, delete them and announce again.",
        ) from None


def _decode(value: Any) -> Any:
    """Return a field's value: lists are tuples, and what `_encode_bytes` made is bytes again."""
    if isinstance(value, list):
        return tuple([_decode(item) if isinstance(item, list | dict) else item for item in value])
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value
