"""The audit of client-level privacy passes the right mechanism, catches planted bugs, and declines a run by itself."""

import numpy as np
import pytest

from benchmarks.audit_mutants import plant_mutant
from benchmarks.mutants.clients import CLIENTS
from benchmarks.mutants.subject import ROUNDS, audit_client, list_failures, make_subject
from fedhealth.data.examples import Examples
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.context import AccountingContext
from fedhealth.training import audit_gate
from fedhealth.training.client_dp_trainer import ClientDPTrainer
from fedhealth.training.update_audit import audit_updates


@pytest.fixture
def audit_before_runs():
    """Keep the audit before a run."""


def make_place(tmp_path):
    return AccountingContext("run", "hospital", tmp_path, 0, ROUNDS)


@pytest.mark.parametrize("settings", [{}, {"max_update_norm": 0.3}, {"noise_multiplier": 9.0}, {"spare_rounds": 0}])
def test_the_right_mechanism_passes_and_leaves_no_trace(settings, tmp_path):
    _, task = make_subject()
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    findings = audit_updates(ClientDPTrainer("demo", 4.0, **settings), task, make_place(tmp_path))
    assert list_failures(findings) == []
    assert len(findings) > 20
    assert all(np.array_equal(value, before[name]) for name, value in task.model.state_dict().items())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", CLIENTS)
def test_a_planted_bug_is_caught(name):
    with plant_mutant(CLIENTS[name]):
        assert list_failures(audit_client())


def test_a_site_declines_by_itself_and_reads_no_value_of_a_patient(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_gate, "_failures", {})
    _, task = make_subject()
    trainer, own, read = ClientDPTrainer("demo", 4.0), task.examples, []
    gather = Examples.batch
    monkeypatch.setattr(Examples, "batch", lambda self, rows: read.append(self) or gather(self, rows))
    with plant_mutant(CLIENTS["noise halved"]):
        [reason] = trainer.check_can_join(task, make_place(tmp_path))
    assert (
        reason == "private training fails its audit on synthetic patients (see site.log; in a rehearsal fedhealth.log)"
    )
    assert trainer.check_can_join(task, make_place(tmp_path)) == [reason]  # asking again gives no second chance
    audit_gate._failures.clear()  # another process
    assert trainer.check_can_join(task, make_place(tmp_path)) == []
    assert read
    assert all(each.sources is not own.sources for each in read)
    path = get_ledger_path(tmp_path, "demo")
    assert not path.exists() or verify_ledger(path) == ()
