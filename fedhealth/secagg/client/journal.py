"""What a site remembers: a journal that must survive anything, and secrets that must not be copied anywhere.

Losing the secrets costs a new epoch. Losing the journal would let a lead ask again what was already answered, so the
journal is fsynced before anything that it records leaves the site.
"""

import json
from dataclasses import dataclass
from typing import Any

from fedhealth.errors import SecureAggregationError
from fedhealth.secagg.protocol.store import Store

JOURNAL = "journal"
SECRETS = "secrets"


@dataclass(frozen=True)
class Journal:
    """Counters and promises; holds no key.

    Args:
        epoch: of the latest own announcement.
        peers: (site, epoch, SHA-256 of its announcement) as last accepted.
        exchange: the latest accepted.
        pin: what every attempt of that exchange must share (members, base cohort, t, model, directives).
        attempt: the latest burned of that exchange.
        directive: of that attempt.
        endorsed: the survivor list signed in that attempt.
        survivors: the survivor list answered in that exchange.
        answer: the bytes that answered it.
        models: (digest, exchanges in which it was accepted).

    """

    epoch: int = 0
    peers: tuple[tuple[str, int, bytes], ...] = ()
    exchange: int = 0
    pin: bytes = b""
    attempt: int = 0
    directive: bytes = b""
    endorsed: tuple[str, ...] = ()
    survivors: tuple[str, ...] = ()
    answer: bytes = b""
    models: tuple[tuple[bytes, int], ...] = ()


@dataclass(frozen=True)
class Secrets:
    """Keys in use.

    Args:
        announced: the own announcement that the chains belong to.
        members: SHA-256 over the announcements of all members that the chains were made with.
        exchange: the exchange the chain keys are at.
        chains: (site, chain key), the site's own included.
        pending: an announcement not yet used.
        private: its X25519 private key; erased once the chains exist.

    """

    announced: bytes = b""
    members: bytes = b""
    exchange: int = 0
    chains: tuple[tuple[str, bytes], ...] = ()
    pending: bytes = b""
    private: bytes = b""


def load_journal(store: Store) -> Journal:
    """Read the journal; an empty one when there is none."""
    return Journal(**_load(store, JOURNAL))


def load_secrets(store: Store) -> Secrets:
    """Read the secrets; empty ones when there are none."""
    return Secrets(**_load(store, SECRETS))


def save_journal(store: Store, journal: Journal) -> None:
    """Write the journal durably."""
    store.write(JOURNAL, json.dumps(vars(journal), default=_hex).encode())


def save_secrets(store: Store, secrets: Secrets) -> None:
    """Write the secrets; the old ones are gone."""
    store.write(SECRETS, json.dumps(vars(secrets), default=_hex).encode())


def _hex(value: bytes) -> dict[str, str]:
    return {"hex": value.hex()}


def _load(store: Store, name: str) -> dict[str, Any]:
    data = store.read(name)
    if data is None:
        return {}
    try:
        fields: dict[str, Any] = json.loads(data, object_hook=_unhex)
    except ValueError:
        raise SecureAggregationError(
            f"the secure-aggregation {name} of this site is damaged",
            "Restore the journal from its disk; after losing the secrets, delete them and announce again.",
        ) from None
    return {key: _tuples(value) for key, value in fields.items()}


def _unhex(value: dict[str, Any]) -> Any:
    return bytes.fromhex(value["hex"]) if set(value) == {"hex"} else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
