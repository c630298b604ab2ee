"""The lead's server and four hospitals as processes of their own, over TLS: started once for all tests here."""

import pytest
from omegaconf import OmegaConf

from fedhealth.config.compose import compose
from fedhealth.config.screen import travelling
from fedhealth.launch import launch
from fedhealth.poc import Poc
from fedhealth.rundir import RunDir
from fedhealth.wire import ACCEPTANCE, STATISTICS, UPDATE
from tests.conftest import write_site

SITES = ("north", "south", "east", "west")
STRICT = {"min_patients": 10}
LOOSE = {
    "min_patients": 1,
    "units": ["none"],
    "secure_aggregation": False,
    "records": [ACCEPTANCE, UPDATE, STATISTICS],
}


class Consortium:
    """A running consortium, and what the lead's and the hospitals' people do in it."""

    def __init__(self, poc, words):
        self.poc, self.words, self.control = poc, words, None

    def agree(self, limits):
        """All hospitals write these limits into their site.yaml; nobody restarts anything."""
        self.poc.limits = limits
        address = OmegaConf.load(self.poc.home(SITES[0]).policy).lead
        for site in SITES:
            self.poc.write_policy(site, address)

    def run(self, folder, *words, runtime="deployment"):
        """Run a job to its end."""
        chosen = [*self.words, *words, f"runtime={runtime}"]
        if runtime == "deployment":
            chosen.append(f"runtime.home='{self.poc.lead.path}'")
        run = RunDir(folder)
        launch(compose(chosen), chosen, run)
        return run

    def travelling(self, *words):
        """The words of a job as they reach the hospitals."""
        return travelling([*self.words, *words])


@pytest.fixture(scope="session")
def consortium(tmp_path_factory, tiny_words):
    root = tmp_path_factory.mktemp("consortium")
    for seed, site in enumerate(SITES):
        write_site(root / "hospitals", site, seed=seed)
    own = ("data.sites", "secagg", "strategy.rounds")
    words = [word for word in tiny_words(root / "hospitals") if word.partition("=")[0] not in own]
    poc = Poc(root, {site: root / "hospitals" / site for site in SITES}, limits=STRICT)
    poc.set_up()
    running = Consortium(poc, [*words, f"data.sites=[{','.join(SITES)}]"])
    with poc.running() as running.control:
        yield running
