"""A hospital's numbers, from its own files; nothing of a patient, no torch in the runner."""

import logging
import subprocess
import sys
import time

import pytest

from fedhealth.monitor import exposition
from fedhealth.monitor.site_metrics import AuditCounter, SiteMetrics, SiteMetricsFile
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.ledger import Ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path, get_spending_summary_path
from fedhealth.privacy.accounting.limits import EpsilonLimits
from fedhealth.runs.run_dir import METRICS_FILE
from fedhealth.site import daemon_state as module
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.daemon_state import DaemonState
from fedhealth.site.home import SiteHome
from fedhealth.utils.atomic_io import write_json
from tests.fedhealth.monitor.test_run_metrics import values

SITE = ("site", "charite")
WARD = ("dataset", "ward-7")


@pytest.fixture
def home(tmp_path):
    home = SiteHome(tmp_path / "home")
    home.create()
    home.policy.write_text("name: charite\nlead: lead.example:9092\nlimits: {lifetime_epsilon: 12}\n")
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
    path = get_ledger_path(home.state, "ward-7")
    with Ledger.open(path) as ledger:
        ledger.book("abc", 1, "patient", PrivacyEvent(2.0, 0.1, 10), EpsilonLimits(1e-5))
    write_json(get_spending_summary_path(path), {"epsilon": 3.5, "delta": 1e-5, "entries": 1})
    return path


def numbers(home):
    return values(exposition.render_metrics(SiteMetrics(home)))


def test_a_site_in_numbers(home, ledger):
    state = DaemonState(home)
    with state.lock():
        state.update_status(state="connected", site="charite")
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
    assert found["fedhealth_site_epsilon_delta", WARD, SITE] == 1e-5
    assert found["fedhealth_site_noise_multiplier", WARD, SITE] == 2.0
    assert found["fedhealth_site_failed_bookings_total", WARD, SITE] == 0
    assert found["fedhealth_site_epsilon_limit", WARD, SITE] == 12
    assert found["fedhealth_site_budget_declined_total", WARD, SITE] == 0
    assert found["fedhealth_site_ledger_broken", WARD, SITE] == 0


def test_every_epsilon_is_explained_with_its_delta(home, ledger):
    text = exposition.render_metrics(SiteMetrics(home)).decode()
    found = [line for line in text.splitlines() if line.startswith("# HELP") and "epsilon" in line.lower()]
    assert len(found) == 3
    assert all("fedhealth_site_epsilon_delta" in line and "for each patient" in line for line in found)


def test_half_a_summary_after_a_power_cut_counts_as_none(home, ledger):
    get_spending_summary_path(ledger).write_text('{"epsilon": 3')
    DaemonState(home).update_status(site="charite")
    assert ("fedhealth_site_epsilon_spent", WARD, SITE) not in numbers(home)


def test_a_runner_that_is_gone_is_down(home):
    DaemonState(home).update_status(state="connected", site="charite")
    found = numbers(home)
    assert found["fedhealth_site_up", SITE] == 0
    assert found["fedhealth_site_state", SITE, ("state", "stopped")] == 1


def test_a_touched_ledger_shows(home, ledger):
    ledger.write_bytes(ledger.read_bytes().replace(b'"steps":10', b'"steps":11'))
    DaemonState(home).update_status(site="charite")
    assert numbers(home)["fedhealth_site_ledger_broken", WARD, SITE] == 1


def test_the_time_of_the_last_contact_stays_when_the_lead_is_away(home, monkeypatch):
    state = DaemonState(home)
    with state.lock():
        state.update_status(state="connected", site="charite")
        state.update_status(state="offline", error="no connection")
        contact = state.status["contact"]
        monkeypatch.setattr(time, "time", lambda: contact + 500)
        state.update_status(state="offline", error="no connection")
        assert numbers(home)["fedhealth_site_contact_timestamp_seconds", SITE] == contact


def test_the_duration_of_a_task_is_kept(home):
    state = DaemonState(home)
    state.update_status(state="working", site="charite")
    state.update_status(state="connected")
    assert 0 <= state.status["task_seconds"] < 60


def test_every_word_and_every_beat_writes_the_file(home, monkeypatch):
    monkeypatch.setattr(module, "_METRICS_SECONDS", 0.01)
    state, path = DaemonState(home, SiteMetricsFile(home).write), home.daemon_folder / METRICS_FILE
    with state.lock():
        state.update_status(state="connected", site="charite")
        first = values(path.read_text())["fedhealth_site_written_timestamp_seconds", SITE]
        ends = time.monotonic() + 30
        while values(path.read_text())["fedhealth_site_written_timestamp_seconds", SITE] <= first:
            assert time.monotonic() < ends
            time.sleep(0.01)
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_file_may_lie_where_node_exporter_looks(home, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDHEALTH_METRICS", str(tmp_path / "fedhealth.prom"))
    DaemonState(home, SiteMetricsFile(home).write).update_status(state="connected", site="charite")
    assert (tmp_path / "fedhealth.prom").is_file()
    assert not (home.daemon_folder / METRICS_FILE).exists()


def test_a_full_disk_stops_no_site(home, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("fedhealth"), "propagate", True)

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    monkeypatch.setenv("FEDHEALTH_METRICS", str(home.path / "no" / "folder.prom"))
    DaemonState(home, SiteMetricsFile(home).write).update_status(state="connected")
    assert "could not be written" in caplog.text
    assert "could not be written" in caplog.text.partition("\n")[2]


def test_the_audit_log_is_read_once(home):
    count = AuditCounter(home.audit).update()
    assert count.update().sent == 1050
    AuditLog(home.audit).write("left", kind="train.fit", run="abc", round=5, bytes=1, records=[], sha256="")
    assert (count.update().sent, count.round, count.trained) == (1051, 5, 2)
    home.audit.write_bytes(b"")
    assert count.update().sent == 0


def test_the_runner_loads_no_torch_for_it():
    code = "import sys, fedhealth.monitor.site_metrics; print({'torch', 'scipy', 'opacus'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
