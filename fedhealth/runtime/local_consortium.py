"""A whole consortium on one machine: the lead's server and one site daemon each, as separate processes over TLS.

`fedhealth poc`, the tests and the benchmarks use it. It skips the manual comparison of fingerprints; everything else is
as in a deployment.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import SystemRandom

from omegaconf import OmegaConf

from fedhealth.consortium.membership import SignedMembership
from fedhealth.consortium.research_study import SignedStudy
from fedhealth.errors import ConfigError
from fedhealth.flower.server.control_client import ControlClient
from fedhealth.lead.admit import admit_member
from fedhealth.lead.connect_control import connect_control
from fedhealth.lead.home import LeadHome
from fedhealth.lead.project import Project
from fedhealth.lead.provision import provision_consortium
from fedhealth.site.home import SiteHome
from fedhealth.site.install import install_kit
from fedhealth.site.make_join_request import make_join_request
from fedhealth.site.policy import load_policy
from fedhealth.site.receive_study import receive_study
from fedhealth.site.study_approval import approve_study
from fedhealth.site.study_store import StudyStore
from fedhealth.site.study_verdict import evaluate_study

_MIN_START_SECONDS = 300.0
_START_FACTOR = 10  # a site starts as the server does, but all at once
_LINES = 15  # of a log, in an error
_PORTS = range(20_000, 32_768)  # below those that the system gives to outgoing connections
_ATTEMPTS = 50  # to find a free one


@dataclass
class LocalConsortium:
    """A consortium in one folder.

    Attributes:
        root: the folder.
        data: each site's data folder, by name.
        dataset: the dataset's name in jobs.
        limits: of every site's policy, if other than the strict defaults.
        resources: of every site's policy, likewise.
        report: is called with what is waited for, whenever that changes.

    """

    root: Path
    data: Mapping[str, Path]
    dataset: str = "demo"
    limits: Mapping[str, object] = field(default_factory=dict)
    resources: Mapping[str, object] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    report: Callable[[str], None] = lambda text: None
    start_seconds: float = field(default=0.0, init=False)  # how long the server took: what this machine can do now

    @property
    def lead(self) -> LeadHome:
        """The lead's folder."""
        return LeadHome(self.root / "lead")

    def site_home(self, site: str) -> SiteHome:
        """Return a site's folder."""
        return SiteHome(self.root / "sites" / site)

    def set_up(self) -> None:
        """Create keys, certificates, members, kits and policies."""
        public, control = find_free_ports()
        address = f"127.0.0.1:{public}"
        provision_consortium(self.lead, Project("poc", address, listen=address, control_port=control))
        for site in self.data:
            make_join_request(self.site_home(site), site, address)
            self.write_policy(site, address)
            admit_member(self.lead, self.site_home(site).join_request.read_bytes())
        for site in self.data:
            install_kit(self.site_home(site), (self.lead.kits / f"{site}.zip").read_bytes())

    def write_policy(self, site: str, address: str) -> None:
        """Write a site's policy."""
        source = {"dataset": self.dataset, "root": str(self.data[site]), "cache": str(self.root / "cache")}
        policy = {"name": site, "lead": address, "data": {self.dataset: source}}
        policy |= {"limits": dict(self.limits), "resources": {"threads": 1, **self.resources}}
        self.site_home(site).policy.write_text(OmegaConf.to_yaml(OmegaConf.create(policy)), "utf-8")

    def approve_study(self, signed: SignedStudy, person: str) -> None:
        """Let every hospital receive a study, evaluate it on its data and approve it, as its people would."""
        for site in self.data:
            home = self.site_home(site)
            policy, membership = load_policy(home), SignedMembership.loads(home.membership.read_bytes()).membership
            study = receive_study(signed.dumps(), membership, home, policy)
            decision = StudyStore(home).load_decision(study.digest)
            if decision is None:
                approve_study(study, evaluate_study(study, policy, home), home, policy, person)

    @contextmanager
    def run(self) -> Iterator[ControlClient]:
        """Start the server and every site, wait until all are connected, and stop them at the end of the block."""
        try:
            self.start_lead()
            for site in self.data:
                self.start_site(site)
            with connect_control(self.lead) as control:
                self.wait_until(lambda: self.are_all_online(control), "all sites to connect", self.site_seconds)
                yield control
        finally:
            self.stop()

    def start_lead(self) -> None:
        """Start the lead's server."""
        begin = time.monotonic()
        self._start("lead", "lead", "serve", "--home", str(self.lead.path))
        self.report("waiting for the lead's server")
        with connect_control(self.lead) as control:
            self.wait_until(lambda: _is_reachable(control), "the lead's server", _START_FACTOR * _MIN_START_SECONDS)
        self.start_seconds = time.monotonic() - begin

    def start_site(self, site: str) -> None:
        """Start a site."""
        self._start(site, "site", "start", "--home", str(self.site_home(site).path))

    def count_online(self, control: ControlClient) -> int:
        """Return how many sites are connected."""
        return sum(node.status == "online" for node in control.list_nodes())

    @property
    def site_seconds(self) -> float:
        """How long all sites together may take to connect, seconds."""
        return max(_MIN_START_SECONDS, _START_FACTOR * len(self.data) * self.start_seconds)

    def are_all_online(self, control: ControlClient) -> bool:
        """Return whether all sites are connected; report how many are."""
        online = self.count_online(control)
        self.report(f"{online} of {len(self.data)} sites are connected")
        return online == len(self.data)

    def wait_until(self, ready: Callable[[], bool], what: str, seconds: float = _MIN_START_SECONDS) -> None:
        """Wait until a condition holds.

        Raises:
            ConfigError: a process ended, or the time is over.

        """
        deadline = time.monotonic() + seconds
        while not ready():
            ended = [name for name, process in self.processes.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                reason = f"{', '.join(ended)} ended" if ended else f"{seconds:g} s have passed"
                shown = "".join(self._read_log_end(name) for name in ended)
                raise ConfigError(f"Waiting for {what}: {reason}.{shown}", f"See the .log files in {self.root}.")
            time.sleep(0.1)

    def _read_log_end(self, name: str) -> str:
        """Return the last lines of a process's log. Nothing is secret on the one machine of a rehearsal."""
        lines = (self.root / f"{name}.log").read_text("utf-8", errors="replace").splitlines()[-_LINES:]
        return "".join(f"\n  {line}" for line in (f"{name}.log:", *lines))

    def kill(self, name: str) -> None:
        """Kill a process."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """Stop all processes, the sites first."""
        running = list(reversed(self.processes.values()))
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    def _start(self, name: str, *arguments: str) -> None:
        command = [sys.executable, "-m", "fedhealth.cli.main", *arguments]
        with (self.root / f"{name}.log").open("ab", buffering=0) as output:
            output.write(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} {' '.join(command)}\n".encode())
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
            self.processes[name] = subprocess.Popen(command, stdout=output, stderr=output, env=environment)  # noqa: S603


def _is_reachable(control: ControlClient) -> bool:
    try:
        control.list_nodes()
    except ConfigError:
        return False
    return True


def find_free_ports() -> tuple[int, int]:
    """Return two free TCP ports of this machine, which no outgoing connection takes before they are used."""
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            _bind_to_free_port(each)
        return first.getsockname()[1], second.getsockname()[1]


def _bind_to_free_port(listener: socket.socket) -> None:
    for port in SystemRandom().sample(_PORTS, _ATTEMPTS):
        with suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return
    listener.bind(("127.0.0.1", 0))
