"""A hospital's numbers, from its own files; nothing of a patient, no torch in the runner."""

import logging
import subprocess
import sys
import time

import pytest
from tests.fedhealth.monitor.test_runs import values

from fedhealth.monitor import exposition
from fedhealth.monitor.site_metrics import AuditCount, MetricsFile, SiteMetrics
from fedhealth.privacy.accounting.accountant import Event
from fedhealth.privacy.accounting.ledger import Budget, Ledger
from fedhealth.privacy.accounting.ledger_folder import spent_path
from fedhealth.privacy.accounting.spending import ledger_path
from fedhealth.runs.run_dir import METRICS
from fedhealth.site import daemon_state as module
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.daemon_state import SiteState
from fedhealth.site.home import SiteHome
from fedhealth.utils.atomic_io import write_json

SITE = ("site", "charite")
WARD = ("dataset", "ward-7")


@pytest.fixture
def home(tmp_path):
    home = SiteHome(tmp_path / "home")
    home.create()
    home.policy.write_text("name: charite\nlead: lead.example:9092\nlimits: {life_epsilon: 12}\n")
    write = AuditLog(home.audit).write
    write("started")
    write("left", kind="query.handshake", run="abc", round=0, bytes=50, records=[], sha256="")
    write("left", kind="train.fit", run="abc", round=4, bytes=1000, records=[], sha256="")
    write("failed", kind="train.fit", code=1003, reason="DataError")
    write("refused", kind="train.fit", run="abc", round=5, bytes=9, faults=["too large"])
    write("declined", kind="train.fit", flower_run="7", reason="TrustError")
    return home


@pytest.fixture
def ledger(home):
    path = ledger_path(home.state, "ward-7")
    with Ledger.open(path) as ledger:
        ledger.reserve("abc", 1, "patient", Event(2.0, 0.1, 10), Budget(1e-5))
    write_json(spent_path(path), {"epsilon": 3.5, "delta": 1e-5, "entries": 1})
    return path


def numbers(home):
    return values(exposition.text_of(SiteMetrics(home)))


def test_a_site_in_numbers(home, ledger):
    state = SiteState(home)
    with state.held():
        state.say(state="connected", site="charite")
        found = numbers(home)
    assert found["fedhealth_site_up", SITE] == 1
    assert found["fedhealth_site_state", SITE, ("state", "connected")] == 1
    assert found["fedhealth_site_contact_timestamp_seconds", SITE] == pytest.approx(time.time(), abs=30)
    assert found["fedhealth_site_round", SITE] == 4
    assert found["fedhealth_site_rounds_total", SITE] == 1
    assert found["fedhealth_site_sent_bytes_total", SITE] == 1050
    assert found["fedhealth_site_declined_total", SITE] == 1
    for kind in ("DataError", "TrustError", "refused"):
        assert found["fedhealth_site_errors_total", ("kind", kind), SITE] == 1
    assert found["fedhealth_site_epsilon_spent", WARD, SITE] == 3.5
    assert found["fedhealth_site_epsilon_limit", WARD, SITE] == 12
    assert found["fedhealth_site_budget_declined_total", WARD, SITE] == 0
    assert found["fedhealth_site_ledger_broken", WARD, SITE] == 0


def test_a_runner_that_is_gone_is_down(home):
    SiteState(home).say(state="connected", site="charite")
    found = numbers(home)
    assert found["fedhealth_site_up", SITE] == 0
    assert found["fedhealth_site_state", SITE, ("state", "stopped")] == 1


def test_a_touched_ledger_shows(home, ledger):
    ledger.write_bytes(ledger.read_bytes().replace(b'"steps":10', b'"steps":11'))
    SiteState(home).say(site="charite")
    assert numbers(home)["fedhealth_site_ledger_broken", WARD, SITE] == 1


def test_the_time_of_the_last_contact_stays_when_the_lead_is_away(home, monkeypatch):
    state = SiteState(home)
    with state.held():
        state.say(state="connected", site="charite")
        state.say(state="offline", error="no connection")
        contact = state.about["contact"]
        monkeypatch.setattr(time, "time", lambda: contact + 500)
        state.say(state="offline", error="no connection")
        assert numbers(home)["fedhealth_site_contact_timestamp_seconds", SITE] == contact


def test_the_duration_of_a_task_is_kept(home):
    state = SiteState(home)
    state.say(state="working", site="charite")
    state.say(state="connected")
    assert 0 <= state.about["task_seconds"] < 60


def test_every_word_and_every_beat_writes_the_file(home, monkeypatch):
    monkeypatch.setattr(module, "_BEAT_SECONDS", 0.01)
    state, path = SiteState(home, MetricsFile(home).write), home.run / METRICS
    with state.held():
        state.say(state="connected", site="charite")
        first = values(path.read_text())["fedhealth_site_written_timestamp_seconds", SITE]
        ends = time.monotonic() + 30
        while values(path.read_text())["fedhealth_site_written_timestamp_seconds", SITE] <= first:
            assert time.monotonic() < ends
            time.sleep(0.01)
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_file_may_lie_where_node_exporter_looks(home, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDHEALTH_METRICS", str(tmp_path / "fedhealth.prom"))
    SiteState(home, MetricsFile(home).write).say(state="connected", site="charite")
    assert (tmp_path / "fedhealth.prom").is_file()
    assert not (home.run / METRICS).exists()


def test_a_full_disk_stops_no_site(home, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("fedhealth"), "propagate", True)

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    monkeypatch.setenv("FEDHEALTH_METRICS", str(home.path / "no" / "folder.prom"))
    SiteState(home, MetricsFile(home).write).say(state="connected")
    assert "the state could not be written" in caplog.text
    assert "could not be written" in caplog.text.partition("\n")[2]


def test_the_audit_log_is_read_once(home):
    count = AuditCount(home.audit).read()
    assert count.read().sent == 1050
    AuditLog(home.audit).write("left", kind="train.fit", run="abc", round=5, bytes=1, records=[], sha256="")
    assert (count.read().sent, count.round, count.trained) == (1051, 5, 2)
    home.audit.write_bytes(b"")
    assert count.read().sent == 0


def test_the_runner_loads_no_torch_for_it():
    code = "import sys, fedhealth.monitor.site_metrics; print({'torch', 'scipy', 'opacus'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
