"""Studies under which a hospital answers nothing: each has its own sentence here, and the same one at the lead."""

import time
from dataclasses import replace
from datetime import date, timedelta

import pytest

from clients.app import get_job_cache
from fedhealth.config import compose
from fedhealth.errors import ConfigError, PrivacyError
from fedhealth.models.weights import WEIGHTS_ENV
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.reservations import find_active_reservations
from fedhealth.protocol.messages import HANDSHAKE, TRAIN, Acceptance
from fedhealth.protocol.study_answer import RefusalReason, StudyAnswer
from fedhealth.site.audit_log import verify_log
from fedhealth.site.decline_reasons import UNLISTED_REASON
from fedhealth.site.person_name import BY_POLICY
from fedhealth.site.policy import load_policy
from fedhealth.site.recovery import recover_site
from fedhealth.site.study_approval import decline_study, withdraw_study
from fedhealth.site.study_store import StudyStore
from tests.clients.lying_lead import DECLINED, PRIVATE, LyingLead, read_error
from tests.clients.studies import approve, make_study, send_study

DAY = timedelta(days=1)
TODAY = date.today()
PRETRAINED = ("model/image=resnet18", "model.image.weights=net.safetensors")


@pytest.fixture(name="own_data")
def own_data_(tmp_path, site_writer):
    """Data of a hospital that the test may change."""
    site_writer(tmp_path / "data", "north")
    return tmp_path / "data"


@pytest.fixture(name="lead")
def lead_(tmp_path, own_data):
    return LyingLead(tmp_path, own_data, study={})


def ask_sentence(lead, kind=HANDSHAKE):
    """Return the hospital's own sentence; the lead must read the neutral one, and nothing may be booked."""
    before, directive = lead.books(), lead.directive(TRAIN, 0 if kind == HANDSHAKE else 1)
    reply = lead.send(kind, directive) if kind == HANDSHAKE else lead.ask(kind, directive)
    if kind == HANDSHAKE:
        assert Acceptance.parse(reply.content).reasons == (UNLISTED_REASON,)
    else:
        assert read_error(reply) == DECLINED
    assert lead.books() == before
    (sentence,) = [entry for entry in verify_log(lead.home.audit) if entry["event"] == "run declined"][-1]["reasons"]
    return sentence


def get_study(lead):
    return StudyStore(lead.home).load_studies()[lead.study]


def reserve(lead):
    """Return the runs that the ledger holds a share for."""
    path = get_ledger_path(lead.home.state, "tiny-2026")
    entries = verify_ledger(path) if path.is_file() else ()
    return sorted(held.run for held in find_active_reservations(entries, time.time()))


@pytest.mark.parametrize("kind", [HANDSHAKE, TRAIN])
def test_an_order_without_a_study_or_of_an_unknown_one(lead, kind):
    assert lead.handshake() == ()
    known = lead.study
    lead.study = ""
    assert ask_sentence(lead, kind) == "the run names no study, and limits.unattended_studies is false"
    lead.study = "ab" * 32
    assert ask_sentence(lead, kind) == "the run's study abababababab is not known here"
    lead.study = known
    assert lead.handshake() == ()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"first_day": str(TODAY + DAY)}, f"crp version 2 has not begun: its first day is {TODAY + DAY}"),
        ({"last_day": str(TODAY - DAY)}, f"crp version 2 is over: its last day was {TODAY - DAY}"),
    ],
)
def test_a_study_outside_its_days(lead, fields, sentence):
    lead.set_limits("minor_amendments: true")
    study = lead.publish(version=2, **fields)  # accepted by the policy: only dates change
    lead.study = study.digest
    assert StudyStore(lead.home).load_decision(study.digest).person == "policy"
    assert ask_sentence(lead) == sentence


def test_an_undecided_a_declined_and_a_withdrawn_study(lead):
    lead.study = lead.publish(name="other").digest
    assert ask_sentence(lead) == "nobody has decided on other version 1: `fedhealth site study show other`"
    decline_study(get_study(lead), lead.home, RefusalReason.permit)
    assert ask_sentence(lead) == "other version 1 was declined here"
    approve(lead.home, lead.home.studies / f"{lead.study}.study.json")
    assert lead.handshake() == ()
    assert read_error(lead.ask(TRAIN)) is None
    withdraw_study("other", lead.home, RefusalReason.permit)
    assert ask_sentence(lead, TRAIN) == "the approval of other version 1 was withdrawn here"


def test_a_version_is_declined_and_the_approved_one_goes_on_until_it_is_withdrawn(lead):
    newer = lead.publish(version=2, ethics="EK 13/2026")
    decline_study(newer, lead.home, RefusalReason.other)
    assert lead.handshake() == ()
    assert reserve(lead) == ["run12345"]
    with pytest.raises(ConfigError, match="crp version 1 was approved here"):
        decline_study(get_study(lead), lead.home, RefusalReason.other)
    assert [each.version for each in withdraw_study("crp", lead.home, RefusalReason.other)] == [1]
    assert ask_sentence(lead) == "the approval of crp version 1 was withdrawn here"
    with pytest.raises(ConfigError, match="No version of the study crp is approved"):
        withdraw_study("crp", lead.home, RefusalReason.other)


@pytest.mark.parametrize("answer", [StudyAnswer.outdated, StudyAnswer.suspended])
def test_a_replaced_version_never_comes_back(lead, answer):
    old, new = lead.study, lead.publish(version=2, ethics="EK 13/2026")
    approve(lead.home, lead.home.studies / f"{new.digest}.study.json")
    store = StudyStore(lead.home)
    store.save_decision(new.digest, replace(store.load_decision(new.digest), answer=answer))
    lead.study = old
    assert ask_sentence(lead) == "crp version 1 is replaced here by version 2"
    with pytest.raises(ConfigError, match="was approved here"):  # that would leave its share reserved
        decline_study(new, lead.home, RefusalReason.other)
    assert len(withdraw_study("crp", lead.home, RefusalReason.other)) == 2
    assert store.find_previous_version(replace(new, version=3)) == new  # not what was never approved


def test_a_closed_study_is_not_opened_again_by_a_minor_amendment(lead):
    lead.set_limits("minor_amendments: true")
    minor = lead.publish(version=2, contact="somebody@lead.example")
    assert StudyStore(lead.home).load_decision(minor.digest).person == BY_POLICY
    for version, fields in ((3, {"purpose": "another purpose"}), (4, {"title": "another title"})):
        other = lead.publish(version=version, contact="somebody@lead.example", **fields)
        assert StudyStore(lead.home).load_decision(other.digest) is None
    lead.publish(version=5, closed=True)
    again = lead.publish(version=6, contact="somebody@lead.example")
    assert StudyStore(lead.home).load_decision(again.digest) is None
    lead.study = again.digest
    assert ask_sentence(lead) == "the lead has closed the study crp"


def test_a_name_counts_before_the_beginning_of_a_digest(lead):
    first = lead.publish(name="other")
    named = lead.publish(name=first.digest[:4])
    store = StudyStore(lead.home)
    assert store.find_study(first.digest[:4]) == named
    assert store.find_study(first.digest[:12]) == first
    with pytest.raises(ConfigError):
        store.find_study("")


def test_a_version_without_privacy_gives_the_share_back(lead):
    assert lead.handshake() == ()
    assert reserve(lead)
    lead.words = (*(word for word in lead.words if not word.startswith("privacy")), "privacy=none")
    plain = lead.publish(version=2, epsilon=None)
    approve(lead.home, lead.home.studies / f"{plain.digest}.study.json")
    assert reserve(lead) == []


def test_a_delta_above_the_limit_is_not_approved(lead):
    loose = lead.publish(version=2, delta=0.9)
    with pytest.raises(ConfigError, match=r"states delta 0.9, above limits.max_delta"):
        approve(lead.home, lead.home.studies / f"{loose.digest}.study.json")


def test_a_replaced_and_a_closed_study(lead):
    old = lead.study
    new = lead.publish(version=2, ethics="EK 13/2026")
    assert lead.handshake() == ()  # the older version holds until a person approves the newer one
    approve(lead.home, lead.home.studies / f"{new.digest}.study.json")
    assert ask_sentence(lead) == "crp version 1 is replaced here by version 2"
    lead.study = new.digest
    assert lead.handshake() == ()
    assert reserve(lead)
    closed = lead.publish(version=3, closed=True, ethics="EK 13/2026")
    assert ask_sentence(lead) == "the lead has closed the study crp"
    lead.study = closed.digest
    lead.send(HANDSHAKE, lead.directive(TRAIN, 0))
    assert reserve(lead) == []
    lead.study = old
    assert ask_sentence(lead) == "the lead has closed the study crp"


@pytest.mark.parametrize("kind", [HANDSHAKE, TRAIN])
def test_a_study_approved_on_other_data(lead, own_data, kind):
    path, store = own_data / "north" / "manifest.csv", StudyStore(lead.home)
    before, sentence = path.read_bytes(), "the data are not those that crp version 1 was approved on: approve it again"
    assert lead.handshake() == ()
    added = before + b"new,1,,late note,1,12,200\n"
    for content, answer in ((b"", "approved"), (b"\xff,\0", "approved"), (added, "outdated")):
        path.write_bytes(content)
        get_job_cache.cache_clear()  # as after a restart of the site
        assert ask_sentence(lead, kind) == sentence
        assert store.load_decision(lead.study).answer == answer
        path.write_bytes(before)
    get_job_cache.cache_clear()
    assert ask_sentence(lead, kind) == sentence  # other data had been there: a person looks at them once more
    assert [each.answer for each in store.list_answers()] == [StudyAnswer.outdated]
    approve(lead.home, lead.home.studies / f"{lead.study}.study.json")
    assert lead.handshake() == ()


def test_weights_that_were_replaced_since_the_approval(lead, tmp_path, monkeypatch):
    monkeypatch.setenv(WEIGHTS_ENV, str(tmp_path))
    lead.words = (*(word for word in lead.words if not word.startswith("model.image")), *PRETRAINED)
    with pytest.raises(ConfigError, match=r"The weights net\.safetensors are no file or folder here"):
        lead.publish(name="pretrained")
    file = tmp_path / "net.safetensors"
    file.write_bytes(b"the lead's")
    study = lead.publish(name="pretrained")
    lead.home.policy.write_text(f"{lead.home.policy.read_text()}resources: {{weights: {tmp_path}}}\n")
    received = lead.home.studies / f"{study.digest}.study.json"
    file.write_bytes(b"the hospital's")
    with pytest.raises(ConfigError, match=r"net\.safetensors in resources\.weights are missing, or not those of"):
        approve(lead.home, received)
    file.write_bytes(b"the lead's")
    approve(lead.home, received)
    lead.order(study=study.digest)
    file.write_bytes(b"another one")
    assert ask_sentence(lead) == "the weights net.safetensors are not those of pretrained version 1"
    assert ask_sentence(lead, TRAIN) == "the weights net.safetensors are not those of pretrained version 1"


def test_an_option_of_the_conf_folder_that_the_study_does_not_hold(lead, tmp_path):
    option = tmp_path / "conf" / "personalization" / "own.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("_target_: clients.personalization.finetune.FineTune\nsteps: 3\n")
    lead.home.policy.write_text(f"{lead.home.policy.read_text()}conf: {tmp_path / 'conf'}\n")
    assert lead.handshake() == ()
    lead.order("personalization=own")
    sentence = "personalization.steps, which crp version 1 does not leave open"
    assert sentence in ask_sentence(lead)
    own = replace(make_study(lead.words, config_dir=tmp_path / "conf"), name="own")
    lead.study = send_study(lead.consortium, lead.home, own).digest
    approve(lead.home, lead.home.studies / f"{lead.study}.study.json")
    option.write_text("_target_: clients.personalization.finetune.FineTune\nsteps: 300\n")
    sentence = "this release or its conf folder composes another configuration than own version 1 holds: "
    assert ask_sentence(lead) == f"{sentence}personalization.steps"


def test_a_machine_that_was_restored_from_a_backup(lead):
    recover_site(lead.home)
    sentence = "crp version 1 was approved before this machine was restored from a backup: approve it again"
    assert ask_sentence(lead) == sentence
    assert StudyStore(lead.home).load_decision(lead.study).answer is StudyAnswer.suspended


def test_a_study_that_does_not_name_the_hospital(lead):
    words = [word if not word.startswith("data.sites") else "data.sites=[member-01,member-02]" for word in lead.words]
    lead.study = send_study(lead.consortium, lead.home, make_study(words, name="others")).digest
    assert ask_sentence(lead) == "others version 1 does not name this hospital"


def test_a_release_with_other_defaults(lead, monkeypatch):
    """After an update, the same words compose to something else: the lead's release does, and so does the site's."""
    compose_now = compose.hydra_compose

    def change_default(*arguments, **options):
        config = compose_now(*arguments, **options)
        config.data.split.validation = 0.2
        return config

    monkeypatch.setattr(compose, "hydra_compose", change_default)
    lead.order()
    sentence = "this release or its conf folder composes another configuration than crp version 1 holds: "
    assert ask_sentence(lead) == f"{sentence}data.split.validation"


def test_more_runs_than_the_study_has(lead):
    store = StudyStore(lead.home)
    assert store.record_run("crp", "anotherrun1", 1)
    assert ask_sentence(lead, TRAIN) == "all 1 runs of the study crp are used"
    assert ask_sentence(lead) == "all 1 runs of the study crp are used"


def test_two_studies_of_one_data_set_share_its_ledger(lead):
    assert reserve(lead) == ["study crp run 0"]
    lead.set_limits("lifetime_epsilon: 9")
    second = lead.publish(name="second")
    with pytest.raises(PrivacyError, match="the share of the study second does not fit into the privacy budget"):
        approve(lead.home, lead.home.studies / f"{second.digest}.study.json")
    assert StudyStore(lead.home).load_decision(second.digest) is None
    withdraw_study("crp", lead.home, RefusalReason.other)
    assert reserve(lead) == []
    approve(lead.home, lead.home.studies / f"{second.digest}.study.json")
    assert reserve(lead) == ["study second run 0"]
    lead.study = second.digest
    assert lead.handshake() == ()
    assert reserve(lead) == ["run12345"]


def test_a_study_whose_runs_spend_more_than_it_states(lead):
    study = lead.publish(name="understated", epsilon=2.0)
    with pytest.raises(PrivacyError, match=r"would spend epsilon 7\.\d+ at delta .+, it states epsilon 2 at"):
        approve(lead.home, lead.home.studies / f"{study.digest}.study.json")


def test_where_no_person_is_needed_a_known_study_binds_all_the_same(meet):
    lead = meet(words=PRIVATE)
    lead.study = lead.publish().digest
    assert lead.handshake() == ()
    lead.order("training.local_steps=2")
    assert ask_sentence(lead) == "the run sets training.local_steps, which crp version 1 does not leave open"
    decline_study(get_study(lead), lead.home, RefusalReason.other)
    assert ask_sentence(lead) == "crp version 1 was declined here"
    assert load_policy(lead.home).limits.unattended_studies
