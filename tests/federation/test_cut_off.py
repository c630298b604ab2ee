"""A hospital that cannot be reached costs its own contribution; a server that forgot a day costs nothing."""

import os
import shutil
import signal
import sqlite3
import threading

import pytest

from fedhealth.rundir import RunDir
from tests.federation.conftest import LOOSE, SITES
from tests.federation.looking import PLAIN, equal, happened, rounds_of, wait_for

pytestmark = [
    pytest.mark.xdist_group("federation"),
    pytest.mark.skipif(os.environ.get("FEDHEALTH_FAULTS") != "full", reason="a part of `make faults`"),
]
PATIENT = [*PLAIN, "strategy.rounds=6", "strategy.round_timeout=15", "strategy.min_sites=3", "strategy.quorum=0.5"]


def meanwhile(*steps):
    """Start what happens while a run goes on."""
    thread = threading.Thread(target=lambda: [step() for step in steps])
    thread.start()
    return thread


def once(run, site, gone):
    """Return a step that waits until a round is completed, without a site where it is gone."""
    return lambda: wait_for(lambda: not all(rounds_of(run, site)) if gone else rounds_of(run, site), 240)


def test_a_network_that_is_cut_for_longer_than_a_round(consortium, tmp_path):
    consortium.agree(LOOSE)
    run, site, network = RunDir(tmp_path / "run"), SITES[-1], consortium.network
    cut = meanwhile(once(run, site, False), network.cut.set, once(run, site, True), network.heal)
    consortium.run(run.path, *PATIENT)
    cut.join()
    assert_came_back(run, site)


def test_a_site_that_stands_still(consortium, tmp_path):
    consortium.agree(LOOSE)
    run, site = RunDir(tmp_path / "run"), SITES[0]
    process = consortium.poc.processes[site]
    stop, go = (lambda number=number: process.send_signal(number) for number in (signal.SIGSTOP, signal.SIGCONT))
    stopped = meanwhile(once(run, site, False), stop, once(run, site, True), go)
    consortium.run(run.path, *PATIENT)
    stopped.join()
    assert_came_back(run, site)


def assert_came_back(run, site):
    """No round was lost, the site missed some, and it was there again in the end."""
    assert run.about["state"] == "completed"
    there = rounds_of(run, site)
    assert len(there) == 6
    assert there[0]
    assert not all(there)
    assert there[-1]
    assert all(all(rounds_of(run, other)) for other in SITES if other != site)


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
