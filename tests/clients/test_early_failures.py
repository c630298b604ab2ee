"""Failures before anything is booked count for life like the others, and look like them."""

import time

import pytest

from clients.app import get_virtual_site
from clients.private_section import PrivateTaskError
from clients.reservation import reserve_sweep_budget
from fedhealth.errors import DataError
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import find_ledgers
from fedhealth.privacy.accounting.limits import count_failures
from fedhealth.privacy.accounting.release import record_failure
from fedhealth.privacy.accounting.spending import iter_run_spending
from fedhealth.protocol.array_codec import get_packed_bytes
from fedhealth.protocol.budget_request import BudgetRequest
from fedhealth.protocol.messages import HANDSHAKE, UPDATE, Acceptance
from tests.clients.private_site import PrivateSite, describe_reply

NEUTRAL = (1016, "SiteTaskError")
LIMIT = "the data set has reached limits.max_failures: 2 private requests failed"
FAULTS = [MemoryError("1 GB"), DataError("patient 7 has crp 4000"), ValueError("patient 7")]


@pytest.fixture(name="site")
def site_(tmp_path, good_hospitals, tiny_overrides):
    return PrivateSite(tmp_path, tiny_overrides(good_hospitals), "privacy.max_failures=2")


@pytest.fixture(name="broken_data")
def broken_data_(monkeypatch):
    """Data that cannot be read; every attempt is noted."""
    attempts, fault = [], [DataError("patient 7 has crp 4000")]

    def prepare(config, site):
        attempts.append(site)
        raise fault[0]

    monkeypatch.setattr("clients.site_setup.prepare_dataset", prepare)
    return attempts, fault


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_data_that_cannot_be_read_at_the_handshake_are_counted_and_then_left_alone(site, broken_data, fault):
    attempts, faults = broken_data
    faults[0] = fault
    for number in range(2):
        assert describe_reply(site.send(HANDSHAKE, 0, run=f"run{number}")) == NEUTRAL
    assert count_failures(site.entries) == 2
    assert site.bookings(run="run0") == []
    reply = site.send(HANDSHAKE, 0, run="another")
    assert Acceptance.parse(reply.content).reasons == (LIMIT,)
    assert describe_reply(site.train(run="another")) == (1006, "PrivacyError")
    assert len(attempts) == 2
    assert count_failures(site.entries) == 2


def test_the_handshake_of_a_sound_site_counts_nothing(site):
    assert Acceptance.parse(site.send(HANDSHAKE, 0).content).reasons == ()
    assert site.entries == ()


@pytest.mark.parametrize("share", [0.1, 0.0])
def test_an_evaluation_that_fails_before_its_booking_is_counted(
    tmp_path, good_hospitals, tiny_overrides, monkeypatch, share
):
    changes = ("privacy.max_failures=2", f"privacy.score_release_share={share}")
    site = PrivateSite(tmp_path, tiny_overrides(good_hospitals), *changes)

    def fail(*_):
        raise MemoryError("1 GB")

    with monkeypatch.context() as patch:
        patch.setattr("clients.evaluate.predict_studies", fail)
        assert [describe_reply(site.evaluate()) for _ in range(3)] == [NEUTRAL, NEUTRAL, (1006, "PrivacyError")]
    assert count_failures(site.entries) == 2
    assert site.bookings("evaluate") == []
    assert describe_reply(site.evaluate()) == (1006, "PrivacyError")


def test_stored_words_are_sent_again_also_after_the_limit(site, monkeypatch):
    first = get_packed_bytes(site.train().content[UPDATE])
    with monkeypatch.context() as patch:
        patch.setattr("clients.merge.StateMerger.compute_update", lambda *_: 1 / 0)
        for change in (0.1, 0.2):
            assert describe_reply(site.train(change=change)) == NEUTRAL
    assert count_failures(site.entries) == 2
    assert describe_reply(site.train(change=0.3)) == (1006, "PrivacyError")
    assert get_packed_bytes(site.train().content[UPDATE]) == first


@pytest.mark.usefixtures("broken_data")
def test_a_sweep_cannot_ask_data_that_cannot_be_read(site):
    """An epsilon of 0, for a run whose data cannot be read, told the lead that some patient has a property."""
    place, request = get_virtual_site(site._context, site.job), BudgetRequest("sweep1234567", 1e6, ())
    with pytest.raises(PrivateTaskError) as caught:
        reserve_sweep_budget(place, [site.job], request, time.time() + 60)
    assert caught.value.dataset == "tiny"
    for _ in range(2):
        record_failure(site.folder, "run", [caught.value.dataset])
    reply = reserve_sweep_budget(place, [site.job], request, time.time() + 60)
    assert Acceptance.parse(reply).reasons == (LIMIT,)


def test_a_lost_worker_is_counted_in_the_ledgers_of_its_job(tmp_path):
    assert record_failure(tmp_path, "run", ["one", "two"]) == 0
    assert record_failure(tmp_path, "run", ["one"]) == 0
    counts = {path.stem: count_failures(verify_ledger(path)) for _, path in find_ledgers(tmp_path)}
    assert counts == {"one": 2, "two": 1}
    first = next(each for each in iter_run_spending(tmp_path) if each.dataset == "one")
    assert (first.failed_count, first.booked_count, first.epsilon) == (2, 0, 0.0)
