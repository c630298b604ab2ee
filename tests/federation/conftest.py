"""The lead's server and four hospitals as processes of their own, over TLS: started once for all tests here."""

import json
import os
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from safetensors.numpy import load_file

from fedhealth.config.override_allowlist import select_shared_overrides
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.protocol.messages import ACCEPTANCE, SEALED, SECAGG, STATISTICS, UPDATE
from fedhealth.runs.run_dir import RunDir
from fedhealth.runtime.local_consortium import LocalConsortium
from tests.conftest import write_site
from tests.federation.proxy import Proxy

SITES = ("north", "south", "east", "west")
STRICT = {"min_patients": 10, "unattended_studies": True}  # test_studies.py has the default
LOOSE = {
    "min_patients": 1,
    "unattended_studies": True,
    "units": ["none"],
    "changing_cohorts": True,
    "word_embeddings": True,
    "secure_aggregation": False,
    "records": [ACCEPTANCE, UPDATE, STATISTICS, SECAGG, SEALED],
}


INJECTED = Path(__file__).with_name("injected")


class Consortium:
    """A running consortium, and what the lead's and the hospitals' people do in it."""

    def __init__(self, poc, overrides, faults, network):
        self.poc, self.overrides, self.control, self.faults, self.network = poc, overrides, None, faults, network

    def agree(self, limits):
        """All hospitals write these limits into their site.yaml; nobody restarts anything."""
        self.poc.limits = limits
        for site in self.poc.data:
            self.poc.write_policy(site, OmegaConf.load(self.poc.site_home(site).policy).lead)

    def run(self, folder, *overrides, runtime="deployment"):
        """Run a job to its end."""
        chosen = [*self.overrides, *overrides, f"runtime={runtime}"]
        if runtime == "deployment":
            chosen.append(f"runtime.home='{self.poc.lead.path}'")
        run = RunDir(folder)
        launch_run(RunSpec.compose(chosen, run))
        return run

    def wish(self, moment, call, kind, *names):
        """Have processes killed at a call of a moment; see injected/ for the kinds."""
        (self.faults / "done.json").unlink(missing_ok=True)
        pids = [self.poc.processes[name].pid for name in names]
        draft = self.faults / "draft.json"
        draft.write_text(json.dumps({"moment": moment, "call": call, "kind": kind, "pids": pids}))
        draft.rename(self.faults / "wish.json")

    @property
    def fulfilled(self):
        """Whether the moment came."""
        (self.faults / "wish.json").unlink(missing_ok=True)
        return (self.faults / "done.json").is_file()

    @contextmanager
    def supervised(self):
        """Start again what ends, as systemd does."""
        ended = threading.Event()
        watcher = threading.Thread(target=self._supervise, args=(ended,))
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    def _supervise(self, ended):
        while not ended.wait(0.3):
            if not self._gone():
                continue
            time.sleep(0.2)  # others may be about to be killed: starting the lead takes their end for a fault
            gone = self._gone()
            for name in gone:
                del self.poc.processes[name]
            for name in sorted(gone, key=lambda name: name != "lead"):
                self.poc.start_lead() if name == "lead" else self.poc.start_site(name)

    def _gone(self):
        return [name for name, process in self.poc.processes.items() if process.poll() is not None]

    def travelling(self, *overrides):
        """The overrides of a job as they reach the hospitals."""
        return select_shared_overrides([*self.overrides, *overrides])


@contextmanager
def consortium_of(root, sites, tiny_overrides):
    """Run a consortium of some sites below a folder; the last of them is reached through a network that can be cut."""
    for seed, site in enumerate(sites):
        write_site(root / "hospitals", site, seed=seed)
    own = ("data.sites", "secagg", "strategy.rounds")
    overrides = [override for override in tiny_overrides(root / "hospitals") if override.partition("=")[0] not in own]
    poc = LocalConsortium(root, {site: root / "hospitals" / site for site in sites}, limits=STRICT)
    poc.set_up()
    network = Proxy(int(OmegaConf.load(poc.site_home(sites[-1]).policy).lead.rpartition(":")[2]))
    poc.write_policy(sites[-1], f"127.0.0.1:{network.port}")
    running = Consortium(poc, [*overrides, f"data.sites=[{','.join(sites)}]"], root, network)
    try:
        with poc.run() as running.control:
            yield running
    finally:
        network.close()


@pytest.fixture(scope="session", name="_started")
def started_(tmp_path_factory, tiny_overrides):
    root = tmp_path_factory.mktemp("consortium")
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            inject_faults(patch, root)
            running = stack.enter_context(consortium_of(root, SITES, tiny_overrides))
        yield running


@pytest.fixture
def consortium(_started, monkeypatch):
    """The consortium of all tests here; processes that a test starts again can be killed at a moment, too."""
    inject_faults(monkeypatch, _started.faults)
    return _started


def inject_faults(patch, root):
    """Let processes that are started now look for wishes below a folder; see `Consortium.wish`."""
    patch.setenv("FEDHEALTH_TEST_FAULTS", str(root))
    patch.setenv("PYTHONPATH", os.pathsep.join([str(INJECTED), str(Path(__file__).resolve().parents[2])]))


@pytest.fixture(scope="session")
def calm_models():
    """The models of runs that nothing disturbed, by their overrides."""
    return {}


@pytest.fixture(name="undisturbed")
def undisturbed_(consortium, tmp_path_factory, calm_models):
    made = calm_models

    def model(*overrides):
        consortium.agree(LOOSE)
        if overrides not in made:
            run = consortium.run(tmp_path_factory.mktemp("calm") / "run", *overrides)
            made[overrides] = load_file(run.path / "model.safetensors")
        return made[overrides]

    return model
