"""Real processes over TLS with everything on: what left is logged, and the model is that of one machine."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedhealth.lead.connect_control import query_server_status
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_entry import compute_spent_epsilon
from fedhealth.privacy.accounting.ledger_folder import find_ledgers
from fedhealth.privacy.accounting.spending import compute_dataset_spending, compute_total_epsilon
from fedhealth.protocol.messages import ACCEPTANCE, SEALED, SECAGG, STATEMENT
from fedhealth.runs.run_dir import METRICS_FILE
from fedhealth.runs.run_status import get_run_status
from fedhealth.site.audit_log import verify_log
from fedhealth.site.daemon_state import DaemonState
from tests.federation.conftest import LOOSE, SITES, STRICT
from tests.fedhealth.monitor.test_run_metrics import values
from tests.fedhealth.runtime.central import WHOLE, measure_distance, train_centrally

pytestmark = pytest.mark.xdist_group("federation")
PATIENTS = 24 * len(SITES)  # as `write_site` makes them


def test_three_private_rounds_over_tls(consortium, tmp_path):
    consortium.agree(STRICT)
    before = {site: rounds_done(consortium, site) for site in SITES}
    overrides = ("secagg=on", "privacy=patient", "strategy.rounds=3")
    run = consortium.run(tmp_path / "run", *overrides)
    assert run.info.state == "completed"
    completed = [event for event in run.read_events()[0] if event["event"] == "round_completed"]
    assert [sorted(event["sites"]) for event in completed] == [sorted(SITES)] * 3
    scores = json.loads((run.path / "evaluation.json").read_text())["test"]
    assert scores["noise"]["studies_std"] > 1  # the count is noised: any lower bound fails now and then
    assert 0 <= scores["studies"] <= PATIENTS + 6 * scores["noise"]["studies_std"]
    assert (run.path / "report.html").stat().st_size > 1000
    about = get_run_status(run, query_server_status)
    assert (about.state, about.summary.completed, about.error) == ("completed", 3, "")
    assert {site.state for site in about.summary.sites.values()} == {"answered"}
    for site in SITES:
        home = consortium.poc.site_home(site)
        audit = [entry for entry in verify_log(home.audit) if entry.get("run") == run.info.run]
        left = [entry for entry in audit if entry["event"] == "left"]
        assert len(left) >= 7  # handshake, three times train and unmask
        assert {name for entry in left for name in entry["records"]} == {ACCEPTANCE, SECAGG, SEALED, STATEMENT}
        ((_, ledger),) = find_ledgers(home.state)
        assert 0 < compute_total_epsilon(ledger, None)[0] <= 8.0
        (told,) = [e["privacy"] for e in run.read_events()[0] if e["event"] == "handshake" and e["site"] == site]
        spent = compute_spent_epsilon(verify_ledger(ledger), told["delta"], run.info.run)
        assert 0 < spent < told["epsilon"] <= 8.0  # the spare round is not spent
        assert DaemonState(home).status["state"] == "connected"
        numbers = values((home.daemon_folder / METRICS_FILE).read_text())
        assert numbers["fedhealth_site_up", ("site", site)] == 1
        assert rounds_done(consortium, site) == before[site] + 3
        told = numbers["fedhealth_site_epsilon_spent", ("dataset", ledger.stem), ("site", site)]
        assert told >= compute_total_epsilon(ledger, None)[0]  # a bound from above
        assert len([entry for entry in audit if entry["event"] == "ended"]) == 1


def rounds_done(consortium, site):
    """The rounds that a hospital's monitoring has counted."""
    told = consortium.poc.site_home(site).daemon_folder / METRICS_FILE
    return values(told.read_text()).get(("fedhealth_site_rounds_total", ("site", site)), 0) if told.exists() else 0


def test_the_model_is_that_of_one_machine(consortium, tmp_path):
    consortium.agree(LOOSE)
    overrides = (
        "secagg=off",
        "seed=3",
        "strategy.rounds=2",
        "training.threads=1",
    )  # masking rounds at random, so it is not bit for bit
    here, there = (consortium.run(tmp_path / name, *overrides, runtime=name) for name in ("local", "deployment"))
    one, other = (load_file(run.path / "model.safetensors") for run in (here, there))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    first, second = (json.loads((run.path / "evaluation.json").read_text()) for run in (here, there))
    assert first == second


def replace_overrides(consortium, monkeypatch, overrides):
    """Leave out of the consortium's own overrides what these set: hospitals accept each key once."""
    keys = {override.partition("=")[0] for override in overrides}
    kept = [override for override in consortium.overrides if override.partition("=")[0] not in keys]
    monkeypatch.setattr(consortium, "overrides", kept)


def test_rounds_of_one_step_are_central_training_on_all_patients(consortium, monkeypatch, tmp_path):
    consortium.agree(LOOSE)
    replace_overrides(consortium, monkeypatch, WHOLE)
    run = consortium.run(tmp_path / "run", "secagg=off", *WHOLE)
    central = train_centrally([*consortium.overrides, "secagg=off", *WHOLE])
    assert measure_distance(central, run) <= 1e-6


def test_hospitals_share_the_noise_over_tls(consortium, monkeypatch, tmp_path):
    consortium.agree({**STRICT, "local_epsilon": 8.0})
    shared = ("privacy=patient", "privacy.epsilon=0.5", "privacy.noise=shared", "privacy.sample_rate=0.5")
    one_step = ("method=fedsgd", "training.local_steps=1", "strategy.rounds=2")
    replace_overrides(consortium, monkeypatch, one_step)
    run = consortium.run(tmp_path / "run", "secagg=on", *one_step, *shared)
    assert run.info.state == "completed"
    for site in SITES:
        ((_, ledger),) = find_ledgers(consortium.poc.site_home(site).state)
        spent = compute_dataset_spending(site, ledger)
        assert spent.local_epsilon is not None
        assert spent.local_epsilon > spent.epsilon
