"""A stored study that a release refuses is set aside by name; all others, and what it holds, stay as they are."""

import json
import time

import pytest

from fedhealth.errors import ConfigError, TrustError
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.reservations import find_active_reservations
from fedhealth.protocol.messages import HANDSHAKE, TRAIN, Acceptance
from fedhealth.protocol.study_answer import RefusalReason, StudyAnswer
from fedhealth.site.audit_log import verify_log
from fedhealth.site.check.base import CheckStatus
from fedhealth.site.check.rules import check_studies
from fedhealth.site.daemon import SiteDaemon
from fedhealth.site.decline_reasons import UNLISTED_REASON
from fedhealth.site.own_report import build_report
from fedhealth.site.study_approval import withdraw_study
from fedhealth.site.study_shares import release_unapproved_shares
from fedhealth.site.study_store import StudyStore
from fedhealth.site.web.contents import build_state, build_studies
from tests.clients.lying_lead import LyingLead
from tests.clients.studies import approve


@pytest.fixture(name="lead")
def lead_(tmp_path, good_hospitals):
    return LyingLead(tmp_path, good_hospitals, limits="lifetime_epsilon: 100", study={})


def path_of(lead, digest):
    return lead.home.studies / f"{digest}.study.json"


def outdate(lead, digest, content=None):
    """Let a study's file be one that this release refuses, as a rule of a newer one would."""
    path = path_of(lead, digest)
    fields = json.loads(path.read_bytes())
    fields["study"]["last_day"] = "31.12.2099"
    path.write_bytes(json.dumps(fields).encode() if content is None else content)


def shake(lead, digest):
    """Return the hospital's own sentence for a handshake, empty if it accepts."""
    lead.study = digest
    reasons = Acceptance.parse(lead.send(HANDSHAKE, lead.directive(TRAIN, 0, cohort=())).content).reasons
    if not reasons:
        return ""
    assert reasons == (UNLISTED_REASON,)
    return [entry for entry in verify_log(lead.home.audit) if entry["event"] == "run declined"][-1]["reasons"][0]


def list_reserved(lead):
    entries = verify_ledger(get_ledger_path(lead.home.state, "tiny-2026"))
    return sorted(each.run for each in find_active_reservations(entries, time.time()))


@pytest.mark.parametrize("content", [None, b"\0", b"{}"], ids=["newer rule", "damaged", "empty"])
def test_one_refused_study_stops_no_other(lead, content):
    first, second = lead.study, lead.publish(name="second")
    approve(lead.home, path_of(lead, second.digest))
    outdate(lead, second.digest, content)
    assert shake(lead, first) == ""
    sentence = shake(lead, second.digest)
    assert sentence.startswith(
        f"second version 1 is set aside: {path_of(lead, second.digest)} is refused by this release."
    )
    release_unapproved_shares(lead.home)
    assert list_reserved(lead) == ["run12345", "study second run 0"]  # an approval holds it
    assert [each.answer for each in build_report(lead.home).studies] == [StudyAnswer.approved]
    assert [each.name for each in withdraw_study("second", lead.home, RefusalReason.other)] == ["second"]
    assert list_reserved(lead) == ["run12345"]


def test_a_version_that_is_set_aside_has_replaced_the_earlier_one_all_the_same(lead):
    first, second = lead.study, lead.publish(version=2, ethics="EK 13/2026")
    approve(lead.home, path_of(lead, second.digest))
    outdate(lead, second.digest)
    assert shake(lead, first) == "crp version 1 is replaced here by version 2"


def test_a_study_stays_closed_if_the_closing_version_is_set_aside(lead):
    first, closed = lead.study, lead.publish(version=2, closed=True)
    outdate(lead, closed.digest)
    assert shake(lead, first) == "the lead has closed the study crp"
    with pytest.raises(ConfigError, match="crp version 1 is over"):
        approve(lead.home, path_of(lead, first))


def test_a_recovery_suspends_an_approval_of_a_study_that_is_set_aside(lead):
    outdate(lead, lead.study)
    assert StudyStore(lead.home).suspend_approvals() == [lead.study]


def test_it_is_named_wherever_the_hospital_looks(lead):
    (passed,) = check_studies(lead.home)
    assert (passed.status, passed.finding) == (CheckStatus.PASS, "1 stored, this release accepts each of them")
    outdate(lead, lead.study)
    (failed,) = check_studies(lead.home)
    assert failed.status is CheckStatus.FAIL
    assert "crp version 1 is set aside" in failed.finding
    assert "Ask the lead for a new version" in failed.fix
    (told,) = build_studies(lead.home).lines
    assert "crp version 1 is set aside" in told
    assert ("Refused study", failed.finding) in build_state(lead.home).tables[0].rows
    with pytest.raises(TrustError, match="crp version 1 is set aside"):
        StudyStore(lead.home).find_study("crp")


def test_the_site_names_it_and_ends_orphans_when_it_starts(lead, monkeypatch, caplog):
    second = lead.publish(name="second")
    approve(lead.home, path_of(lead, second.digest))
    (lead.home.studies / f"{second.digest}.decision.json").unlink()  # as before the decision was written
    outdate(lead, lead.study)
    daemon = SiteDaemon(lead.home, "tests.fedhealth.site.hospital_app.app")
    monkeypatch.setattr("fedhealth.site.daemon.start_forkserver", lambda application: None)
    monkeypatch.setattr(daemon, "_serve_with_reconnect", lambda *_: None)
    daemon.serve()
    assert list_reserved(lead) == ["study crp run 0"]
    assert "crp version 1 is set aside" in caplog.text
    (entry,) = [each for each in verify_log(lead.home.audit) if each["event"] == "study set aside"]
    assert entry["digest"] == lead.study


def test_another_content_of_a_known_version_is_refused(lead):
    with pytest.raises(TrustError, match="crp version 1 is known here with other content"):
        lead.publish(version=1, ethics="EK 99/2026")
    assert list(StudyStore(lead.home).load_studies()) == [lead.study]
    (entry,) = [each for each in verify_log(lead.home.audit) if each["event"] == "study refused"]
    assert entry["reason"].startswith("crp version 1 is known here with other content")
    assert shake(lead, lead.study) == ""
    outdate(lead, lead.study)  # a study that is set aside has a version, too
    with pytest.raises(TrustError, match="crp version 1 is known here with other content"):
        lead.publish(version=1, ethics="EK 99/2026")


def test_two_contents_of_a_version_from_before_are_both_refused(lead, tmp_path):
    store = StudyStore(lead.home)
    kept = path_of(lead, lead.study)
    hidden = kept.rename(tmp_path / "hidden")
    twin = lead.publish(version=1, ethics="EK 99/2026")
    hidden.rename(kept)
    assert len(store.load_studies()) == 2
    for digest in (lead.study, twin.digest):
        assert shake(lead, digest) == "crp version 1 is stored here with two contents: ask the lead for a new version"
