"""A site's own statements, and what others show of them: this is how a restored machine notices that it is one.

A site knows a statement if its book or its audit log holds it, or if a recovery has accounted for it, always by the
digest and never by the number alone. Each one that it does not know is evidence: it is kept until a recovery has booked
what it records. What is kept of the other sites is in `peer_statements`.

Guarantee (docs/secure-aggregation.md, "A restored machine"): two sets of t sites share an honest one, so whoever has
opened a sum with a vector of this site has let an honest member keep the statement that came with it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.consortium.roster import Roster
from fedhealth.errors import PrivacyError
from fedhealth.secagg.client.book_state import (
    BookState,
    add_accounted,
    add_confirmed,
    decode_stored,
    name_stored,
    select_unlisted,
)
from fedhealth.secagg.client.peer_statements import PeerStatements
from fedhealth.secagg.client.site_history import SiteHistory
from fedhealth.secagg.errors import refuse_unless
from fedhealth.secagg.protocol.messages import LEAD, KeyAnnouncement
from fedhealth.secagg.protocol.statement import (
    MAX_SHOWN,
    ShownNames,
    StateNotice,
    StateStatement,
    digest_statement,
    is_genuine_statement,
    seal_record,
    verify_statement,
)
from fedhealth.secagg.protocol.store import StateStore

RESTORED = "this machine was restored from an older copy"
ADVICE = "Run `fedhealth site recover`. Until then this site declines everything."
_BOOK = "book"
_MAX_RECENT = 32  # own statements that the next one lists


class RestoredSiteError(PrivacyError):
    """This site's own state is older than a statement that it has signed; nothing may be booked or sent."""

    def __init__(self) -> None:
        super().__init__(RESTORED, ADVICE)


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
        self._peers = PeerStatements(store, roster)

    def issue_statement(self, run: str, exchange: int) -> bytes:
        """Sign a new statement; it is on the disk when this returns.

        Raises:
            RestoredSiteError: this machine was restored from an older copy.

        """
        with self._store.lock():
            self._require_current()
            return self._write_statement(self.load_state(), run, exchange)

    def require_current(self) -> None:
        """Check that this machine was not restored from an older copy, as far as it knows.

        Raises:
            RestoredSiteError: it was.

        """
        with self._store.lock():
            self._require_current()

    def learn_statements(self, shown: Iterable[tuple[str, bytes]]) -> None:
        """Take note of statements, each with the party that shows it; on return they are on the disk.

        Those of other sites are kept if there is room.

        Raises:
            RestoredSiteError: some are of this very site, and this disk does not know them; they are kept as evidence.
            ProtocolViolationError: its owner did not sign it; nothing was noted.

        """
        self._learn(list(shown))

    def learn_carried(self, carried: Iterable[bytes]) -> None:
        """Take note of what the lead shows, see `learn_statements`; what its owner never signed is ignored."""
        self._learn([(LEAD, data) for data in carried if is_genuine_statement(data, self._roster)])

    def learn_announcements(self, members: Sequence[KeyAnnouncement], carried: Iterable[bytes]) -> None:
        """Take note of what the members announce, see `learn_statements`.

        Args:
            members: verified.
            carried: by the lead: this site's statements that the members name.

        Raises:
            ProtocolViolationError: one of these is missing; nothing was noted.

        """
        own = {digest_statement(data): data for data in carried}
        named = [(member.site, name) for member in members for name in member.get_shown_names(self._site)]
        is_whole = all(name in own for _, name in named)
        refuse_unless(is_whole, "a statement that a member names is missing", rule="R13", blame=(LEAD,))
        shown = [(sender, own[name]) for sender, name in named]
        self._learn([*((member.site, member.statement) for member in members), *shown])

    def learn_notices(self, notices: Mapping[str, bytes], *, must_keep: bool) -> None:
        """Take note of what the dealers tell this site in their envelopes, see `learn_statements`.

        Args:
            notices: by dealer.
            must_keep: whether this site is about to open the vectors that the dealers' own statements came with.

        Raises:
            ProtocolViolationError: also if it must keep them and has no room. This site then opens nothing; its own
                envelopes show the owner what to list.

        """
        shown = []
        for dealer, data in notices.items():
            notice = StateNotice.from_bytes(data, dealer)
            own = StateStatement.from_bytes(notice.own, dealer)
            refuse_unless(own.site == dealer, f"{dealer} sent no statement of its own", rule="R13", blame=(dealer,))
            few = len(notice.shown) <= MAX_SHOWN
            refuse_unless(few, f"{dealer} shows more statements than a site keeps", rule="R13", blame=(dealer,))
            shown += [(dealer, each) for each in (notice.own, *notice.shown)]
        self._learn(shown, must_keep=must_keep)

    def load_known_statements(self) -> dict[str, tuple[bytes, ...]]:
        """Return by site the statements of the others that no later one lists, as far as this site knows."""
        return self._peers.load_kept()

    def name_known_statements(self) -> ShownNames:
        """Return the digests of these statements of all other sites, sorted."""
        return self._peers.name_kept()

    def list_known_statements(self) -> tuple[bytes, ...]:
        """Return these statements of all other sites."""
        return self._peers.list_all()

    def load_state(self) -> BookState:
        """Return what is on the disk."""
        data = self._store.get(_BOOK)
        return BookState(**json.loads(data)) if data else BookState()

    def find_lost_statements(self) -> tuple[StateStatement, ...]:
        """Return the own statements that tell what the ledgers may lack, in the order of their numbers.

        These are all that this disk does not know, and the latest of the book if a ledger does not hold what it names.
        If nothing is missing, the latest of the book, unless a recovery has accounted for it: a request that followed
        it may be lost.
        """
        with self._store.lock():
            state = self._note_last_statement()
        own = [state.own] if state.own and self._may_lack_something(state) else []
        lost = select_unlisted([*state.evidence, *own])
        return tuple(sorted(map(decode_stored, lost), key=lambda each: each.counter))

    def find_newest_statement(self) -> StateStatement | None:
        """Return the own statement with the highest number that others showed and this disk does not know.

        Without one, the latest of the book: a restored site may have gone on, and that one says nothing about what is
        lost. None if there is neither.
        """
        with self._store.lock():
            state = self._note_last_statement()
        found = map(decode_stored, state.evidence or ([state.own] if state.own else []))
        return max(found, key=lambda each: each.counter, default=None)

    def finish_recovery(self, accounted: Sequence[StateStatement]) -> None:
        """Go on above all known numbers, with a statement of the recovered state.

        Args:
            accounted: what these have booked is now in the ledgers. Others that this disk does not know stop the site
                again.

        """
        with self._store.lock():
            before = self.load_state()
            recovered = add_accounted(before, accounted, self._history.find_last_counter())
            own = [decode_stored(before.own)] if before.own else []
            newest = max(accounted or own, key=lambda each: each.counter, default=None)
            run, exchange = (newest.run, newest.exchange) if newest is not None else ("", 0)
            data = self._write_statement(recovered, run, exchange)
            state = self.load_state()  # no request followed this one: a second recovery books nothing for it
            self._save(replace(state, accounted=[*state.accounted, digest_statement(data).hex()]))

    def _write_statement(self, state: BookState, run: str, exchange: int) -> bytes:
        counter = state.counter + 1
        record = seal_record(self._identity, self._site, counter, self._history.build_record())
        known = tuple(map(bytes.fromhex, dict.fromkeys([*state.confirmed, *state.recent.values()])))
        heads = self._history.read_heads()
        statement = StateStatement(self._site, counter, run, exchange, heads, record, known).sign(self._identity)
        data = statement.to_bytes()
        recent = dict(list(state.recent.items())[1 - _MAX_RECENT :]) | {str(counter): digest_statement(data).hex()}
        self._save(replace(state, own=data.hex(), counter=counter, recent=recent))
        self._history.log_statement(statement)
        return data

    def _require_current(self) -> None:
        state = self._note_last_statement()
        is_current = not state.evidence and self._history.find_last_counter() <= state.counter
        if not is_current or not self._holds_own_heads(state):
            raise RestoredSiteError

    def _holds_own_heads(self, state: BookState) -> bool:
        return not state.own or self._history.holds_heads(decode_stored(state.own).heads)

    def _may_lack_something(self, state: BookState) -> bool:
        is_accounted = name_stored(state.own) in state.accounted
        return not self._holds_own_heads(state) or not (state.evidence or is_accounted)

    def _note_last_statement(self) -> BookState:
        """Return what is on the disk; the statement beside the audit log is evidence like those that others show."""
        data, state = self._history.load_last_statement(), self.load_state()
        if not data or self._is_known(state, data):
            return state
        return self._keep_evidence(state, [data])

    def _learn(self, shown: Sequence[tuple[str, bytes]], *, must_keep: bool = False) -> None:
        found = {data: verify_statement(data, self._roster, sender) for sender, data in shown}
        others = {data: each for data, each in found.items() if each.site != self._site}
        own = {data: sender for sender, data in shown if data not in others}
        with self._store.lock():
            full = self._peers.keep_statements(others if must_keep else self._peers.select_news(others))
            self._check_own(own)
        has_room = not (must_keep and full)
        refuse_unless(has_room, f"{', '.join(full)} does not list enough of what it signed", rule="R13", blame=full)

    def _check_own(self, shown: Mapping[bytes, str]) -> None:
        """Keep all own statements that this disk does not know as evidence, and raise `RestoredSiteError`.

        The others are listed by the next statement if a member shows them, so that it may forget them. What only the
        lead shows is not listed: it could leave no room for what the members show.
        """
        state = self.load_state()
        if unknown := [data for data in shown if not self._is_known(state, data)]:
            self._keep_evidence(state, unknown)
            raise RestoredSiteError
        names = [digest_statement(data).hex() for data, sender in shown.items() if sender != LEAD]
        if (confirmed := add_confirmed(state, names)) != state:
            self._save(confirmed)

    def _is_known(self, state: BookState, data: bytes) -> bool:
        """Return whether this disk knows an own statement; old ones are looked up in the audit log."""
        found, name = StateStatement.from_bytes(data, "the own site"), digest_statement(data).hex()
        if name in state.accounted:
            return True
        if (known := state.recent.get(str(found.counter))) is not None:
            return known == name
        return found.counter <= state.counter and self._history.holds_statement(name)

    def _keep_evidence(self, state: BookState, unknown: Sequence[bytes]) -> BookState:
        evidence = select_unlisted([*state.evidence, *(data.hex() for data in unknown)])
        if evidence != state.evidence:
            state = replace(state, evidence=evidence)
            self._save(state)
        return state

    def _save(self, state: BookState) -> None:
        self._store.put(_BOOK, json.dumps(asdict(state)).encode())
