"""A sweep in real hospitals reserves its budget before its first run, and others cannot have it meanwhile."""

import os
import time

import pytest

from fedhealth.config.compose import compose
from fedhealth.errors import FederationError
from fedhealth.experiment.sweep_job import work_on
from fedhealth.experiment.sweep_reserve import Candidate, give_back, run_id, state_and_reserve
from fedhealth.privacy.accounting.ledger import verify
from fedhealth.privacy.accounting.reservations import reservations
from fedhealth.privacy.accounting.spending import ledger_path, reserved
from fedhealth.runs.run_dir import RunDir
from tests.federation.conftest import SITES, STRICT

pytestmark = pytest.mark.xdist_group("federation")
DELTA = 1e-5


@pytest.fixture(name="runs")
def runs_(consortium):
    """Return a maker of a sweep's runs, which differ in their seeds."""
    words = ["secagg=on", "privacy=patient", "privacy.epsilon=2", f"privacy.delta={DELTA}", "strategy.rounds=1"]
    words = [*consortium.words, *words, "strategy.wait=5", "runtime=deployment"]
    words.append(f"runtime.home='{consortium.poc.lead.path}'")

    def make(folder, count):
        chosen = [[*words, f"seed={seed}"] for seed in range(count)]
        return [Candidate(compose(each), each, RunDir(folder / str(i))) for i, each in enumerate(chosen)]

    return make


@pytest.fixture(name="ledgers")
def ledgers_(consortium):
    return [ledger_path(consortium.poc.home(site).state, "demo") for site in SITES]


def kept(ledger):
    return {held.run for held in reservations(verify(ledger), time.time())}


def test_hospitals_reserve_a_sweep_or_decline_it_before_its_first_run(consortium, runs, ledgers, tmp_path):
    consortium.agree({**STRICT, "life_epsilon": 1000.0})
    told = state_and_reserve(tmp_path / "sweep", runs(tmp_path / "sweep", 2), "")
    assert set(told) == set(SITES)
    assert all(2 < epsilon < 4 for epsilon in told.values())  # composed, not added
    names = {run_id(tmp_path / "sweep", number) for number in (0, 1)}
    assert all(kept(ledger) == names for ledger in ledgers)

    consortium.agree({**STRICT, "life_epsilon": min(reserved(ledger, DELTA)[0] for ledger in ledgers) * 1.001})
    with pytest.raises(FederationError) as refused:
        state_and_reserve(tmp_path / "larger", runs(tmp_path / "larger", 2), "")
    assert refused.value.problem.startswith("The sweep was declined before its first run. 0 of 4 sites accepted")
    reason = "the runs of the sweep together would exceed the privacy budget of demo"
    assert all(f"{site}: {reason}" in refused.value.problem for site in SITES)

    give_back(tmp_path / "sweep")
    assert all(kept(ledger) == set() for ledger in ledgers)


@pytest.mark.skipif(os.environ.get("FEDHEALTH_FAULTS") != "full", reason="a part of `make faults`")
def test_a_run_uses_up_what_was_reserved_for_it(consortium, runs, ledgers, tmp_path):
    consortium.agree({**STRICT, "life_epsilon": 1000.0})
    first, *_ = runs(tmp_path / "sweep", 2)
    state_and_reserve(tmp_path / "sweep", runs(tmp_path / "sweep", 2), "")
    ended = work_on(first.config, first.words, first.run, "", run_id(tmp_path / "sweep", 0))
    assert (ended.state, ended.problem) == ("completed", "")
    assert first.run.about["run"] == run_id(tmp_path / "sweep", 0)
    assert all(kept(ledger) == {run_id(tmp_path / "sweep", 1)} for ledger in ledgers)
    give_back(tmp_path / "sweep")
    assert all(kept(ledger) == set() for ledger in ledgers)
