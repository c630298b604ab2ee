"""A careless day of a running consortium: a second server, a full disk, a log nobody can open, a proxy, an old kit.

A part of `make faults`. The lead's folder lies on a small disk of its own; the first hospital uses a real Squid.
"""

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from fedhealth.errors import FederationError, StartRefusedError
from fedhealth.lead.admit import admit_member, revoke_member
from fedhealth.lead.project import load_project
from fedhealth.lead.site_overview import list_sites
from fedhealth.runs.run_dir import RunDir
from fedhealth.site.daemon_state import DaemonState
from fedhealth.site.home import SiteHome
from fedhealth.site.install import install_kit
from fedhealth.site.make_join_request import make_join_request
from tests.federation.conftest import LOOSE, consortium_of
from tests.federation.looking import PLAIN, rounds_of, wait_for
from tests.fedhealth.site.check.squid import find_free_port, run_squid

pytestmark = [
    pytest.mark.xdist_group("federation"),
    pytest.mark.skipif(os.environ.get("FEDHEALTH_FAULTS") != "full", reason="a part of `make faults`"),
]
THREE = ("site-0", "site-1", "site-2")
SHORT = [*(override for override in PLAIN if not override.startswith("strategy.rounds")), "strategy.rounds=1"]


@pytest.fixture(scope="module", name="three")
def three_(tmp_path_factory, tiny_overrides):
    root, mount = tmp_path_factory.mktemp("three"), shutil.which("mount")
    lead = root / "lead"
    lead.mkdir(mode=0o700)
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(lead)]).returncode:
        pytest.skip("needs to mount a small file system (root)")
    try:
        with consortium_of(root, THREE, tiny_overrides) as running:
            yield running
    finally:
        subprocess.run(["umount", "--lazy", str(lead)], check=True)  # a log of the SuperExec is open a little longer


@pytest.fixture(autouse=True)
def loose(three):
    three.agree(LOOSE)


def meanwhile(*steps):
    """Start what happens while a run goes on."""
    thread = threading.Thread(target=lambda: [step() for step in steps])
    thread.start()
    return thread


def read_log(poc):
    return (poc.root / "lead.log").read_text()


def test_a_second_server_is_refused_and_the_run_goes_on(three, tmp_path):
    run, ended = RunDir(tmp_path / "run"), []
    command = [sys.executable, "-m", "fedhealth.cli.main", "lead", "serve", "--home", str(three.poc.lead.path)]
    pid = (three.poc.lead.path / "executor.pid").read_text()

    def start_second():
        wait_for(lambda: rounds_of(run, THREE[0]), 240)
        ended.append(subprocess.run(command, capture_output=True, text=True, timeout=240))

    second = meanwhile(start_second)
    three.run(run.path, *PLAIN)
    second.join()
    assert run.info.state == "completed"
    assert ended[0].returncode == StartRefusedError.exit_code
    assert "is running already" in ended[0].stderr
    assert "Traceback" not in ended[0].stderr
    assert (three.poc.lead.path / "executor.pid").read_text() == pid  # its SuperExec was left alone
    assert three.poc.processes["lead"].poll() is None


def count_superexecs(poc):
    """Return how many SuperExec processes of this lead there are."""
    secret = str(poc.lead.superexec_secret).encode()
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += secret in path.read_bytes()
        except OSError:  # it has ended
            continue
    return found


def test_a_full_disk_at_the_lead_heals_when_there_is_room_again(three, tmp_path):
    poc, before = three.poc, len(read_log(three.poc))
    ballast = poc.lead.path / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            file.writelines(itertools.repeat(bytes(4096)))
        os.killpg(int((poc.lead.path / "executor.pid").read_text()), signal.SIGKILL)
        poc.kill(THREE[0])
        poc.start_site(THREE[0])
        wait_for(lambda: "SuperExec failed and is tried again" in read_log(poc)[before:], 60)
        time.sleep(5)  # several attempts: each would leave one more process behind
        assert count_superexecs(poc) == 1
        assert poc.processes["lead"].poll() is None
    finally:
        ballast.unlink()
    wait_for(lambda: "SuperExec works again" in read_log(poc)[before:], 60)
    wait_for(lambda: poc.are_all_online(three.control), 180)
    assert three.run(tmp_path / "run", *SHORT).info.state == "completed"


def test_a_log_that_cannot_be_opened_is_reported_and_costs_no_member(three, tmp_path):
    poc = three.poc
    log, before = poc.lead.path / "executor.log", len(read_log(poc))
    log.rename(poc.lead.path / "executor.old")
    log.mkdir()
    os.killpg(int((poc.lead.path / "executor.pid").read_text()), signal.SIGKILL)
    wait_for(lambda: "SuperExec failed and is tried again" in read_log(poc)[before:], 60)
    poc.kill("lead")
    poc.start_lead()  # and again from the start
    wait_for(lambda: poc.are_all_online(three.control), 180)
    log.rmdir()
    wait_for(lambda: "SuperExec works again" in read_log(poc), 60)
    assert three.run(tmp_path / "run", *SHORT).info.state == "completed"


def test_a_proxy_that_is_down_and_comes_back(three, tmp_path):
    poc, run, home, port = three.poc, RunDir(tmp_path / "run"), three.poc.site_home(THREE[0]), find_free_port()
    lead_port = load_project(poc.lead.project).listen_address[1]
    state = DaemonState(home)
    with home.policy.open("a") as file:
        file.write(f"proxy: {{address: 'http://127.0.0.1:{port}'}}\n")

    errors = []

    def interrupt():
        wait_for(lambda: rounds_of(run, THREE[0]), 240)
        first.close()
        # a request that was under way has no answer; the next one finds no proxy
        wait_for(lambda: state.status["state"] == "offline" and "proxy" in state.status["error"], 240)
        time.sleep(2)
        with run_squid(lead_port, port=port):
            wait_for(lambda: run.info.state != "running", 400)
            errors.append(state.status["error"])

    with ExitStack() as first:
        first.enter_context(run_squid(lead_port, port=port))
        poc.kill(THREE[0])
        wait_for(lambda: not poc.are_all_online(three.control), 180)
        poc.start_site(THREE[0])
        wait_for(lambda: poc.are_all_online(three.control), 180)
        proxy = meanwhile(interrupt)
        three.run(run.path, *SHORT[:-1], "strategy.rounds=6")
        proxy.join()
    assert run.info.state == "completed"
    assert all(rounds_of(run, THREE[0]))
    assert errors == [None]


def has_newest_kit(poc, site):
    """Tell whether the lead knows from the site itself that it has the newest kit."""
    return not next(each for each in list_sites(poc.lead) if each.site == site).problems


def test_a_kit_that_is_older_than_the_leads_is_named_and_then_installed(three, tmp_path):
    poc, run = three.poc, RunDir(tmp_path / "run")
    newcomer = SiteHome(tmp_path / "newcomer")
    make_join_request(newcomer, "site-9", load_project(poc.lead.project).lead)
    admit_member(poc.lead, newcomer.join_request.read_bytes())
    try:
        for site in THREE[1:]:
            install_newest_kit(poc, site)
        wait_for(lambda: all(has_newest_kit(poc, site) for site in THREE[1:]), 180)
        with pytest.raises(FederationError, match=f"1 of 3 sites cannot take part.*\n.*{THREE[0]}.*kit number"):
            three.run(run.path, *PLAIN)
        install_newest_kit(poc, THREE[0])
        wait_for(lambda: has_newest_kit(poc, THREE[0]), 180)
        assert three.run(tmp_path / "again", *SHORT).info.state == "completed"
    finally:
        revoke_member(poc.lead, "site-9")
        for site in THREE:
            install_newest_kit(poc, site)


def install_newest_kit(poc, site):
    """Install a site's kit; it names the lead itself, which the last site's policy reaches by a proxy."""
    home, lead = poc.site_home(site), load_project(poc.lead.project).lead
    before = home.policy.read_text()
    home.policy.write_text(re.sub(r"(?m)^lead: .*$", f"lead: {lead}", before))
    install_kit(home, (poc.lead.kits / f"{site}.zip").read_bytes())
    home.policy.write_text(before)
