"""Policy, keys, budget and audit log of a site."""

from dataclasses import replace

import pytest

from fedhealth.errors import TrustError
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.ledger import Ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.limits import EpsilonLimits
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.check.base import CheckStatus, catch_errors
from fedhealth.site.check.rules import check_budget, check_keys, check_log, check_policy
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import DataSource, Policy, SiteLimits

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
    assert only(check_policy(replace(POLICY, data={"chest": DataSource("chest", tmp_path)}))).status == CheckStatus.PASS


def test_a_policy_without_data_is_a_warning():
    assert [check.status for check in check_policy(POLICY)] == ["PASS", "WARN"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": ("patient", "none")}, "privacy for none allowed"),
        ({"secure_aggregation": False}, "secure aggregation not required"),
        ({"exact_weights": True}, "exact numbers"),
        ({"changing_cohorts": True}, "may change their contributors"),
        ({"records": ("acceptance", "update")}, "records update allowed"),
        ({"epsilon": 10.0}, "epsilon 10"),
        ({"lifetime_epsilon": 50.0}, "lifetime_epsilon 50"),
        ({"max_delta": 0.01}, "max_delta 0.01"),
        ({"min_noise_multiplier": 0.1}, "min_noise_multiplier 0.1"),
        ({"min_sites": 2}, "min_sites 2"),
        ({"min_patients": 1}, "min_patients 1"),
        ({"colluders": 0}, "no member is assumed to collude"),
        ({"min_honest": 1}, "min_honest 1"),
        ({"word_embeddings": True}, "rows of word embeddings may leave"),
    ],
)
def test_what_is_looser_than_the_default_is_told(change, message):
    found = next(check_policy(replace(POLICY, limits=SiteLimits(**change))))
    assert found.status == CheckStatus.WARN
    assert message in found.finding


def test_private_keys_pass(home):
    assert only(check_keys(home)).status == CheckStatus.PASS


def test_keys_that_others_can_read_are_a_fault(home):
    for path in (home.node_key, home.keys / "identity.key"):
        path.chmod(0o644)
        found = only(catch_errors("keys", check_keys(home)))
        assert found.status == CheckStatus.FAIL
        assert "chmod 600" in found.fix
        path.chmod(0o600)


def test_folders_that_others_can_enter_are_a_fault(home):
    home.state.chmod(0o755)
    found = only(check_keys(home))
    assert found.status == CheckStatus.FAIL
    assert f"chmod 700 {home.state}" in found.fix


def test_a_lost_key_is_a_fault(home):
    home.node_key.unlink()
    assert only(catch_errors("keys", check_keys(home))).status == CheckStatus.FAIL


def test_a_budget_that_is_nearly_spent_is_a_warning(home):
    assert only(check_budget(home, POLICY)).status == CheckStatus.PASS
    with Ledger.open(get_ledger_path(home.state, "chest")) as ledger:
        ledger.book("first", 1, "patient", PrivacyEvent(2.0, 0.1, 10), EpsilonLimits(1e-5))
    assert only(check_budget(home, POLICY)).status == CheckStatus.PASS
    tight = replace(POLICY, limits=SiteLimits(lifetime_epsilon=0.5))
    found = only(check_budget(home, tight))
    assert found.status == CheckStatus.WARN
    assert "at delta 1e-6 for each patient, noise multiplier 2 or more; the limit is 0.5" in found.finding


def test_a_touched_ledger_is_a_fault(home):
    with Ledger.open(get_ledger_path(home.state, "chest")) as ledger:
        ledger.book("first", 1, "patient", PrivacyEvent(2.0, 0.1, 10), EpsilonLimits(1e-5))
    path = get_ledger_path(home.state, "chest")
    path.write_bytes(path.read_bytes().replace(b'"steps":10', b'"steps":11'))
    found = only(catch_errors("budget", check_budget(home, POLICY)))
    assert found.status == CheckStatus.FAIL
    assert "edited, cut or damaged" in found.finding


def test_a_touched_audit_log_is_a_fault(home):
    AuditLog(home.audit).write("left", bytes=10)
    assert "1 entries" in only(check_log(home)).finding
    home.audit.write_bytes(home.audit.read_bytes().replace(b'"bytes":10', b'"bytes":11'))
    with pytest.raises(TrustError):
        list(check_log(home))
    assert only(catch_errors("audit log", check_log(home))).status == CheckStatus.FAIL
