"""Hospitals that are restored, restarted or late, and a lead that makes use of it.

A hospital restored from a backup has forgotten what it booked. Whatever the lead collects before, withholds or never
asks, at most one vector leaves it under the forgotten ledger; and no two ordinary faults end a run for ever.
"""

import shutil

import numpy as np
import pytest

from clients.app import get_job_cache
from fedhealth.consortium.identity import get_secrets_folder
from fedhealth.errors import FedhealthError
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_entry import get_booked_events
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.protocol.messages import DESCRIBE, DIRECTIVE, EVALUATE, HANDSHAKE, TRAIN
from fedhealth.site.decline_reasons import UNLISTED_REASON
from tests.clients.hospitals import FOUR, VICTIM, Hospitals, Lead, four_hospitals_

__all__ = ["four_hospitals_"]

OTHERS = FOUR[:3]
PRIVATE = ["privacy=patient", "privacy.epsilon=8", "privacy.min_cohort=2", "secagg=on", "strategy.rounds=4"]
SMALL = ["model.text=null", "model.image=null"]


class Victim:
    """One of four hospitals in a private run: what it has sent in opened sums, and what its ledger says."""

    def __init__(self, folder, data):
        self.lead = Lead(Hospitals(folder, data), "run12345", *PRIVATE, *SMALL).join()
        self.home, self.copy = self.lead.hospitals.homes[VICTIM], folder / "backup"
        self.arrays, self.left = None, 0

    def train(self, number, answering=FOUR):
        """Ask all hospitals for a round; return why some refused."""
        self.lead.refusals.clear()
        self.lead.ask(TRAIN, FOUR, number=number, arrays=self.arrays)
        try:
            opened = self.lead.open(answering)
        except FedhealthError:
            return [(site, reason) for _, site, reason in self.lead.refusals]
        arrays = self.arrays or self.lead.initial
        self.arrays = self.lead.advance(opened, {name: array + np.float32(0.001) for name, array in arrays.items()})
        self.left += VICTIM in opened.sites
        return [(site, reason) for _, site, reason in self.lead.refusals]

    def shake_hands(self, *sites):
        """Return the hospitals' announcements; the lead keeps them."""
        directive = {DIRECTIVE: self.lead.direct(0, FOUR).record()}
        return {site: self.lead.hospitals.send(site, self.lead.job, HANDSHAKE, directive).content for site in sites}

    def use(self, announcements):
        for site, content in announcements.items():
            self.lead.sum.admit(site, content)

    def back_up(self):
        shutil.copytree(self.home.path, self.copy)

    def restore(self, *, with_keys):
        shutil.rmtree(self.home.path)
        shutil.copytree(self.copy, self.home.path)
        if not with_keys:
            reboot(self.lead, VICTIM)
        get_job_cache.cache_clear()

    def count_booked(self):
        return len(get_booked_events(verify_ledger(get_ledger_path(self.home.state, "tiny-2026")), self.lead.run))


def reboot(lead, site):
    """Let a hospital lose its keys and its words."""
    shutil.rmtree(get_secrets_folder(lead.run, site, lead.hospitals.homes[site].state))
    get_job_cache.cache_clear()


@pytest.fixture(name="victim")
def victim_(four_hospitals, tmp_path):
    victim = Victim(tmp_path, four_hospitals)
    assert victim.train(1) == []
    victim.back_up()
    return victim


def test_announcements_collected_before_the_loss_are_refused(victim):
    early = victim.shake_hands(*OTHERS)
    assert victim.train(2) == []
    victim.restore(with_keys=False)
    victim.use(early | victim.shake_hands(VICTIM))
    assert victim.train(3, answering=OTHERS) == [(site, "RequestMismatchError") for site in OTHERS]
    assert victim.train(1, answering=OTHERS)
    assert victim.left == 2  # the two that were asked for before the loss
    victim.lead.refusals.clear()
    victim.use(victim.shake_hands(*FOUR))  # the others' new announcements show the loss
    victim.lead.ask(TRAIN, FOUR, number=4, arrays=victim.arrays)
    assert (TRAIN, VICTIM, "RequestMismatchError") in victim.lead.refusals
    assert victim.shake_hands(VICTIM)[VICTIM]["acceptance"]["reasons"] == [UNLISTED_REASON]


def test_a_hospital_that_is_never_asked_to_unmask_sends_one_vector_more(victim):
    assert victim.train(2) == []
    victim.restore(with_keys=True)
    booked = victim.count_booked()
    victim.lead.sum.complete_request = lambda site, request: request  # it is shown nothing either
    assert victim.train(3, answering=OTHERS) == []
    for number in (4, 2):
        assert victim.train(number, answering=OTHERS) == [(VICTIM, "RequestMismatchError")]
    assert victim.left == 3
    assert victim.count_booked() == booked + 1


def test_an_honest_lead_tells_it_with_the_next_request(victim):
    assert victim.train(2) == []
    victim.restore(with_keys=True)
    assert victim.train(3, answering=OTHERS) == []
    assert victim.train(4) == [(VICTIM, "RequestMismatchError")]
    assert victim.shake_hands(VICTIM)[VICTIM]["acceptance"]["reasons"] == [UNLISTED_REASON]


PLAIN = ["privacy=none", "secagg=on"]
QUESTIONS = {
    "private statistics": (DESCRIBE, [*PRIVATE, *SMALL, "purpose=describe"], ""),
    "private final scores": (EVALUATE, [*PRIVATE, *SMALL], ""),
    "an update without privacy": (TRAIN, [*PLAIN, *SMALL], "units: [none]"),
}


OFTEN = ("private statistics", "an update without privacy")


@pytest.mark.parametrize(
    "question", [each if each in OFTEN else pytest.param(each, marks=pytest.mark.long) for each in QUESTIONS]
)
def test_one_late_and_one_restarted_hospital_do_not_block_a_question_for_ever(four_hospitals, tmp_path, question):
    """The sum is neither opened nor abandoned. The lead asks its contributors again, and they send the same values."""
    kind, overrides, limits = QUESTIONS[question]
    lead = Lead(Hospitals(tmp_path, four_hospitals, limits), "run12345", *overrides).join()
    lead.ask(kind, FOUR, dropped=(VICTIM,))
    reboot(lead, FOUR[2])
    with pytest.raises(FedhealthError):
        lead.open(OTHERS)
    lead.sum.give_up()
    lead.join()
    lead.refusals.clear()
    asked = lead.sum.choose_sites(kind, FOUR)
    assert asked == OTHERS
    lead.ask(kind, asked)
    assert lead.open(asked).sites == asked
    assert lead.refusals == []
    if question == "private statistics":
        for home in lead.hospitals.homes.values():  # nobody has drawn twice
            assert len(get_booked_events(verify_ledger(get_ledger_path(home.state, "tiny-2026")), lead.run)) == 1
    if kind != TRAIN:  # everybody, the late one included, is refused by those who have answered
        lead.ask(kind, FOUR)
        with pytest.raises(FedhealthError):
            lead.open()


def test_a_hospital_that_never_received_the_request_helps_to_abandon_it(four_hospitals, tmp_path):
    """One of four is not connected, two are restarted before they answer: the sum is given up, and masked again."""
    kind, overrides, limits = QUESTIONS["private statistics"]
    lead = Lead(Hospitals(tmp_path, four_hospitals, limits), "run12345", *overrides).join()
    first = lead.ask(kind, FOUR, absent=(VICTIM,))
    for site in FOUR[1:3]:
        reboot(lead, site)
    with pytest.raises(FedhealthError, match="mask the same words again"):
        lead.open()
    lead.join()
    lead.refusals.clear()
    lead.ask(kind, lead.sum.choose_sites(kind, FOUR), repetition=first.repetition)
    assert lead.open().sites == FOUR
    assert lead.refusals == []
