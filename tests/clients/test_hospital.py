"""A hospital's answers to signed jobs: under its policy, through its gate, into its log."""

import json
import time

import pytest
from flwr.app import RecordDict

from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.consortium.signed_job import SignedJob
from fedhealth.protocol.array_codec import pack_arrays
from fedhealth.protocol.count_codec import unpack_counts
from fedhealth.protocol.messages import GLOBAL, HANDSHAKE, STATEMENT, STATISTICS, TRAIN, UPDATE, Acceptance
from fedhealth.site.audit_log import verify_log
from strategies.app import build_initial_state
from tests.clients.member import Member


@pytest.fixture(name="hospital")
def hospital_(tmp_path, good_hospitals, tiny_overrides):
    return Hospital(tmp_path, good_hospitals, tiny_overrides(good_hospitals))


class Hospital(Member):
    """One member's home, and a job that the lead may send it."""

    def __init__(self, tmp_path, data, overrides):
        super().__init__(tmp_path, data, overrides)
        self.config = compose_config([*self.overrides, f"data.root={data}"])
        self.write_policy()

    def ask(self, kind, number=0, run="run12345", content=None):
        """Send one message as the runner does and return the reply."""
        now = int(time.time())
        job = SignedJob(
            "chest",
            "run12345",
            tuple(self.overrides),
            compute_config_digest(self.config),
            "0" * 64,
            "0" * 64,
            now,
            now + 60,
            "0" * 32,
        )
        return self.send(job, kind, run, number, content)

    def train(self, number=1):
        from omegaconf import OmegaConf

        state = build_initial_state(OmegaConf.to_object(self.config))
        return self.ask(TRAIN, number, content={GLOBAL: pack_arrays(state)})

    @property
    def events(self):
        return [entry["event"] for entry in verify_log(self.home.audit)]


def test_a_hospital_accepts_trains_and_logs_what_left(hospital):
    assert Acceptance.parse(hospital.ask(HANDSHAKE).content).reasons == ()
    reply = hospital.train()
    assert set(reply.content) == {UPDATE, STATISTICS, STATEMENT}
    assert hospital.events == ["asked", "data", "statement", "left", "asked", "statement", "left"]
    assert "patient" not in hospital.home.audit.read_text()


def test_without_a_policy_nothing_leaves_but_the_kind_of_the_fault(hospital):
    hospital.home.policy.unlink()
    reply = hospital.ask(HANDSHAKE)
    assert (reply.error.code, reply.error.reason) == (1002, "ConfigError")
    assert hospital.events == ["failed"]


def test_a_change_of_the_policy_holds_at_once(hospital):
    assert Acceptance.parse(hospital.ask(HANDSHAKE).content).reasons == ()
    hospital.home.policy.write_text(hospital.home.policy.read_text().replace("units: [none]", "units: [patient]"))
    reasons = Acceptance.parse(hospital.ask(HANDSHAKE).content).reasons
    assert reasons == ("the privacy unit none is not allowed here, only: patient",)
    assert hospital.train().error.reason == "RequestMismatchError"
    assert hospital.events == [
        "asked",
        "data",
        "statement",
        "left",
        "asked",
        "run declined",
        "left",
        "asked",
        "run declined",
        "failed",
    ]


def test_a_message_of_another_run_than_the_signed_one_is_refused(hospital):
    assert hospital.ask(HANDSHAKE, run="another1").error.reason == "RequestMismatchError"


def test_a_small_cohort_reports_nothing_on_its_own(hospital):
    hospital.write_policy(min_patients=8)  # the validation split has fewer
    sizes = {name: len(vector) for name, vector in unpack_counts(hospital.train().content[STATISTICS]).items()}
    assert "train.examples" in sizes
    assert not any(name.startswith("validation.") for name in sizes)
    hospital.write_policy(min_patients=1000)
    reply = hospital.ask(HANDSHAKE)
    assert Acceptance.parse(reply.content).reasons == ("the cohort is too small to report on its own",)
    assert Acceptance.parse(reply.content).weights == {}


def test_a_patients_name_in_an_exception_stays(hospital, monkeypatch):
    def broken(*_):
        raise RuntimeError("Mrs Example, born 1950, has a bad row")

    monkeypatch.setattr("clients.institution.Institution.train", broken)
    reply = hospital.train()
    assert (reply.error.code, reply.error.reason) == (1000, "InternalError")
    assert "Example" not in json.dumps([dict(entry) for entry in verify_log(hospital.home.audit)])


def test_a_site_says_nothing_that_was_not_predicted(hospital, monkeypatch):
    def chatty(self, message):
        return RecordDict({"remark": pack_arrays({})})

    monkeypatch.setattr("clients.institution.Institution.train", chatty)
    assert hospital.train().error.reason == "PrivacyError"
    assert hospital.events == ["asked", "statement", "refused", "failed"]
