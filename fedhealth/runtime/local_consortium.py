"""A whole consortium on one machine, as separate processes over TLS: the lead's server and one runner for each site.

What `fedhealth poc` starts for trying out, and what our own tests and benchmarks drive. The people's part (comparing
fingerprints) is skipped, everything else is what a deployment does.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

from fedhealth.errors import ConfigError
from fedhealth.flower.server.control_client import Control
from fedhealth.lead.admit import admit
from fedhealth.lead.connect_control import connect_control
from fedhealth.lead.home import LeadHome
from fedhealth.lead.project import Project
from fedhealth.lead.provision import provision
from fedhealth.site.home import SiteHome
from fedhealth.site.install import install
from fedhealth.site.make_join_request import make_request

_START_SECONDS = 300.0


@dataclass
class Poc:
    """A consortium below one folder.

    Attributes:
        root: the folder.
        data: each site's data folder, by name.
        dataset: what jobs call the data.
        limits: of every site's policy, where they differ from the strict defaults.
        resources: of every site's policy, likewise.

    """

    root: Path
    data: Mapping[str, Path]
    dataset: str = "demo"
    limits: Mapping[str, object] = field(default_factory=dict)
    resources: Mapping[str, object] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def lead(self) -> LeadHome:
        """The lead's folder."""
        return LeadHome(self.root / "lead")

    def home(self, site: str) -> SiteHome:
        """Return a site's folder."""
        return SiteHome(self.root / "sites" / site)

    def set_up(self) -> None:
        """Make keys, certificates, members, kits and policies."""
        public, control = free_ports()
        address = f"127.0.0.1:{public}"
        provision(self.lead, Project("poc", address, listen=address, control_port=control))
        for site in self.data:
            make_request(self.home(site), site, address)
            self.write_policy(site, address)
            admit(self.lead, self.home(site).request.read_bytes())
        for site in self.data:
            install(self.home(site), (self.lead.kits / f"{site}.zip").read_bytes())

    def write_policy(self, site: str, address: str) -> None:
        """Write a site's policy."""
        source = {"dataset": self.dataset, "root": str(self.data[site]), "cache": str(self.root / "cache")}
        policy = {"name": site, "lead": address, "data": {self.dataset: source}}
        policy |= {"limits": dict(self.limits), "resources": {"threads": 1, **self.resources}}
        self.home(site).policy.write_text(OmegaConf.to_yaml(OmegaConf.create(policy)), "utf-8")

    @contextmanager
    def running(self) -> Iterator[Control]:
        """Start the server and every site, and wait until all are connected; stop them at the end."""
        try:
            self.start_lead()
            for site in self.data:
                self.start_site(site)
            with connect_control(self.lead) as control:
                self.wait(lambda: self.online(control) == len(self.data), "all sites to connect")
                yield control
        finally:
            self.stop()

    def start_lead(self) -> None:
        """Start the lead's server."""
        self._start("lead", "lead", "serve", "--home", str(self.lead.path))
        with connect_control(self.lead) as control:
            self.wait(lambda: _answers(control), "the lead's server")

    def start_site(self, site: str) -> None:
        """Start a site."""
        self._start(site, "site", "start", "--home", str(self.home(site).path))

    def online(self, control: Control) -> int:
        """Return how many sites are connected."""
        return sum(node.status == "online" for node in control.nodes())

    def wait(self, ready: Callable[[], bool], what: str, seconds: float = _START_SECONDS) -> None:
        """Wait until something is so.

        Raises:
            ConfigError: a process ended, or it takes too long.

        """
        ends = time.monotonic() + seconds
        while not ready():
            ended = [name for name, process in self.processes.items() if process.poll() is not None]
            if ended or time.monotonic() > ends:
                reason = f"{', '.join(ended)} ended" if ended else f"{seconds:g} s have passed"
                raise ConfigError(f"Waiting for {what}: {reason}.", f"See the .log files in {self.root}.")
            time.sleep(0.1)

    def kill(self, name: str) -> None:
        """End a process without warning."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """Stop what runs, the sites first."""
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

    def _start(self, name: str, *words: str) -> None:
        command = [sys.executable, "-m", "fedhealth.cli.main", *words]
        with (self.root / f"{name}.log").open("ab") as output:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
            self.processes[name] = subprocess.Popen(command, stdout=output, stderr=output, env=environment)  # noqa: S603


def _answers(control: Control) -> bool:
    try:
        control.nodes()
    except ConfigError:
        return False
    return True


def free_ports() -> tuple[int, int]:
    """Return two ports of this machine that are free now."""
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
