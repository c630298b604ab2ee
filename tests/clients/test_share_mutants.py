"""Bugs that only a federation shows, each caught by a test: the count of shares, signatures, books, declines."""

from dataclasses import replace

import pytest

from clients.institution import Institution
from clients.transport.secure import SecureTransport
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.protocol.messages import TRAIN
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.protocol import layout_plan, rules
from fedhealth.secagg.protocol.threshold import needs_signatures
from fedhealth.site import decline_reasons
from tests.clients import test_shared_noise as at_site
from tests.clients.lying_lead import read_error
from tests.clients.test_shared_noise import ALLOWED, SHARED_NOISE, join  # noqa: F401 - a fixture
from tests.fedhealth.privacy.accounting import test_shared_events as accounting
from tests.fedhealth.secagg import test_shared_noise as in_sums

FAILED = (AssertionError, pytest.fail.Exception, ProtocolViolationError)


def test_the_colluders_follow_from_the_roster_and_not_from_the_run(meet):
    """Of ten members three are assumed to collude, so seven of them in a run share the noise of four."""
    lead = meet(members=10, run=7, words=SHARED_NOISE, limits=ALLOWED)
    assert lead.handshake() == ()
    assert read_error(lead.ask(TRAIN, threshold=7, signed=True)) is None
    (entry,) = [entry for entry in at_site.load_entries(lead) if entry.kind == "book"]
    assert entry.mechanism.shares == 4


def test_colluders_of_the_run_alone_are_caught(meet, monkeypatch):
    monkeypatch.setattr(
        SecureTransport, "count_noise_shares", lambda self, site: len(self.sites) - (len(self.sites) - 1) // 3
    )
    with pytest.raises(FAILED):
        test_the_colluders_follow_from_the_roster_and_not_from_the_run(meet)


def test_signatures_that_are_not_forced_are_caught(monkeypatch):
    monkeypatch.setattr(
        rules,
        "needs_signatures",
        lambda thresholds, cohort, owners, shares: needs_signatures(thresholds, cohort, owners),
    )
    with pytest.raises(FAILED):
        in_sums.test_the_survivors_sign_their_list_where_two_lists_would_split_the_noise(8, True)


def test_shares_that_forget_the_drop_outs_are_caught(monkeypatch):
    forget = lambda owners, announced, threshold, colluders, min_owners: owners - colluders  # noqa: E731
    monkeypatch.setattr(in_sums, "count_honest_shares", forget)
    with pytest.raises(FAILED):
        in_sums.test_the_opened_sum_has_the_noise_of_all_survivors_and_never_less_than_promised(8, 2, 24)


@pytest.mark.parametrize("claim", [lambda n, t: n, lambda n, t: t], ids=["share by n", "share by t"])
def test_a_share_that_counts_on_colluders_is_refused_by_the_site(join, monkeypatch, claim):  # noqa: F811
    lead = join()
    wrong = lambda owners, announced, threshold, colluders, min_owners: claim(owners, threshold)  # noqa: E731
    monkeypatch.setattr(layout_plan, "count_honest_shares", wrong)
    assert read_error(lead.ask(TRAIN, threshold=4)) is not None
    assert not [entry for entry in at_site.load_entries(lead) if entry.kind == "book"]


def test_a_ledger_that_books_the_share_is_caught(join, monkeypatch):  # noqa: F811
    right = vars(PrivacyPlan)["round_event"].fget
    booked = property(lambda self: replace(right(self), noise_multiplier=right(self).share_multiplier))
    monkeypatch.setattr(PrivacyPlan, "round_event", booked)
    with pytest.raises(FAILED):
        at_site.test_a_round_is_booked_with_both_numbers_before_its_words_leave(join)


def test_a_local_epsilon_of_the_whole_noise_is_caught(monkeypatch):
    monkeypatch.setattr(PrivacyEvent, "local", property(lambda self: self))
    with pytest.raises(FAILED):
        accounting.test_both_numbers_are_those_of_another_accountant(0.1, 1.2, 3)


def test_two_local_steps_that_are_accepted_are_caught(meet, monkeypatch):
    monkeypatch.setattr(Institution, "_sends_plain_gradients", property(lambda self: True))
    monkeypatch.setattr("fedhealth.training.dpsgd_plans.check_shared_settings", lambda *_: None)
    with pytest.raises(FAILED):
        at_site.test_a_hospital_declines_what_would_have_less_noise_than_promised(
            meet, ("training.local_steps=2",), ALLOWED, decline_reasons.NO_PLAIN_GRADIENTS
        )
