"""Policy, keys, budget and audit log of a site."""

from dataclasses import replace

import pytest

from fedhealth.errors import TrustError
from fedhealth.privacy.accounting.accountant import Event
from fedhealth.privacy.accounting.ledger import Budget, Ledger
from fedhealth.privacy.accounting.spending import ledger_path
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.check.contract import Result, guarded
from fedhealth.site.check.rules import check_budget, check_keys, check_log, check_policy
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import Limits, Policy, Source

POLICY = Policy("charite", "lead.example:9092")


@pytest.fixture(name="home")
def home_(tmp_path):
    home = SiteHome(tmp_path / "site")
    home.create()
    return home


def only(checks):
    [check] = checks
    return check


def test_a_strict_policy_with_data_passes(tmp_path):
    assert only(check_policy(replace(POLICY, data={"chest": Source("chest", tmp_path)}))).result == Result.PASS


def test_a_policy_without_data_is_a_warning():
    assert [check.result for check in check_policy(POLICY)] == ["PASS", "WARN"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"units": ("patient", "none")}, "privacy for none allowed"),
        ({"secure_aggregation": False}, "secure aggregation not required"),
        ({"exact_weights": True}, "exact counts"),
        ({"records": ("acceptance", "update")}, "records update allowed"),
        ({"epsilon": 10.0}, "epsilon 10"),
        ({"life_epsilon": 50.0}, "life_epsilon 50"),
        ({"max_delta": 0.01}, "max_delta 0.01"),
        ({"min_sigma": 0.1}, "min_sigma 0.1"),
        ({"min_sites": 2}, "min_sites 2"),
        ({"min_patients": 1}, "min_patients 1"),
    ],
)
def test_what_is_looser_than_the_default_is_told(change, words):
    found = next(check_policy(replace(POLICY, limits=Limits(**change))))
    assert found.result == Result.WARN
    assert words in found.seen


def test_private_keys_pass(home):
    assert only(check_keys(home)).result == Result.PASS


def test_keys_that_others_can_read_are_a_fault(home):
    for path in (home.node_key, home.keys / "identity.key"):
        path.chmod(0o644)
        found = only(guarded("keys", check_keys(home)))
        assert found.result == Result.FAIL
        assert "chmod 600" in found.fix
        path.chmod(0o600)


def test_folders_that_others_can_enter_are_a_fault(home):
    home.state.chmod(0o755)
    found = only(check_keys(home))
    assert found.result == Result.FAIL
    assert f"chmod 700 {home.state}" in found.fix


def test_a_lost_key_is_a_fault(home):
    home.node_key.unlink()
    assert only(guarded("keys", check_keys(home))).result == Result.FAIL


def test_a_budget_that_is_nearly_spent_is_a_warning(home):
    assert only(check_budget(home, POLICY)).result == Result.PASS
    with Ledger.open(ledger_path(home.state, "chest")) as ledger:
        ledger.reserve("first", 1, "patient", Event(2.0, 0.1, 10), Budget(1e-5))
    assert only(check_budget(home, POLICY)).result == Result.PASS
    tight = replace(POLICY, limits=Limits(life_epsilon=0.5))
    found = only(check_budget(home, tight))
    assert found.result == Result.WARN
    assert "of 0.5 spent" in found.seen


def test_a_touched_ledger_is_a_fault(home):
    with Ledger.open(ledger_path(home.state, "chest")) as ledger:
        ledger.reserve("first", 1, "patient", Event(2.0, 0.1, 10), Budget(1e-5))
    path = ledger_path(home.state, "chest")
    path.write_bytes(path.read_bytes().replace(b'"steps":10', b'"steps":11'))
    found = only(guarded("budget", check_budget(home, POLICY)))
    assert found.result == Result.FAIL
    assert "edited, cut or damaged" in found.seen


def test_a_touched_audit_log_is_a_fault(home):
    AuditLog(home.audit).write("left", bytes=10)
    assert "1 entries" in only(check_log(home)).seen
    home.audit.write_bytes(home.audit.read_bytes().replace(b'"bytes":10', b'"bytes":11'))
    with pytest.raises(TrustError):
        list(check_log(home))
    assert only(guarded("audit log", check_log(home))).result == Result.FAIL
