"""The runner with real workers: it answers, believes the lead alone, and outlives what its tasks do."""

import errno
import json
import os
import threading
import time

import pytest

from fedhealth.consortium.identity import get_secrets_folder
from fedhealth.consortium.signed_job import SignedJob, verify_job
from fedhealth.errors import StartRefusedError, TrustError
from fedhealth.flower.app_bundle import build_bundle
from fedhealth.flower.client.http_client import ConnectionLostError, RequestRefusedError
from fedhealth.lead.sign_job import sign_job
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.protocol.messages import END, TIMED_KINDS
from fedhealth.site import active_run
from fedhealth.site import daemon as module
from fedhealth.site.active_run import read_protection
from fedhealth.site.audit_log import verify_log
from fedhealth.site.daemon import SiteDaemon
from fedhealth.site.daemon_state import DaemonState
from fedhealth.site.home import SiteHome
from fedhealth.site.job_history import JobHistory
from fedhealth.site.reply_grid import compute_reply_slot
from fedhealth.utils.atomic_io import write_atomic
from tests.fedhealth.site.network import Network
from tests.fedhealth.site.trust import Consortium

pytestmark = pytest.mark.xdist_group("runner")  # one process from which workers are forked

POLICY = """\
name: charite
lead: lead.example:9092
resources: {{minutes: {minutes}, memory_gb: {memory_gb}, incoming_megabytes: {megabytes}}}
"""


class Hospital:
    """One site with its runner in a thread."""

    def __init__(self, root):
        self.consortium = Consortium(root)
        self.home: SiteHome = self.consortium.homes["charite"]
        self.home.kit.mkdir(exist_ok=True)
        self.home.membership.write_bytes(self.consortium.lead.membership.read_bytes())
        self.policy()
        self.network = Network(self.consortium.lead)
        self.runner = SiteDaemon(self.home, "tests.fedhealth.site.hospital_app.app")
        self.thread = threading.Thread(target=self.runner.serve, name="runner")

    def policy(self, minutes=1.0, memory_gb=4.0, megabytes=10.0):
        text = POLICY.format(minutes=minutes, memory_gb=memory_gb, megabytes=megabytes)
        write_atomic(self.home.policy, text.encode())  # the runner reads it at any moment

    def offer_data(self, name, dataset):
        with self.home.policy.open("a") as file:
            file.write(f"data: {{{name}: {{dataset: {dataset}, root: {self.home.path}}}}}\n")

    def ask(self, name, kind="query.handshake", number=7):
        self.network.ask(number, kind, name)
        return self.network.answer(name)

    def said(self, name, kind="query.handshake", number=7):
        return self.ask(name, kind, number).content["said"]

    def logged(self, event):
        return [entry for entry in verify_log(self.home.audit) if entry["event"] == event]

    def until(self, so, seconds=30.0):
        ends = time.monotonic() + seconds
        while not so():
            assert time.monotonic() < ends
            time.sleep(0.02)


@pytest.fixture(name="hospital")
def hospital_(tmp_path, monkeypatch):
    site = Hospital(tmp_path)
    monkeypatch.setattr(module, "connect_to_lead", site.network.connected)
    monkeypatch.setattr(module, "_POLL_SECONDS", (0.02, 0.02))
    monkeypatch.setattr(module, "_RECONNECT_BACKOFF_SECONDS", (0.05, 0.1))
    monkeypatch.setattr(module, "_RUN_CHECK_SECONDS", 0.0)
    site.network.start_job("run00001", 7)
    site.thread.start()
    yield site
    site.runner.stopping.set()
    site.thread.join()
    assert DaemonState(site.home).status["state"] == "stopped"


def test_one_warm_worker_answers_all_messages_of_a_run(hospital):
    first, second = hospital.said("a"), hospital.said("b", "train.fit")
    assert first["pid"] == second["pid"] != os.getpid()
    assert first["home"] == str(hospital.home.path)
    assert json.loads(str(first["job"]))["run"] == "run00001"
    hospital.network.start_job("run00002", 8)
    assert hospital.said("c", number=8)["pid"] != first["pid"]
    assert [entry["run"] for entry in hospital.logged("accepted")] == ["run00001", "run00002"]


@pytest.mark.parametrize(
    ("kind", "limits"),
    [("train.crash", {}), ("train.hang", {"minutes": 0.005}), ("train.swell", {"memory_gb": 0.7})],
)
def test_a_lost_worker_costs_one_task_and_is_answered_at_once(hospital, kind, limits):
    before = hospital.said("before")["pid"]
    hospital.policy(**limits)
    assert hospital.ask("lost", kind).error.reason == "SiteTaskError"
    hospital.policy()
    assert hospital.said("after")["pid"] != before


@pytest.fixture(name="crash_touches_data")
def crash_touches_data_(monkeypatch):
    for place in (module, active_run):
        monkeypatch.setattr(place, "TIMED_KINDS", TIMED_KINDS | {"train.crash"})


@pytest.mark.usefixtures("crash_touches_data")
def test_without_a_record_of_a_lost_worker_no_reply_leaves(hospital):
    """The worker may have died of a patient's data: the run's bookings are spent first, or the site stays offline."""
    hospital.said("before")
    ledger = hospital.home.state / "privacy" / "tiny.jsonl"
    ledger.parent.mkdir(parents=True)
    ledger.write_text('{"run": "run00001"}\n' * 3)  # it names the run, and is damaged
    hospital.network.ask(7, "train.crash", "lost")
    hospital.until(lambda: hospital.network.connections >= 2)  # it went offline and came back
    assert "lost" not in hospital.network.answers
    ledger.unlink()
    assert hospital.network.answer("lost").error.reason == "SiteTaskError"


@pytest.mark.usefixtures("crash_touches_data")
def test_replies_of_a_private_run_leave_on_the_time_grid(hospital, monkeypatch):
    monkeypatch.setattr(module, "read_protection", lambda job, conf: (True, None))
    hospital.network.start_job("run00002", 8)
    for name, kind in (("joined", "query.handshake"), ("trained", "train.fit"), ("lost", "train.crash")):
        hospital.ask(name, kind, number=8)
        slots = [compute_reply_slot(0.0) * 1.25**k for k in range(60)]
        assert any(hospital.network.seconds[name] == pytest.approx(slot) for slot in slots)
    hospital.ask("other", "query.sign", number=8)
    assert not any(hospital.network.seconds["other"] == pytest.approx(slot) for slot in slots)


def test_denormal_numbers_take_no_time_in_a_private_run(hospital, monkeypatch):
    assert hospital.said("public")["flushed"] is False
    monkeypatch.setattr(module, "read_protection", lambda job, conf: (True, None))
    hospital.network.start_job("run00002", 8)
    assert hospital.said("private", number=8)["flushed"] is True


@pytest.mark.usefixtures("crash_touches_data")
def test_a_lost_worker_of_a_private_run_counts_before_anything_is_booked(hospital):
    hospital.offer_data("chest", "chest-2026")
    overrides, bundle = ["privacy=patient", "data.name=chest"], build_bundle().digest
    job, signature = sign_job(hospital.consortium.lead, "run00002", overrides, "0" * 64, bundle, 1.0)
    hospital.network.start(8, job, signature)
    assert hospital.ask("lost", "train.crash", number=8).error.reason == "SiteTaskError"
    (line,) = verify_ledger(hospital.home.state / "privacy" / "chest-2026.jsonl")
    assert (line.kind, line.run, line.booking, line.event) == ("fail", "run00002", 0, None)


def test_the_time_of_a_task_is_not_sent(hospital):
    """It follows the data: the number of rows, their lengths, the size of the images."""
    for name, kind in (("joined", "query.handshake"), ("trained", "train.fit"), ("lost", "train.crash")):
        hospital.ask(name, kind)
        assert hospital.network.seconds[name] == 0.0


def test_a_reply_does_not_show_when_it_was_made(hospital):
    for name, kind in (("a", "train.fit"), ("lost", "train.crash")):
        reply = hospital.ask(name, kind)
        request = hospital.network.request(name)
        assert (reply.metadata.created_at, reply.metadata.ttl) == (request.metadata.created_at, request.metadata.ttl)


@pytest.mark.parametrize(("overrides", "private"), [(["privacy=patient"], True), (["seed=1"], False), (["x=["], True)])
def test_a_job_that_is_not_known_to_be_public_is_private(overrides, private):
    job = SignedJob("chest", "run00001", tuple(overrides), "0" * 64, "0" * 64, "0" * 64, 0, 1, "0" * 32)
    assert read_protection(job, None)[0] == private


def test_a_full_disk_answers_nothing_and_loses_nothing(hospital, monkeypatch):
    """What cannot be written into the audit log does not leave; with room again the site answers it by itself."""

    def full(event, **fields):
        raise OSError(errno.ENOSPC, "No space left on device")

    hospital.said("before")
    hospital.network.start_job("run00002", 8)
    with monkeypatch.context() as patch:
        patch.setattr(hospital.runner._audit, "write", full)
        hospital.network.ask(8, "query.handshake", "kept")
        hospital.until(lambda: hospital.network.connections == 2)  # it went offline and came back
        assert "kept" not in hospital.network.answers
    hospital.until(lambda: "kept" in hospital.network.answers)
    assert hospital.said("after", number=8)


def test_the_status_forgets_a_refusal_when_the_refused_run_has_ended(hospital, tmp_path):
    status = DaemonState(hospital.home)
    hospital.network.start_job("run00011", 11, signer=Consortium(tmp_path / "other").lead)
    hospital.ask("refused", number=11)
    hospital.until(lambda: status.status.get("error"))
    hospital.network.over.add(11)
    hospital.until(lambda: status.status.get("error") is None)


def test_a_message_that_is_too_large_is_refused(hospital):
    hospital.policy(megabytes=1e-6)
    assert hospital.ask("large").error.reason == "FederationError"
    hospital.policy()
    assert hospital.said("small")


def test_a_run_of_somebody_else_is_refused_and_the_site_stays_up(hospital, tmp_path):
    network, other = hospital.network, Consortium(tmp_path / "other")
    genuine = network.runs[7].config
    network.start_job("run00011", 11, signer=other.lead)  # not the lead
    network.start_job("run00012", 12, fab="ab" * 32)  # another bundle, named by the signature too
    network.start(13, genuine["job"], genuine["signature"], fab="cd" * 32)  # the right name, another hash
    network.start(14, genuine["job"].replace("seed=1", "seed=2"), genuine["signature"])
    network.start(15, "", "")
    network.start(16, "[" * 10_000, "00" * 64)
    for number in range(11, 17):
        refusal = "not-signed" if number in (11, 14, 15, 16) else "other-release"
        assert hospital.ask(f"m{number}", number=number).error.reason == refusal
        assert f"m{number}" not in network.confirmed  # not fetched: the server would not know what it still gets
    assert len(hospital.logged("declined")) == 6
    assert not hospital.logged("accepted")
    assert hospital.said("genuine")


def test_a_completed_run_is_forgotten_and_never_taken_up_again(hospital):
    network = hospital.network
    hospital.said("a")
    secrets = get_secrets_folder("run00001", "charite", hospital.home.state)
    secrets.mkdir(parents=True)
    assert not hospital.ask("done", END).content
    status = DaemonState(hospital.home).status
    assert (status["run"], status["task"]) == (None, None)
    assert [(entry["run"], entry["by"]) for entry in hospital.logged("ended")] == [("run00001", "lead")]
    assert not secrets.exists()
    network.start(8, **network.runs[7].config)
    assert hospital.ask("replayed", number=8).error.reason == "job-ended"


def test_a_stopped_run_may_go_on_later(hospital):
    network = hospital.network
    hospital.said("a")
    network.over.add(7)
    hospital.until(lambda: not hospital.runner._runs)
    network.start_job("run00001", 8)
    assert hospital.said("b", number=8)


def test_a_run_that_took_too_long_is_forgotten_at_the_next_start(tmp_path):
    site = Hospital(tmp_path)
    history = JobHistory(site.home, clock=lambda: time.time() - 100 * 3600)
    content, signature = sign_job(site.consortium.lead, "run00001", ["seed=1"], "0" * 64, build_bundle().digest, 1.0)
    membership = site.consortium.membership()
    history.start_or_resume(verify_job(content, signature, membership, build_bundle().digest), 72.0)
    site.runner.stopping.set()
    site.runner.serve()
    assert [(entry["run"], entry["by"]) for entry in site.logged("ended")] == [("run00001", "expiry")]


def test_an_answer_waits_for_the_connection(hospital):
    hospital.network.faults.extend([ConnectionLostError("out"), ConnectionLostError("still out")])
    assert hospital.said("late")
    assert hospital.network.connections == 3
    hospital.until(lambda: DaemonState(hospital.home).status["state"] == "connected")


def test_an_answer_that_nobody_wants_any_more_is_dropped(hospital):
    hospital.network.faults.append(RequestRefusedError("the run has ended"))
    hospital.network.ask(7, "query.handshake", "unwanted")
    assert hospital.said("next")
    assert "unwanted" not in hospital.network.answers
    assert hospital.network.connections == 1


def test_a_paused_site_takes_nothing(hospital):
    state = DaemonState(hospital.home)
    state.pause("here")
    hospital.until(lambda: state.status.get("state") == "paused")
    hospital.network.ask(7, "query.handshake", "waits")
    time.sleep(0.2)
    assert hospital.network.waiting
    state.resume("here")
    assert hospital.network.answer("waits")


def test_two_runners_of_one_site_are_refused(hospital):
    hospital.said("a")
    with pytest.raises(StartRefusedError, match="running already"):
        SiteDaemon(hospital.home, "tests.fedhealth.site.hospital_app.app").serve()
    assert DaemonState(hospital.home).pid == os.getpid()


def test_without_a_kit_it_does_not_start(tmp_path):
    site = Hospital(tmp_path)
    site.home.membership.unlink()
    with pytest.raises(TrustError, match="membership"):
        site.runner.serve()


def test_without_its_identity_key_a_site_does_not_start(tmp_path):
    site = Hospital(tmp_path)
    (site.home.keys / "identity.key").unlink()
    with pytest.raises(TrustError, match=r"identity\.key cannot be read"):
        site.runner.serve()
