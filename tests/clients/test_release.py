"""Every private reply cites one booked event: replays, crashes at every step, failures, and a gate that checks it."""

import re

import numpy as np
import pytest

from clients.merge import StateMerger
from clients.release import Release, ReleaseRecorder
from clients.site_store import SiteStore
from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.budget import PrivacyBudget
from fedhealth.protocol.messages import STATISTICS, UPDATE
from fedhealth.site.egress_gate import EgressGate
from tests.clients.power_cut import PowerCutError, cut_power_at
from tests.clients.private_site import PrivateSite

# What happens last before the power cut: (owner, method, whether the method still runs).
STEPS = {
    "book": (PrivacyBudget, "book", True),
    "train": (StateMerger, "save_round", False),
    "local state": (StateMerger, "save_round", True),
    "words": (ReleaseRecorder, "record", False),
    "release": (ReleaseRecorder, "record", True),
    "reply": (EgressGate, "check", True),
}
RELEASED = {"release", "reply"}


@pytest.fixture(name="site")
def site_(tmp_path, good_hospitals, tiny_overrides):
    return PrivateSite(tmp_path, tiny_overrides(good_hospitals), "strategy.rounds=4")


def cut_power(site, step, monkeypatch, **request):
    """Send a training request and lose power after a step; the next message meets a new process."""
    with monkeypatch.context() as patch:
        cut_power_at(patch, *STEPS[step])
        with pytest.raises(PowerCutError):
            site.train(**request)
    site.restart()


def read_words(reply):
    return tuple(next(iter(reply.content[name].values())) for name in (UPDATE, STATISTICS))


def test_a_private_reply_holds_the_update_and_its_own_norm_only(site):
    from fedhealth.protocol.count_codec import unpack_counts

    assert set(unpack_counts(site.train().content[STATISTICS])) == {"drift.squares"}
    assert site.states() == ["released"]


@pytest.mark.parametrize("step", STEPS)
def test_a_power_cut_that_ends_in_the_answer_costs_nothing(site, step, monkeypatch):
    cut_power(site, step, monkeypatch)
    reply = site.train()
    assert site.states() == ["released"]
    assert read_words(site.train()) == read_words(reply)  # sent again: the same words, free
    assert site.states() == ["released"]


@pytest.mark.parametrize("step", STEPS)
def test_after_a_power_cut_another_model_is_paid_for_if_the_first_words_may_have_left(site, step, monkeypatch):
    cut_power(site, step, monkeypatch)
    site.train(change=0.5)
    assert site.states() == ["released"] * (2 if step in RELEASED else 1)
    cut_power(site, step, monkeypatch, change=0.25)
    site.train(number=2, change=0.125)
    assert site.states() == ["released"] * (4 if step in RELEASED else 2)


def test_only_the_words_that_the_ledger_names_are_sent_again(site):
    first = read_words(site.train())
    path = site.folder / "answer.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert read_words(site.train()) != first
    assert site.states() == ["released"] * 2  # the words were lost: trained anew, under a booking of its own


def test_a_stored_reply_that_cannot_be_read_is_lost_and_not_an_endless_failure(site):
    site.train()
    path = site.folder / "answer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert not site.train().has_error()
    assert site.states() == ["released"] * 2


def test_words_that_no_booking_pays_for_are_deleted(site, monkeypatch):
    cut_power(site, "words", monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(StateMerger, "compute_update", lambda *_: 1 / 0)
        assert site.train(change=0.5).error.reason == "SiteTaskError"
    assert site.states() == ["failed"]
    assert not site.train().has_error()
    assert site.states() == ["failed", "released"]


def test_the_state_of_an_interrupted_training_is_never_used(tmp_path, good_hospitals, tiny_overrides, monkeypatch):
    """A local head of a training that left nothing must not shape a reply that the same booking pays for."""
    site = PrivateSite(tmp_path, tiny_overrides(good_hospitals), "personalization=fedper", "strategy.rounds=3")
    seen, genuine = [], SiteStore.load_before

    def load(self, number):
        seen.append(genuine(self, number))
        return seen[-1]

    monkeypatch.setattr(SiteStore, "load_before", load)
    cut_power(site, "words", monkeypatch)
    assert not site.train(number=2).has_error()
    assert seen[-1] == {}
    assert not site.train(number=3).has_error()
    assert seen[-1] != {}
    assert site.states() == ["released"] * 2


def test_a_late_update_counts_only_if_it_was_released(tmp_path, good_hospitals, tiny_overrides, monkeypatch):
    site = PrivateSite(tmp_path, tiny_overrides(good_hospitals), "strategy.staleness=0.5", "strategy.rounds=4")
    site.train(number=1)
    cut_power(site, "words", monkeypatch, number=2)
    assert not site.train(number=3, missed=("north",)).has_error()
    assert not site.train(number=4, missed=("north",)).has_error()
    bookings = site.bookings()
    assert [booking.state for booking in bookings] == ["released"] * 3
    assert [booking.cites for booking in bookings] == [(), (), (bookings[1].number,)]


def test_final_scores_are_drawn_once(site):
    first = site.evaluate()
    assert not first.has_error()
    again = site.evaluate(change=0.5)
    assert again.content[STATISTICS] == first.content[STATISTICS]
    assert site.states(purpose="evaluate") == ["released"]


def test_a_private_reply_without_words_needs_no_booking(tmp_path, good_hospitals, tiny_overrides):
    site = PrivateSite(tmp_path, tiny_overrides(good_hospitals), "privacy.score_release_share=0")
    assert not site.evaluate().has_error()
    assert site.bookings("evaluate") == []


def test_the_gate_blocks_a_private_reply_whose_release_nobody_recorded(site, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(ReleaseRecorder, "record", lambda self, release: None)  # the planted bug
        reply = site.train()
    assert reply.error.reason == "SiteTaskError"
    assert site.states() == ["failed"]
    assert "the privacy ledger holds no release of these words" in caplog.text


def test_the_gate_compares_the_reply_itself(site, monkeypatch):
    """A reply with other words than those recorded does not leave either."""
    genuine = PrivateSite.train

    def recorded_others(self, update, statistics, late_rounds=()):
        return Release("0" * 64)

    with monkeypatch.context() as patch:
        patch.setattr(ReleaseRecorder, "identify", recorded_others)
        patch.setattr("clients.transport.plaintext.PlaintextTransport.identify_reply", lambda *_: Release("1" * 64))
        assert genuine(site).error.reason == "SiteTaskError"


FAULTS = [MemoryError("1 GB"), ValueError("patient 7"), PrivacyError("patient 7"), OSError(28, "disk full")]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_every_failure_that_may_depend_on_data_looks_the_same_and_is_spent(site, fault, monkeypatch):
    def fail(*_):
        raise fault

    monkeypatch.setattr(StateMerger, "compute_update", fail)
    reply = site.train()
    assert (reply.error.code, reply.error.reason) == (1016, "SiteTaskError")
    assert site.states() == ["failed"]


def test_faults_found_before_the_data_keep_their_kind(site):
    missing = dict(list(site.state.items())[1:])
    assert site.train(state=missing).error.reason == "RequestMismatchError"
    for change in (0.1, 0.2, 0.3, 0.4, 0.5):
        assert not site.train(change=change).has_error()  # as many as the rounds, and the spare one
    assert site.train(change=0.6).error.reason == "PrivacyError"  # the budget
    assert site.entries[-1].kind == "decline"


def test_a_site_that_loses_more_rounds_than_are_spare_declines_the_last_one(site, monkeypatch, caplog):
    """Four rounds and a spare one: after two lost rounds the site has what three more cost."""
    with monkeypatch.context() as patch:
        patch.setattr(StateMerger, "compute_update", lambda *_: 1 / 0)
        for _ in range(2):
            assert site.train(number=1).error.reason == "SiteTaskError"
    for number in (1, 2, 3):
        assert not site.train(number=number).has_error()
    assert site.states() == ["failed"] * 2 + ["released"] * 3
    reply = site.train(number=4)
    assert (reply.error.code, reply.error.reason) == (1006, "PrivacyError")
    assert site.states() == ["failed"] * 2 + ["released"] * 3
    declined = site.entries[-1]
    assert declined.kind == "decline"
    sentence = (
        r"epsilon 8\.\d+ at delta 1e-6 for each patient, noise multiplier \d+\.\d+, of run run would exceed the limit "
        r"of 8 at this delta; 2 of its bookings failed and are spent, more than privacy\.spare_rounds pays for"
    )
    assert re.fullmatch(sentence, declined.reason)
    assert "Declined; nothing was spent. Ask for fewer rounds or more noise." in caplog.text


def test_one_lost_round_is_what_the_spare_round_pays_for(site, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(StateMerger, "compute_update", lambda *_: 1 / 0)
        site.train(number=4)
    assert not any(site.train(number=number).has_error() for number in (1, 2, 3, 4))
    assert not site.evaluate().has_error()
    assert site.states() == ["failed"] + ["released"] * 4


def test_without_a_record_of_the_failure_no_reply_leaves(site, monkeypatch):
    def unable(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StateMerger, "compute_update", lambda *_: 1 / 0)
    monkeypatch.setattr("clients.app.record_failure", unable)
    with pytest.raises(OSError, match="No space"):
        site.train()


def test_a_personal_model_that_fails_costs_no_reply(tmp_path, good_hospitals, tiny_overrides, monkeypatch):
    site = PrivateSite(tmp_path, tiny_overrides(good_hospitals), "personalization=finetune")
    monkeypatch.setattr("clients.personalization.base.LocalRound.fit_copy", lambda *_: 1 / 0)
    assert not site.evaluate().has_error()


def test_releases_survive_their_text_form():
    release = Release("ab" * 32, (1, 2))
    assert Release.loads(release.dumps()) == release


def test_private_arrays_count_by_their_release(tmp_path):
    released = {"first", "third"}
    store = SiteStore("run", tmp_path, released.__contains__)
    for number, digest in enumerate(("first", "second", "third"), start=1):
        store.save_private(number, {"w": np.full(1, number, np.float32)}, digest)
    assert store.load_before(4)["w"] == 3
    assert store.load_before(3)["w"] == 1  # the second training left nothing
    released.discard("third")
    assert store.load_before(4)["w"] == 1
