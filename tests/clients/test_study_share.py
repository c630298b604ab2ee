"""A study's share at a hospital, with the hospital's own handler: no sequence of orders makes its runs cost more."""

import errno
import time
from copy import copy

import pytest
from omegaconf import OmegaConf

from clients.app import get_job_cache
from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.errors import ConfigError, PrivacyError
from fedhealth.privacy.accounting.accountant import compute_epsilon
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_entry import get_booked_events
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.reservations import find_active_reservations
from fedhealth.protocol.messages import HANDSHAKE, TRAIN, Acceptance
from fedhealth.protocol.study_answer import RefusalReason
from fedhealth.site import study_approval
from fedhealth.site.decline_reasons import UNLISTED_REASON
from fedhealth.site.job_history import JobHistory
from fedhealth.site.study_approval import decline_study, withdraw_study
from fedhealth.site.study_shares import release_unapproved_shares
from fedhealth.site.study_store import StudyStore
from strategies.app import build_initial_state
from tests.clients import lying_lead
from tests.clients.lying_lead import DECLINED, LyingLead, read_error
from tests.clients.studies import approve

WORDS = ("privacy=patient", "privacy.epsilon=4", "evaluation.audit=false")
OPEN = {"privacy.epsilon": (1.0, 4.0, 5.0)}
TOTAL = 6.4  # two runs of epsilon 4 and 5 cost more, each of them with one of epsilon 1 less


@pytest.fixture(name="lead")
def lead_(tmp_path, good_hospitals):
    """A hospital whose limit was low when it approved two runs, so that their dearest fits into the total."""
    lead = LyingLead(
        tmp_path,
        good_hospitals,
        words=WORDS,
        limits="epsilon: 1, lifetime_epsilon: 100",
        study={"runs": 2, "epsilon": TOTAL, "open": OPEN},
    )
    lead.set_limits("lifetime_epsilon: 100")
    return lead


@pytest.fixture(name="order")
def order_(lead, monkeypatch):
    """Return a function that lets the lead go on with a run of some epsilon; it names the run in all messages."""
    leads = {}

    def order(run, epsilon=None):
        monkeypatch.setattr(lying_lead, "RUN", run)
        if run not in leads:
            leads[run] = prepare(copy(lead), run, epsilon)
        return leads[run]

    return order


def prepare(lead, run, epsilon):
    """Return a copy of the lead that orders its own run."""
    lead.order(f"privacy.epsilon={epsilon}")
    composed = compose_config([*lead.words, f"data.root={lead.data}"])
    lead.config, lead.digest = OmegaConf.to_object(composed), compute_config_digest(composed)
    lead.state, lead.announced, lead.links = build_initial_state(lead.config), (), []
    start = bytes.fromhex(lead.digest), lead.roster, lying_lead.digest_arrays(lead.state)
    lead.history = lying_lead.compute_history_start(run, *start)
    announce = lead.announce
    lead.announce = lambda site, towers: announce(site, towers, run)
    return lead


def read_ledger(lead, dataset="tiny-2026"):
    path = get_ledger_path(lead.home.state, dataset)
    return verify_ledger(path) if path.is_file() else ()


def list_reserved(lead, dataset="tiny-2026"):
    return sorted(each.run for each in find_active_reservations(read_ledger(lead, dataset), time.time()))


def shake(lead):
    """Return whether the hospital accepts; the lead reads the neutral reason if not."""
    reply = lead.send(HANDSHAKE, lead.directive(TRAIN, 0, cohort=()))
    reasons = Acceptance.parse(reply.content).reasons
    assert reasons in ((), (UNLISTED_REASON,))
    return not reasons


def test_a_run_that_shook_hands_keeps_its_part_and_the_total_holds(lead, order, caplog):
    """The attack: X of epsilon 4 shakes hands, Z of 1 does, X begins, and Y of 5 would cost 6.51 with it."""
    assert order("runxxxxx1", 4.0).handshake() == ()
    assert order("runzzzzz1", 1.0).handshake() == ()
    assert list_reserved(lead) == ["runxxxxx1", "runzzzzz1"]
    assert read_error(order("runxxxxx1").ask(TRAIN)) is None
    assert not shake(order("runyyyyy1", 5.0))
    assert f"it states epsilon {TOTAL} at delta 1e-6" in caplog.text
    order("runzzzzz1").ask(TRAIN)  # admitted; secure aggregation wants a newer key, as members have signed since
    assert StudyStore(lead.home).list_runs("crp") == ("runxxxxx1", "runzzzzz1")
    held = find_active_reservations(read_ledger(lead), time.time())
    events = [event for each in held for event in each.cost.events]
    events += [event for run in ("runxxxxx1", "runzzzzz1") for event in get_booked_events(read_ledger(lead), run)]
    assert compute_epsilon(events, 1e-6) <= TOTAL


def test_a_run_whose_part_was_taken_is_refused_before_it_touches_data(lead, order, caplog):
    assert order("runxxxxx1", 5.0).handshake() == ()
    assert order("runzzzzz1", 1.0).handshake() == ()
    assert order("runyyyyy1", 4.0).handshake() == ()  # the oldest that has not begun gives way
    assert list_reserved(lead) == ["runyyyyy1", "runzzzzz1"]
    assert read_error(order("runyyyyy1").ask(TRAIN)) is None
    before = lead.books()
    assert read_error(order("runxxxxx1").ask(TRAIN)) == DECLINED
    assert "the runs of the study crp would spend" in caplog.text
    assert lead.books() == before
    assert StudyStore(lead.home).list_runs("crp") == ("runyyyyy1",)


def test_an_ended_run_that_never_began_leaves_its_part(lead, order):
    assert order("runxxxxx1", 4.0).handshake() == ()
    JobHistory(lead.home).start_or_resume(order("runxxxxx1").sign(), 1e9)
    JobHistory(lead.home).mark_ended("runxxxxx1")
    assert order("runyyyyy1", 5.0).handshake() == ()
    assert list_reserved(lead) == ["runyyyyy1", "study crp run 1"]


def test_the_dearest_run_that_a_study_allows_sets_the_price(lead):
    """A cheap first order would otherwise leave less than the others may cost."""
    dear = lead.publish(name="dear", runs=2, epsilon=TOTAL, open=OPEN)
    with pytest.raises(PrivacyError, match=r"would spend epsilon 7\.\d+ at delta .+, it states epsilon 6.4 at"):
        approve(lead.home, lead.home.studies / f"{dear.digest}.study.json")


def test_an_unused_run_keeps_the_price_of_the_approval(lead, order):
    lead.set_limits("lifetime_epsilon: 100")
    study = lead.publish(name="priced", runs=2, epsilon=20.0, open=OPEN)
    approve(lead.home, lead.home.studies / f"{study.digest}.study.json")
    price = {each.run: each.cost for each in find_active_reservations(read_ledger(lead), time.time())}
    lead.study = study.digest
    assert order("runxxxxx1", 1.0).handshake() == ()
    after = {each.run: each.cost for each in find_active_reservations(read_ledger(lead), time.time())}
    assert after["study priced run 1"] == price["study priced run 1"]
    assert after["runxxxxx1"] != price["study priced run 0"]


def offer_other_data(lead):
    """Let the hospital offer the files of another ward too, which have a ledger of their own."""
    text = lead.home.policy.read_text()
    line = next(line for line in text.splitlines() if line.startswith("  tiny:"))
    other = line.replace("tiny:", "other:").replace("tiny-2026", "other-2026").replace("/north,", "/south,")
    lead.home.policy.write_text(text.replace(line, f"{line}\n{other}"))


def test_an_approval_on_other_data_gives_the_first_share_back(lead):
    offer_other_data(lead)
    lead.words = tuple("data.name=other" if word.startswith("data.name=") else word for word in lead.words)
    other = lead.publish(version=2, runs=2, epsilon=20.0)
    assert list_reserved(lead) == ["study crp run 0", "study crp run 1"]
    approve(lead.home, lead.home.studies / f"{other.digest}.study.json")
    assert list_reserved(lead) == []
    assert list_reserved(lead, "other-2026") == ["study crp run 0", "study crp run 1"]


class Crash(BaseException):
    """The process is killed."""


def crash(*_):
    raise Crash


@pytest.fixture(name="interrupted")
def interrupted_(lead, monkeypatch):
    """A study whose approval was interrupted between the reservation and the decision."""
    study = lead.publish(name="second", runs=1)

    with monkeypatch.context() as patched:
        patched.setattr(study_approval, "_record_decision", crash)
        with pytest.raises(Crash):
            approve(lead.home, lead.home.studies / f"{study.digest}.study.json")
    assert "study second run 0" in list_reserved(lead)
    assert StudyStore(lead.home).load_decision(study.digest) is None
    return study


@pytest.mark.parametrize("how", ["the site starts", "it is declined", "another study is decided"])
def test_an_interrupted_approval_leaves_nothing_reserved(lead, interrupted, how):
    if how == "the site starts":
        release_unapproved_shares(lead.home)
    elif how == "it is declined":
        decline_study(interrupted, lead.home, RefusalReason.other)
    else:
        withdraw_study("crp", lead.home, RefusalReason.other)
    assert "study second run 0" not in list_reserved(lead)
    assert ("study crp run 0" in list_reserved(lead)) == (how != "another study is decided")


def test_an_interrupted_approval_is_repeated(lead, interrupted):
    for _ in range(2):
        approve(lead.home, lead.home.studies / f"{interrupted.digest}.study.json")
        assert list_reserved(lead).count("study second run 0") == 1


def test_an_interrupted_withdrawal_is_completed_by_the_next_start(lead, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(study_approval, "release_unapproved_shares", crash)
        with pytest.raises(Crash):
            withdraw_study("crp", lead.home, RefusalReason.other)
    assert list_reserved(lead)
    release_unapproved_shares(lead.home)
    assert list_reserved(lead) == []


def test_a_minor_amendment_keeps_the_share_until_its_own_last_day(lead):
    lead.set_limits("lifetime_epsilon: 100, minor_amendments: true")
    later = lead.publish(version=2, runs=2, epsilon=TOTAL, open=OPEN, last_day="2150-12-31")
    assert StudyStore(lead.home).load_decision(later.digest).person == "policy"
    far = time.mktime((2150, 6, 1, 0, 0, 0, 0, 0, -1))
    assert len(find_active_reservations(read_ledger(lead), far)) == 2


def test_the_total_of_a_known_study_holds_where_no_approval_is_needed(tmp_path, good_hospitals, caplog):
    lead = LyingLead(tmp_path, good_hospitals, words=WORDS)
    lead.study = lead.publish(epsilon=2.0).digest
    get_job_cache.cache_clear()
    assert not shake(lead)
    assert "the runs of the study crp would spend" in caplog.text


def test_a_data_set_that_was_renamed_starts_no_new_total(lead, order, caplog):
    """A technician calls the data set otherwise after a run: its booked events would be in another ledger."""
    assert order("runxxxxx1", 5.0).handshake() == ()
    assert read_error(order("runxxxxx1").ask(TRAIN)) is None
    policy = lead.home.policy.read_text("utf-8")
    lead.home.policy.write_text(policy.replace("tiny-2026", "tiny-2027"), "utf-8")
    get_job_cache.cache_clear()
    assert not shake(order("runzzzzz1", 1.0))
    assert "had another name when it was approved" in caplog.text
    with pytest.raises(ConfigError, match="Runs of the study crp are booked for the data set tiny-2026"):
        approve(lead.home, lead.home.studies / f"{lead.study}.study.json")


def test_an_earlier_version_is_not_approved_after_a_later_one(lead):
    later = lead.publish(name="crp", version=2, purpose="another", runs=2, epsilon=20.0, open=OPEN)
    approve(lead.home, lead.home.studies / f"{later.digest}.study.json")
    with pytest.raises(ConfigError, match="crp version 2 was approved here after crp version 1"):
        approve(lead.home, lead.home.studies / f"{lead.study}.study.json")


def test_a_log_that_cannot_be_written_leaves_no_approval(lead, monkeypatch):
    """An approval counts when it is logged, a withdrawal before: the version in force ends first."""
    study = lead.study
    later = lead.publish(name="crp", version=2, purpose="another", runs=2, epsilon=20.0, open=OPEN)
    store, write = StudyStore(lead.home), study_approval.AuditLog.write

    def fail(self, event, **fields):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(study_approval.AuditLog, "write", fail)
    with pytest.raises(OSError, match="No space left"):
        approve(lead.home, lead.home.studies / f"{later.digest}.study.json")
    assert store.load_decision(later.digest) is None
    monkeypatch.setattr(study_approval.AuditLog, "write", write)
    approve(lead.home, lead.home.studies / f"{later.digest}.study.json")
    monkeypatch.setattr(study_approval.AuditLog, "write", fail)
    with pytest.raises(OSError, match="No space left"):
        withdraw_study("crp", lead.home, RefusalReason.permit, person="Dr. Noor")
    assert store.load_decision(later.digest).answer == "withdrawn"
    assert store.load_decision(study).answer == "approved"
