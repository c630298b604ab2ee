"""A sweep in real hospitals reserves its budget before its first run, and others cannot have it meanwhile."""

import os
import time
from dataclasses import replace

import pytest

from fedhealth.errors import FederationError
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.experiment.sweep_job import run_sweep_job
from fedhealth.experiment.sweep_reserve import get_run_id, release_reservation, reserve_sweep_budget
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.reservations import find_active_reservations
from fedhealth.privacy.accounting.spending import compute_reserved_epsilon
from fedhealth.runs.run_dir import RunDir
from tests.federation.conftest import SITES, STRICT

pytestmark = pytest.mark.xdist_group("federation")
DELTA = 1e-5


@pytest.fixture(name="runs")
def runs_(consortium):
    """Return a maker of a sweep's runs, which differ in their seeds."""
    overrides = ["secagg=on", "privacy=patient", "privacy.epsilon=2", f"privacy.delta={DELTA}", "strategy.rounds=1"]
    overrides = [*consortium.overrides, *overrides, "strategy.join_timeout=5", "runtime=deployment"]
    overrides.append(f"runtime.home='{consortium.poc.lead.path}'")

    def make(folder, count):
        chosen = [[*overrides, f"seed={seed}"] for seed in range(count)]
        return [RunSpec.compose(each, RunDir(folder / str(i))) for i, each in enumerate(chosen)]

    return make


@pytest.fixture(name="ledgers")
def ledgers_(consortium):
    return [get_ledger_path(consortium.poc.site_home(site).state, "demo") for site in SITES]


def find_held(ledger):
    """The reserved steps of each run; none before the first private run."""
    found = find_active_reservations(verify_ledger(ledger), time.time()) if ledger.exists() else []
    return {each.run: sum(event.steps for event in each.cost.events) for each in found}


def kept(ledger):
    return set(find_held(ledger))


def test_hospitals_reserve_a_sweep_or_decline_it_before_its_first_run(consortium, runs, ledgers, tmp_path):
    consortium.agree({**STRICT, "lifetime_epsilon": 1000.0})
    before = [kept(ledger) for ledger in ledgers]  # what an approved study of another test holds
    told = reserve_sweep_budget(tmp_path / "sweep", runs(tmp_path / "sweep", 2))
    assert set(told) == set(SITES)
    assert all(2 < epsilon < 4 for epsilon in told.values())  # composed, not added
    names = {get_run_id(tmp_path / "sweep", number) for number in (0, 1)}
    assert [kept(ledger) for ledger in ledgers] == [held | names for held in before]

    consortium.agree(
        {**STRICT, "lifetime_epsilon": min(compute_reserved_epsilon(ledger, DELTA)[0] for ledger in ledgers) * 1.001}
    )
    with pytest.raises(FederationError) as refused:
        reserve_sweep_budget(tmp_path / "larger", runs(tmp_path / "larger", 2))
    assert refused.value.problem.startswith("The sweep was declined before its first run. 0 of 4 sites accepted")
    reason = "the runs of the sweep together would exceed the privacy budget of demo"
    assert all(f"{site}: {reason}" in refused.value.problem for site in SITES)

    release_reservation(tmp_path / "sweep")
    assert [kept(ledger) for ledger in ledgers] == before


@pytest.mark.skipif(os.environ.get("FEDHEALTH_FAULTS") != "full", reason="a part of `make faults`")
def test_a_run_uses_up_what_was_reserved_for_it(consortium, runs, ledgers, tmp_path):
    consortium.agree({**STRICT, "lifetime_epsilon": 1000.0})
    before = [kept(ledger) for ledger in ledgers]  # of the studies of other tests
    first, *_ = runs(tmp_path / "sweep", 2)
    reserve_sweep_budget(tmp_path / "sweep", runs(tmp_path / "sweep", 2))
    whole = [find_held(ledger) for ledger in ledgers]
    ended = run_sweep_job(replace(first, run_id=get_run_id(tmp_path / "sweep", 0)))
    assert (ended.state, ended.problem) == ("completed", "")
    assert first.run_dir.info.run == get_run_id(tmp_path / "sweep", 0)
    one, other = (get_run_id(tmp_path / "sweep", number) for number in (0, 1))
    for ledger, held in zip(ledgers, whole, strict=True):
        left = find_held(ledger)
        assert left == held | {one: left[one]}
        assert 2 * left[one] + 1 == held[one] == held[other]  # its spare round is left; its scores are one step
    release_reservation(tmp_path / "sweep")
    assert [kept(ledger) for ledger in ledgers] == before
