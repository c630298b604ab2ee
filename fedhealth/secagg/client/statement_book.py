"""A site's own statements and those of the others: this is how a restored machine notices that it is one.

Of another site, the latest statement is kept, and every earlier one that it has not listed since: if that site was
restored and has gone on, only these show what it has forgotten.

Guarantee (docs/secure-aggregation.md, "A restored machine"): two sets of t sites share an honest one, so whoever has
opened a sum with a vector of this site has let an honest member learn the statement that came with it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.consortium.roster import Roster
from fedhealth.errors import PrivacyError
from fedhealth.secagg.errors import ProtocolViolationError, refuse_unless
from fedhealth.secagg.protocol.statement import (
    StateHeads,
    StateNotice,
    StateStatement,
    digest_statement,
    seal_record,
    verify_statement,
)
from fedhealth.secagg.protocol.store import StateStore

RESTORED = "this machine was restored from an older copy"
ADVICE = "Run `fedhealth site recover`. Until then this site declines everything."
_BOOK, _PEERS = "book", "peers"
_MAX_RECENT = 32  # own statements that the next one lists
_MAX_CONFIRMED = 8  # likewise, of the older ones that others have shown
_MAX_UNLISTED = 8  # statements that are kept of another site; of more than these the newest but one is forgotten


class RestoredSiteError(PrivacyError):
    """This site's own state is older than a statement that it has signed; nothing may be booked or sent."""

    def __init__(self) -> None:
        super().__init__(RESTORED, ADVICE)


class SiteHistory(Protocol):
    """What a site's disk holds: ledgers and audit log."""

    def read_heads(self) -> StateHeads:
        """Return the ends of the chains."""

    def holds_heads(self, heads: StateHeads) -> bool:
        """Return whether the chains contain all of these lines."""

    def find_last_counter(self) -> int:
        """Return the counter of the last own statement in the audit log; 0 without one."""

    def holds_statement(self, statement: StateStatement) -> bool:
        """Return whether the audit log holds this very statement; true where there is none."""

    def build_record(self) -> bytes:
        """Return what the site must know about itself after a restore."""

    def log_statement(self, statement: StateStatement) -> None:
        """Write a new statement to the audit log."""


@dataclass(frozen=True)
class BookState:
    """The site's memory of its own statements.

    Args:
        own: the latest, encoded in hexadecimal; empty before the first.
        counter: of the latest.
        recent: digests of the latest ones, by counter.
        confirmed: digests of older ones that were shown and that this disk knows.
        floor: statements up to this counter are accounted for by a recovery.
        evidence: the newest own statement that this disk does not know, in hexadecimal; empty if there is none.

    """

    own: str = ""
    counter: int = 0
    recent: dict[str, str] = field(default_factory=dict)
    confirmed: list[str] = field(default_factory=list)
    floor: int = 0
    evidence: str = ""


class StatementBook:
    """One site's book, shared by all its runs.

    Args:
        store: durable.
        site: own id.
        identity: own Ed25519 key.
        roster: the approved members.
        history: the site's chains.

    """

    def __init__(
        self, store: StateStore, site: str, identity: Ed25519PrivateKey, roster: Roster, history: SiteHistory
    ) -> None:
        self._store, self._site, self._identity = store, site, identity
        self._roster, self._history = roster, history

    def issue_statement(self, run: str, exchange: int) -> bytes:
        """Sign a new statement; it is on the disk when this returns.

        Raises:
            RestoredSiteError: this machine was restored from an older copy.

        """
        with self._store.lock():
            state = self._require_current()
            counter = state.counter + 1
            record = seal_record(self._identity, self._site, counter, self._history.build_record())
            heads = self._history.read_heads()
            known = tuple(map(bytes.fromhex, (*state.confirmed, *state.recent.values())))
            statement = StateStatement(self._site, counter, run, exchange, heads, record, known).sign(self._identity)
            data = statement.to_bytes()
            recent = dict(list(state.recent.items())[1 - _MAX_RECENT :]) | {str(counter): digest_statement(data).hex()}
            self._save(replace(state, own=data.hex(), counter=counter, recent=recent))
        self._history.log_statement(statement)
        return data

    def require_current(self) -> None:
        """Check that this machine was not restored from an older copy, as far as it knows.

        Raises:
            RestoredSiteError: it was.

        """
        with self._store.lock():
            self._require_current()

    def learn_statements(self, shown: Iterable[tuple[str, bytes]]) -> None:
        """Take note of statements, each with the party that shows it; on return they are on the disk.

        Raises:
            RestoredSiteError: one is a newer one of this very site; the newest is kept as evidence.
            ProtocolViolationError: its owner did not sign it; nothing was noted.

        """
        found = {data: verify_statement(data, self._roster, sender) for sender, data in shown}
        with self._store.lock():
            self._keep_peers({data: each for data, each in found.items() if each.site != self._site})
            self._check_own({data: each for data, each in found.items() if each.site == self._site})

    def learn_notices(self, notices: Mapping[str, bytes]) -> None:
        """Take note of what the dealers tell this site in their envelopes; see `learn_statements`."""
        shown = []
        for dealer, data in notices.items():
            notice = StateNotice.from_bytes(data, dealer)
            own = StateStatement.from_bytes(notice.own, dealer)
            refuse_unless(own.site == dealer, f"{dealer} sent no statement of its own", rule="R13", blame=(dealer,))
            shown += [(dealer, each) for each in (notice.own, *notice.shown)]
        self.learn_statements(shown)

    def get_known_statements(self, site: str) -> tuple[bytes, ...]:
        """Return the oldest statement of another site that it has not listed since, and the latest; each once.

        Empty if none is known, or if that site has a new key.
        """
        found = self._select_genuine(self._load_peers().get(site, ()))
        return tuple(dict.fromkeys([*found[:1], *found[-1:]]))

    def list_known_statements(self) -> tuple[bytes, ...]:
        """Return of every other approved site, sorted, the oldest statement that it has not listed since."""
        return tuple(data for _, kept in sorted(self._load_peers().items()) for data in self._select_genuine(kept)[:1])

    def _select_genuine(self, kept: Iterable[bytes]) -> list[bytes]:
        return [data for data in kept if _is_genuine(data, self._roster)]

    def load_state(self) -> BookState:
        """Return what is on the disk."""
        data = self._store.get(_BOOK)
        return BookState(**json.loads(data)) if data else BookState()

    def find_lost_statement(self) -> StateStatement | None:
        """Return the newest own statement that others showed and this disk does not know; else the latest of the disk.

        A restored site may have gone on: its own latest then has the higher number and says nothing about what is lost.
        """
        state = self.load_state()
        return _decode_stored(state.evidence) or _decode_stored(state.own)

    def finish_recovery(self, accounted: int, highest: int) -> None:
        """Go on above all known numbers.

        Args:
            accounted: what statements up to this number have booked is now in the ledgers. Others that this disk does
                not know stop the site again.
            highest: number that is known to be used.

        """
        with self._store.lock():
            state = self.load_state()
            counter = max(state.counter, accounted, highest)
            self._save(BookState(counter=counter, recent=state.recent, floor=max(state.floor, accounted)))

    def _require_current(self) -> BookState:
        state = self.load_state()
        own = _decode_stored(state.own)
        is_current = not state.evidence and self._history.find_last_counter() <= state.counter
        if not is_current or (own is not None and not self._history.holds_heads(own.heads)):
            raise RestoredSiteError
        return state

    def _check_own(self, shown: Mapping[bytes, StateStatement]) -> None:
        """Keep the newest statement that this disk does not know as evidence, and raise `RestoredSiteError`."""
        state = self.load_state()
        unknown = {data: each for data, each in shown.items() if self._is_unknown(state, each, data)}
        if not unknown:
            self._confirm(state, shown)
            return
        newest, before = max(unknown, key=lambda data: unknown[data].counter), _decode_stored(state.evidence)
        if before is None or before.counter < unknown[newest].counter:
            self._save(replace(state, evidence=newest.hex()))
        raise RestoredSiteError

    def _is_unknown(self, state: BookState, found: StateStatement, data: bytes) -> bool:
        """Return whether this disk does not know an own statement; old ones are looked up in the audit log."""
        if found.counter <= state.floor:
            return False
        known = state.recent.get(str(found.counter))
        if known is not None:
            return known != digest_statement(data).hex()
        return found.counter > state.counter or not self._history.holds_statement(found)

    def _confirm(self, state: BookState, shown: Iterable[bytes]) -> None:
        """Let the next statement list known ones that were shown, so that the others may forget them."""
        listed = {*state.recent.values(), *state.confirmed}
        if added := [name for data in shown if (name := digest_statement(data).hex()) not in listed]:
            self._save(replace(state, confirmed=[*state.confirmed, *added][-_MAX_CONFIRMED:]))

    def _keep_peers(self, shown: Mapping[bytes, StateStatement]) -> None:
        """Keep of every other site the latest statement and those that it does not list, in one write."""
        before = self._load_peers()
        peers = dict(before)
        for data, each in sorted(shown.items(), key=lambda item: item[1].counter):
            peers[each.site] = _add_statement(peers.get(each.site, []), data, each)
        if peers != before:
            encoded = {site: [data.hex() for data in kept] for site, kept in peers.items()}
            self._store.put(_PEERS, json.dumps(encoded).encode())

    def _load_peers(self) -> dict[str, list[bytes]]:
        """Return the kept statements of each other site, the latest last."""
        data = self._store.get(_PEERS)
        stored: dict[str, list[str]] = json.loads(data) if data else {}
        return {site: list(map(bytes.fromhex, kept)) for site, kept in stored.items()}

    def _save(self, state: BookState) -> None:
        self._store.put(_BOOK, json.dumps(asdict(state)).encode())


def _decode_stored(encoded: str) -> StateStatement | None:
    return StateStatement.from_bytes(bytes.fromhex(encoded), "this site's own disk") if encoded else None


def _is_genuine(data: bytes, roster: Roster) -> bool:
    """Return whether a stored statement is valid with the members approved today; a member may have a new key."""
    try:
        verify_statement(data, roster, "this site's own disk")
    except ProtocolViolationError:
        return False
    return True


def _add_statement(kept: Sequence[bytes], data: bytes, found: StateStatement) -> list[bytes]:
    """Return the statements of a site to keep, the latest last: all that this newer one lists are dropped."""
    latest = _decode_stored(kept[-1].hex()) if kept else None
    if latest is not None and found.counter <= latest.counter:
        return list(kept)
    unlisted = [each for each in kept if digest_statement(each) not in found.known]
    return [*unlisted[: _MAX_UNLISTED - 1], data]
