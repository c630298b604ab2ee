"""The lead's numbers, read by the parser that Prometheus' own library has."""

import threading
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fedhealth.errors import ConfigError, FederationError
from fedhealth.lead.home import LeadHome
from fedhealth.lead.job_store import save_job
from fedhealth.monitor import exposition, run_metrics
from fedhealth.monitor.run_metrics import RunMetrics, find_current_runs, monitor_run
from fedhealth.protocol.job import Job
from fedhealth.runs.run_dir import METRICS_FILE
from fedhealth.runtime.local_consortium import find_free_ports
from tests.conftest import begun


def values(text):
    """Return every sample by name and labels."""
    families = text_string_to_metric_families(text if isinstance(text, str) else text.decode())
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


@pytest.fixture
def run(tmp_path):
    run = begun(tmp_path / "run", "abc")
    run.append_event("site_failed", round=1, site="south", reason="DataError (see the site's own log)")
    run.append_event("round_completed", round=1, seconds=2.5, sites=["north"], pooled={})
    return run


def test_a_run_in_numbers(run):
    with run.lock():
        found = values(exposition.render_metrics(RunMetrics(lambda: [run])))
    one = ("run", "abc")
    assert found["fedhealth_run_state", ("name", "chest"), one, ("state", "running")] == 1
    assert found["fedhealth_run_state", ("name", "chest"), one, ("state", "failed")] == 0
    assert found["fedhealth_run_round", one] == 1
    assert found["fedhealth_run_rounds", one] == 3
    assert found["fedhealth_run_rounds_completed", one] == 1
    assert found["fedhealth_run_round_seconds", one] == 2.5
    assert found["fedhealth_run_bytes_total", ("direction", "to"), one, ("site", "north")] == 100
    assert found["fedhealth_run_bytes_total", ("direction", "from"), one, ("site", "north")] == 70
    assert found["fedhealth_run_site_errors_total", ("kind", "DataError"), one, ("site", "south")] == 1
    assert found["fedhealth_run_site_answered_timestamp_seconds", one, ("site", "north")] > 1e9


def test_only_new_events_are_read(run):
    collector = RunMetrics(lambda: [run])
    exposition.render_metrics(collector)
    run.append_event("site_answered", round=2, site="north", seconds=1.0, sent=1, received=1)
    found = values(exposition.render_metrics(collector))
    assert found["fedhealth_run_bytes_total", ("direction", "to"), ("run", "abc"), ("site", "north")] == 101


def test_the_run_directory_holds_them_up_to_the_end(run, monkeypatch):
    monkeypatch.setattr(run_metrics, "_POLL_SECONDS", 0.01)
    path, before = run.path / METRICS_FILE, threading.active_count()
    with run.lock(), monitor_run(run):
        state = ("fedhealth_run_state", ("name", "chest"), ("run", "abc"))
        while not path.is_file():
            threading.Event().wait(0.01)
        assert values(path.read_text())[*state, ("state", "running")] == 1
        run.mark_failed(FederationError("Too few."))
    assert values(path.read_text())[*state, ("state", "failed")] == 1
    assert path.stat().st_mode & 0o777 == 0o644
    assert threading.active_count() == before
    assert [each.name for each in run.path.glob(".*")] == [".lock"]


def test_the_servers_part_of_a_run_goes_on_without_its_terminal(run, monkeypatch):
    monkeypatch.setattr(run_metrics, "_POLL_SECONDS", 0.01)
    run.update_info(flower_run="7")
    run.mark_failed(KeyboardInterrupt())
    path, state = run.path / METRICS_FILE, ("fedhealth_run_state", ("name", "chest"), ("run", "abc"))
    with monitor_run(run, at_server=True):
        while not path.is_file():
            threading.Event().wait(0.01)
        assert values(path.read_text())[*state, ("state", "running")] == 1
    assert values(path.read_text())[*state, ("state", "stopped")] == 1


def test_the_lead_shows_runs_until_a_day_after_their_end(run, tmp_path, monkeypatch):
    home = LeadHome(tmp_path / "lead")
    save_job(home, Job("abc", (), "", str(run.path)))
    save_job(home, Job("gone", (), "", str(tmp_path / "gone")))
    assert list(find_current_runs(home)) == [run]
    run.mark_completed()
    assert list(find_current_runs(home)) == [run]
    run.update_info(finished="2020-01-01T00:00:00+00:00")
    assert list(find_current_runs(home)) == []


def test_they_are_served_on_loopback_and_a_taken_port_is_said(run):
    port, stop = find_free_ports()[0], threading.Event()
    server = threading.Thread(target=exposition.serve_metrics, args=(RunMetrics(lambda: [run]), port, stop))
    server.start()
    try:
        for _ in range(500):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                    found = values(answer.read())
                break
            except OSError:
                threading.Event().wait(0.01)
        assert found["fedhealth_run_round", ("run", "abc")] == 1
        with pytest.raises(ConfigError, match="cannot be used"):
            exposition.serve_metrics(RunMetrics(lambda: [run]), port, stop)
    finally:
        stop.set()
        server.join()


def test_a_disk_that_is_full_stops_nothing(run, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("logging.Logger.propagate", True, raising=False)
    exposition.write_metrics_file(tmp_path / "no" / "such" / "folder.prom", RunMetrics(lambda: [run]))
    assert not (tmp_path / "no").exists()
