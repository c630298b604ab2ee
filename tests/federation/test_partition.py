"""A hospital that cannot be reached costs its own contribution; a server that forgot a day costs nothing."""

import os
import shutil
import signal
import sqlite3
import threading

import pytest

from fedhealth.runs.run_dir import RunDir
from tests.federation.conftest import LOOSE, SITES, consortium_of
from tests.federation.looking import PLAIN, equal, happened, rounds_of, wait_for

pytestmark = [
    pytest.mark.xdist_group("federation"),
    pytest.mark.skipif(os.environ.get("FEDHEALTH_FAULTS") != "full", reason="a part of `make faults`"),
]
EIGHT = tuple(f"site-{number}" for number in range(8))
PATIENT = [
    *(override for override in PLAIN if not override.startswith("strategy.rounds")),
    "strategy.rounds=6",
    "strategy.round_timeout=15",
    "strategy.min_sites=6",
    "strategy.quorum=0.5",
]


@pytest.fixture(scope="module")
def eight(tmp_path_factory, tiny_overrides):
    with consortium_of(tmp_path_factory.mktemp("eight"), EIGHT, tiny_overrides) as running:
        running.agree(LOOSE)
        yield running


def meanwhile(*steps):
    """Start what happens while a run goes on."""
    thread = threading.Thread(target=lambda: [step() for step in steps])
    thread.start()
    return thread


def once(run, site, gone):
    """Return a step that waits until a round is completed, without a site where it is gone."""
    return lambda: wait_for(lambda: not all(rounds_of(run, site)) if gone else rounds_of(run, site), 600)


def test_a_network_that_is_cut_for_longer_than_a_round(eight, tmp_path):
    run, site, network = RunDir(tmp_path / "run"), EIGHT[-1], eight.network
    cut = meanwhile(once(run, site, False), network.cut.set, once(run, site, True), network.heal)
    eight.run(run.path, *PATIENT)
    cut.join()
    assert_came_back(run, site)


def test_a_site_that_stands_still(eight, tmp_path):
    run, site = RunDir(tmp_path / "run"), EIGHT[0]
    process = eight.poc.processes[site]
    stop, go = (lambda number=number: process.send_signal(number) for number in (signal.SIGSTOP, signal.SIGCONT))
    stopped = meanwhile(once(run, site, False), stop, once(run, site, True), go)
    eight.run(run.path, *PATIENT)
    stopped.join()
    assert_came_back(run, site)


def assert_came_back(run, site):
    """No round was lost, the site missed some, and it was there again in the end."""
    assert run.info.state == "completed"
    there = rounds_of(run, site)
    assert len(there) == 6
    assert there[0]
    assert not all(there)
    assert there[-1]
    assert all(all(rounds_of(run, other)) for other in EIGHT if other != site)


def test_a_database_of_yesterday_under_a_running_server(consortium, undisturbed, tmp_path):
    expected, poc, run = undisturbed(*PLAIN), consortium.poc, RunDir(tmp_path / "run")
    kept = tmp_path / "yesterday.db"
    with sqlite3.connect(poc.lead.database) as now, sqlite3.connect(kept) as copy:
        now.backup(copy)

    def restore():
        poc.kill("lead")
        for path in poc.lead.path.glob("superlink.db*"):
            path.unlink()
        shutil.copy(kept, poc.lead.database)
        poc.start_lead()

    restored = meanwhile(once(run, SITES[0], False), restore)
    consortium.run(run.path, *PLAIN)
    restored.join()
    assert happened(run, "restarting")
    assert equal(run, expected)
