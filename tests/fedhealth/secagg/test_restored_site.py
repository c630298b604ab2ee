"""A site whose disk is older than what it has signed notices it, whatever the lead does; no other site is harmed."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.secagg.client.statement_book import RestoredSiteError
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives import keys
from fedhealth.secagg.protocol.messages import KeyAnnouncement
from fedhealth.secagg.protocol.statement import StateStatement, unseal_record, verify_statement
from tests.fedhealth.secagg.federation import RUN, Federation, name

VICTIM = name(1)
CLOCK = itertools.count(2000)


class Backup:
    """A copy of one site's disk; its keys on tmpfs are kept or lost."""

    def __init__(self, federation: Federation, site: str = VICTIM) -> None:
        self.federation, self.site = federation, site
        self.copies = [dict(store._values) for store in self._stores()]
        self.lines = list(federation.histories[site].lines)
        self.statements = list(federation.histories[site].statements)

    def _stores(self):
        return self.federation.journals[self.site], self.federation.books[self.site]

    def restore(self, *, with_keys: bool = True, with_book: bool = True) -> None:
        for store, copy in list(zip(self._stores(), self.copies, strict=True))[: 1 + with_book]:
            store._values = dict(copy)
        self.federation.histories[self.site].lines = list(self.lines)
        self.federation.histories[self.site].statements = list(self.statements)
        if not with_keys:
            self.federation.secrets[self.site]._values = {}
        self.federation.restart(self.site)._clock = lambda: next(CLOCK)


def run_rounds(federation: Federation, first: int, last: int) -> None:
    for exchange in range(first, last + 1):
        for site in federation.ids:
            federation.histories[site].book(b"round %d" % exchange)
        federation.round(federation.plan(exchange), federation.ids, federation.ids)


def announce_again(federation: Federation) -> None:
    for site in federation.ids:
        federation.server.register(federation.sites[site].announce(federation.towers[site]), site)


@pytest.mark.parametrize("n", [3, 4, 7])
def test_after_a_reboot_the_members_announcements_tell_before_anything_is_masked(n):
    """The keys are gone, so every member announces again, and shows what it knows."""
    federation = Federation(n)
    run_rounds(federation, 1, 1)
    backup = Backup(federation)
    run_rounds(federation, 2, 3)
    backup.restore(with_keys=False)
    announce_again(federation)
    plan = federation.plan(4)
    descriptor = federation.server.open_attempt(plan)
    with pytest.raises(RestoredSiteError, match="restored from an older copy"):
        federation.accept(VICTIM, descriptor, plan)
    for site in federation.ids:
        if site != VICTIM:
            federation.accept(site, descriptor, plan)
    with pytest.raises(RestoredSiteError):  # and from now on it declines at once
        federation.sites[VICTIM].announce(federation.towers[VICTIM])
    newest = federation.book(VICTIM).find_lost_statement()
    assert (newest.run, newest.exchange) == (RUN, 3)
    assert unseal_record(federation.identities[VICTIM], newest) == b"4"


def test_with_its_keys_it_notices_one_exchange_late_whatever_the_lead_withholds():
    """Only the home was restored. No announcement is new, but every envelope shows the statement; nobody can cut it."""
    federation = Federation(4)
    backup = Backup(federation)
    run_rounds(federation, 1, 2)
    backup.restore()
    plan = federation.plan(3)
    federation.collect(plan, federation.ids)
    federation.server.fix_survivors()
    requests = federation.server.unmask_requests()
    with pytest.raises(RestoredSiteError):
        federation.sites[VICTIM].reply_unmask(requests[VICTIM])
    federation.unmask([site for site in federation.ids if site != VICTIM])
    assert federation.server.open_sums().contributors
    with pytest.raises(RestoredSiteError):
        federation.accept(VICTIM, federation.server.open_attempt(federation.plan(4)), federation.plan(4))


@pytest.mark.parametrize(("n", "colluders"), [(4, 1), (7, 2), (10, 3)])
def test_colluders_that_withhold_do_not_help(n, colluders):
    """They show nothing of the victim; an honest member that answered before is in every set of t."""
    federation = Federation(n)
    run_rounds(federation, 1, 1)
    backup = Backup(federation)
    run_rounds(federation, 2, 2)
    backup.restore(with_keys=False)
    quiet = [site for site in federation.ids if site != VICTIM][:colluders]
    for site in quiet:
        federation.books[site].delete("peers")
    announce_again(federation)
    threshold = federation.server.open_attempt(federation.plan(3)) and federation.server.context.descriptor.threshold
    base = sorted({VICTIM, *quiet, *federation.ids[-(threshold - colluders - 1) :]})[:threshold]
    plan = federation.plan(4, base=base, cohort=base)
    with pytest.raises(RestoredSiteError):
        federation.accept(VICTIM, federation.server.open_attempt(plan), plan)


def test_a_ledger_alone_that_is_older_is_noticed_by_the_own_book():
    federation = Federation(3)
    lines = list(federation.histories[VICTIM].lines)
    run_rounds(federation, 1, 1)
    federation.histories[VICTIM].lines = lines
    plan = federation.plan(2)
    with pytest.raises(RestoredSiteError):
        federation.accept(VICTIM, federation.server.open_attempt(plan), plan)


def test_a_copy_that_went_on_is_noticed_by_a_number_used_twice():
    """The restored site signs the next number itself before it sees the lost one of the same number."""
    federation = Federation(3)
    backup = Backup(federation)
    lost = federation.book(VICTIM).issue_statement(RUN, 1)
    backup.restore()
    book = federation.book(VICTIM)
    for _ in range(3):
        book.issue_statement(RUN, 1)
    with pytest.raises(RestoredSiteError):
        book.learn_statements([(name(0), lost)])


@pytest.mark.parametrize("handshakes", [1, 40, 300])
def test_statements_of_a_restored_site_never_hide_what_it_has_forgotten(handshakes):
    """It goes on until its counter has passed the forgotten ones; every member learns its newest statement first."""
    federation = Federation(4)
    backup = Backup(federation)
    run_rounds(federation, 1, 2)
    backup.restore()
    for _ in range(handshakes):
        newest = federation.book(VICTIM).issue_statement(RUN, 0)
    for site in federation.ids:
        if site != VICTIM:
            federation.book(site).learn_statements([(VICTIM, newest)])
            shown = [(site, data) for data in federation.book(site).get_known_statements(VICTIM)]
            with pytest.raises(RestoredSiteError):
                federation.book(VICTIM).learn_statements(shown)
    with pytest.raises(RestoredSiteError):
        federation.book(VICTIM).require_current()


def test_an_old_statement_that_its_owner_knows_is_harmless_and_then_forgotten():
    """A member was away for so long that the owner's new statement does not list the one that the member keeps."""
    federation = Federation(3)
    owner, member = federation.book(VICTIM), federation.book(name(0))
    old = owner.issue_statement(RUN, 0)
    member.learn_statements([(VICTIM, old)])
    for _ in range(100):
        newest = owner.issue_statement(RUN, 0)
    member.learn_statements([(VICTIM, newest)])
    assert member.get_known_statements(VICTIM) == (old, newest)
    assert old in member.list_known_statements()
    owner.learn_statements((name(0), data) for data in member.get_known_statements(VICTIM))
    member.learn_statements([(VICTIM, answer := owner.issue_statement(RUN, 0))])
    assert member.get_known_statements(VICTIM) == (answer,)


def test_false_heads_of_another_site_are_refused_and_blamed():
    federation = Federation(3)
    genuine = StateStatement.from_bytes(federation.book(VICTIM).issue_statement(RUN, 0), VICTIM)
    forged = replace(genuine, counter=99).sign(federation.identities[name(0)]).to_bytes()
    liar = federation.book(name(0))
    liar._store.put("peers", b'{"%s": ["%s"]}' % (VICTIM.encode(), forged.hex().encode()))
    assert liar.get_known_statements(VICTIM) == ()  # an honest member shows nothing that is not genuine
    announcement = KeyAnnouncement.from_bytes(federation.sites[name(0)].announce({"shared": 1}), name(0))
    draft = replace(announcement, shown=(forged,))
    lie = replace(draft, signature=keys.sign_parts(federation.identities[name(0)], b"announce", draft.body()))
    with pytest.raises(ProtocolViolationError, match="never signed") as caught:
        federation.server.register(lie.to_bytes(), name(0))
    assert name(0) in caught.value.blame
    with pytest.raises(ProtocolViolationError, match="never signed"):
        federation.book(VICTIM).learn_statements([(name(0), forged)])
    federation.book(VICTIM).require_current()  # no denial of service


def test_a_false_statement_in_an_envelope_blames_its_dealer_and_burns_nothing(monkeypatch):
    federation = Federation(4)
    run_rounds(federation, 1, 1)
    other = federation.book(VICTIM).issue_statement(RUN, 0)
    monkeypatch.setattr(
        federation.sites[name(0)]._statements,
        "get_known_statements",
        lambda site: (other[:-1] + bytes([other[-1] ^ 1]),),
    )
    federation.collect(federation.plan(2), federation.ids)
    federation.server.fix_survivors()
    requests = federation.server.unmask_requests()
    with pytest.raises(ProtocolViolationError, match="never signed") as caught:
        federation.sites[VICTIM].reply_unmask(requests[VICTIM])
    assert caught.value.blame == (name(0),)
    federation.book(VICTIM).require_current()


def test_after_a_recovery_the_site_goes_on_and_a_withheld_statement_is_noticed_again():
    federation = Federation(3)
    backup = Backup(federation)
    run_rounds(federation, 1, 1)
    early = federation.book(VICTIM).find_lost_statement()
    run_rounds(federation, 2, 2)
    backup.restore(with_keys=False)
    book = federation.book(VICTIM)
    with pytest.raises(RestoredSiteError):
        book.learn_statements(
            [("the lead", early.to_bytes())]
        )  # the lead shows an old one, and people recover up to it
    book.finish_recovery(early.counter, 0)
    book.require_current()
    announce_again(federation)
    plan = federation.plan(3)
    with pytest.raises(RestoredSiteError):  # the members know better
        federation.accept(VICTIM, federation.server.open_attempt(plan), plan)
    book.finish_recovery(book.find_lost_statement().counter, 0)
    announce_again(federation)
    federation.round(federation.plan(4), federation.ids, federation.ids)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["round", "backup", "restore", "reboot"]), min_size=2, max_size=7))
def test_no_sum_opens_twice_with_a_forgetful_site(steps):
    """After any sequence: the site either knows its newest statement, or it has declined before the next opened sum."""
    federation, backup, exchange, opened, lost = Federation(3), None, 0, 0, False
    for step in steps:
        if step == "backup":
            backup = (Backup(federation), opened)
        elif step in ("restore", "reboot") and backup is not None:
            backup[0].restore(with_keys=step == "restore")
            lost = lost or opened > backup[1]
        elif step == "round":
            exchange += 1
            try:
                announce_again(federation)
                federation.histories[VICTIM].book(b"%d" % exchange)
                federation.round(federation.plan(exchange), federation.ids, federation.ids)
            except RestoredSiteError:
                assert lost
                return
            assert not lost
            opened += 1


def test_a_statement_tells_nobody_but_its_owner_what_the_ledgers_hold():
    federation = Federation(3)
    statement = verify_statement(federation.book(VICTIM).issue_statement(RUN, 0), federation.roster, VICTIM)
    assert unseal_record(federation.identities[VICTIM], statement) == b"1"
    assert unseal_record(federation.identities[name(0)], statement) is None
