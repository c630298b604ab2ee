"""A site whose disk is older than what it has signed notices it, whatever the lead does; no other site is harmed."""

import itertools
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.secagg.client.statement_book import RestoredSiteError
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives import keys
from fedhealth.secagg.protocol.messages import LEAD, KeyAnnouncement
from fedhealth.secagg.protocol.statement import (
    MAX_SHOWN,
    StateNotice,
    StateStatement,
    digest_statement,
    unseal_record,
    verify_statement,
)
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
        federation.server.register(federation.announce_site(site), site)


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
    newest = federation.book(VICTIM).find_newest_statement()
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
            shown = [(site, data) for data in federation.book(site).load_known_statements()[VICTIM]]
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
    assert member.load_known_statements()[VICTIM] == (old, newest)
    assert old in member.list_known_statements()
    owner.learn_statements((name(0), data) for data in member.load_known_statements()[VICTIM])
    member.learn_statements([(VICTIM, answer := owner.issue_statement(RUN, 0))])
    assert member.load_known_statements()[VICTIM] == (answer,)


def test_false_heads_of_another_site_are_refused_and_blamed():
    federation = Federation(3)
    genuine = StateStatement.from_bytes(federation.book(VICTIM).issue_statement(RUN, 0), VICTIM)
    forged = replace(genuine, counter=99).sign(federation.identities[name(0)]).to_bytes()
    liar = federation.book(name(0))
    liar._store.put("peers", b'{"%s": ["%s"]}' % (VICTIM.encode(), forged.hex().encode()))
    assert liar.load_known_statements().get(VICTIM, ()) == ()  # an honest member shows nothing that is not genuine
    announcement = KeyAnnouncement.from_bytes(federation.sites[name(0)].announce({"shared": 1}), name(0))
    draft = replace(announcement, shown=((VICTIM, (digest_statement(forged),)),))
    lie = replace(draft, signature=keys.sign_parts(federation.identities[name(0)], b"announce", draft.body()))
    for sent, problem in (
        ([forged], "never signed"),
        ([], "does not send"),
        ([announcement.statement], "does not send"),
    ):
        with pytest.raises(ProtocolViolationError, match=problem) as caught:
            federation.shown.keep_shown(lie.to_bytes(), sent, name(0))
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
        "load_known_statements",
        lambda: dict.fromkeys(federation.ids, (other[:-1] + bytes([other[-1] ^ 1]),)),
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
    early = federation.book(VICTIM).find_newest_statement()
    run_rounds(federation, 2, 2)
    backup.restore(with_keys=False)
    book = federation.book(VICTIM)
    with pytest.raises(RestoredSiteError):
        book.learn_statements(
            [("the lead", early.to_bytes())]
        )  # the lead shows an old one, and people recover up to it
    book.finish_recovery([early])
    book.require_current()
    announce_again(federation)
    plan = federation.plan(3)
    with pytest.raises(RestoredSiteError):  # the members know better
        federation.accept(VICTIM, federation.server.open_attempt(plan), plan)
    book.finish_recovery(book.find_lost_statements())
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


def issue_many(federation, number):
    """Let the victim sign that many statements, as for handshakes; return them."""
    return [federation.book(VICTIM).issue_statement(RUN, 0) for _ in range(number)]


def show_others(federation, statement):
    for site in federation.ids:
        if site != VICTIM:
            federation.book(site).learn_statements([(LEAD, statement)])


def is_opened(federation, exchange):
    """Run one exchange as far as the sites let it; return whether its sum can be opened."""
    federation.collect(federation.plan(exchange), federation.ids)
    federation.server.fix_survivors()
    enough = False
    for site, request in federation.server.unmask_requests().items():
        with suppress(ProtocolViolationError):
            enough = federation.server.add_unmask_reply(federation.sites[site].reply_unmask(request), site)
    return enough


def test_no_number_of_handshakes_makes_the_members_forget():
    """The lead fills what the members keep, and shows the victim old statements so that it lists none of these."""
    federation = Federation(4)
    assert is_opened(federation, 1)
    old = issue_many(federation, 40)
    for _ in range(9):
        show_others(federation, issue_many(federation, 33)[-1])
    backup, opened = Backup(federation), []
    for exchange in (2, 3, 4):
        federation.book(VICTIM).learn_statements((LEAD, data) for data in old)
        opened.append(is_opened(federation, exchange))
    assert opened == [False, True, True]  # no room at first; then the victim lists what it was shown
    backup.restore(with_keys=False)
    show_others(federation, issue_many(federation, 10)[-1])
    announce_again(federation)
    plan = federation.plan(5)
    with pytest.raises(RestoredSiteError):
        federation.accept(VICTIM, federation.server.open_attempt(plan), plan)


def test_a_member_without_room_opens_nothing_until_the_owner_lists_what_it_keeps():
    federation = Federation(3)
    owner, member = federation.book(VICTIM), federation.book(name(0))
    kept = []
    for _ in range(MAX_SHOWN):
        kept.append(issue_many(federation, 33)[-1])
        member.learn_notices({VICTIM: StateNotice(kept[-1], ()).to_bytes()}, must_keep=True)
    late = issue_many(federation, 33)[-1]
    with pytest.raises(ProtocolViolationError, match="R13: site-01 does not list enough") as caught:
        member.learn_notices({VICTIM: StateNotice(late, ()).to_bytes()}, must_keep=True)
    assert caught.value.blame == (VICTIM,)
    assert member.load_known_statements()[VICTIM] == tuple(kept)
    with pytest.raises(ProtocolViolationError, match="R13: site-00 shows more statements than a site keeps"):
        owner.learn_notices(
            {name(0): StateNotice(member.issue_statement(RUN, 0), (*kept, late)).to_bytes()}, must_keep=True
        )
    owner.learn_statements((name(0), data) for data in kept)
    member.learn_notices({VICTIM: StateNotice(answer := owner.issue_statement(RUN, 0), ()).to_bytes()}, must_keep=True)
    assert member.load_known_statements()[VICTIM] == (answer,)


def test_a_lower_number_that_came_with_a_vector_is_kept_too():
    """The victim was restored and has gone on: its new statement has a lower number than the one that is forgotten."""
    federation = Federation(3)
    backup, member = Backup(federation), federation.book(name(0))
    lost = issue_many(federation, 9)[-1]
    backup.restore()
    (fork,) = issue_many(federation, 1)
    for data in (lost, fork):
        member.learn_notices({VICTIM: StateNotice(data, ()).to_bytes()}, must_keep=True)
    assert member.load_known_statements()[VICTIM] == (lost, fork)
    assert federation.sites[name(0)].announce({"shared": 1})
    assert member.name_known_statements() == ((VICTIM, (digest_statement(lost), digest_statement(fork))),)


def test_all_forks_are_evidence_and_all_are_recovered():
    """The machine was restored twice; the numbers of the second fork are the higher ones."""
    federation = Federation(4)
    backup, book = Backup(federation), federation.book(VICTIM)
    first = issue_many(federation, 3)[-1]
    show_others(federation, first)
    backup.restore()
    second = issue_many(federation, 6)[-1]
    show_others(federation, second)
    backup.restore(with_keys=False)
    shown = [(name(0), data) for data in federation.book(name(0)).load_known_statements()[VICTIM]]
    assert [data for _, data in shown] == [first, second]
    for each in reversed(shown):
        with pytest.raises(RestoredSiteError):
            book.learn_statements([each])
    lost = book.find_lost_statements()
    assert [each.to_bytes() for each in lost] == [first, second]
    book.finish_recovery(lost[1:])
    with pytest.raises(RestoredSiteError):  # the first fork is not accounted for, though its number is lower
        book.require_current()
    book.finish_recovery(book.find_lost_statements())
    book.learn_statements(shown)
    show_others(federation, book.issue_statement(RUN, 0))
    assert len(federation.book(name(0)).load_known_statements()[VICTIM]) == 1


def test_the_lead_that_shows_many_lost_statements_hides_none():
    """They are checked together: an unknown one does not keep the others from being noted."""
    federation = Federation(3)
    other = federation.book(name(0)).issue_statement(RUN, 0)
    backup = Backup(federation)
    lost = issue_many(federation, 2)
    backup.restore()
    forged = lost[1][:-1] + bytes([lost[1][-1] ^ 1])
    with pytest.raises(RestoredSiteError):
        federation.book(VICTIM).learn_carried([lost[0], forged, lost[1], other])
    assert [each.to_bytes() for each in federation.book(VICTIM).find_lost_statements()] == [lost[1]]
    assert other in federation.book(VICTIM).list_known_statements()


def test_an_attempt_without_a_statement_that_a_member_names_is_refused():
    """An announcement holds digests: without the statement itself the victim could not check it."""
    federation = Federation(3)
    run_rounds(federation, 1, 1)
    announce_again(federation)
    plan = federation.plan(2)
    descriptor = federation.server.open_attempt(plan)
    shown = federation.list_shown(VICTIM, descriptor)
    assert len(shown) == 1
    federation.list_shown = lambda site, descriptor: ()
    with pytest.raises(ProtocolViolationError, match="R13: a statement that a member names is missing") as caught:
        federation.accept(VICTIM, descriptor, plan)
    assert caught.value.blame == (LEAD,)
    federation.list_shown = lambda site, descriptor: shown
    federation.accept(VICTIM, descriptor, plan)
