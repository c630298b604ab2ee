"""A site's memory of its own statements, as a value; digests and statements are in hexadecimal, as on the disk."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from fedhealth.secagg.protocol.statement import StateStatement, digest_statement

_MAX_CONFIRMED = 32


@dataclass(frozen=True)
class BookState:
    """The site's memory of its own statements.

    Args:
        own: the latest; empty before the first.
        counter: of the latest.
        recent: digests of the latest ones, by counter.
        confirmed: digests of older ones that members have shown and that this disk knows.
        accounted: digests of those that recoveries have accounted for, and of the ones that these list.
        evidence: own statements that this disk does not know, without those that another one of them lists.

    """

    own: str = ""
    counter: int = 0
    recent: dict[str, str] = field(default_factory=dict)
    confirmed: list[str] = field(default_factory=list)
    accounted: list[str] = field(default_factory=list)
    evidence: list[str] = field(default_factory=list)


def add_confirmed(state: BookState, names: Iterable[str]) -> BookState:
    """Let the next statement list known ones, by their digests, so that the members may forget them."""
    confirmed = [name for name in dict.fromkeys([*state.confirmed, *names]) if name not in state.recent.values()]
    return replace(state, confirmed=confirmed[-_MAX_CONFIRMED:])


def add_accounted(state: BookState, accounted: Sequence[StateStatement], last_counter: int) -> BookState:
    """Return the state after a recovery from these statements, above the last number of the audit log."""
    names = [digest_statement(each.to_bytes()).hex() for each in accounted]
    listed = {name.hex() for each in accounted for name in each.known}
    return replace(
        add_confirmed(state, names),
        counter=max([state.counter, last_counter, *(each.counter for each in accounted)]),
        accounted=sorted({*state.accounted, *names, *listed}),
        evidence=[each for each in state.evidence if name_stored(each) not in names],
    )


def select_unlisted(statements: Iterable[str]) -> list[str]:
    """Return the statements that none of the others lists, each once: those record all that the listed ones do."""
    found = {name_stored(each): each for each in statements}
    listed = {name.hex() for each in found.values() for name in decode_stored(each).known}
    return [each for name, each in found.items() if name not in listed]


def decode_stored(encoded: str) -> StateStatement:
    """Decode a statement."""
    return StateStatement.from_bytes(bytes.fromhex(encoded), "this site's own disk")


def name_stored(encoded: str) -> str:
    """Return the digest of a statement."""
    return digest_statement(bytes.fromhex(encoded)).hex()
