"""The installed kit: whole, this site's, and valid."""

from datetime import UTC, datetime, timedelta

import pytest

from fedhealth.consortium import certificates
from fedhealth.consortium.identity import save_roster
from fedhealth.site.check import kit
from fedhealth.site.check.base import CheckStatus, catch_errors
from fedhealth.site.check.kit import check_kit
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import load_policy
from tests.fedhealth.site.consortium import World


@pytest.fixture(name="world")
def world_(tmp_path):
    world = World(tmp_path)
    world.install("charite")
    return world


@pytest.fixture(name="home")
def home_(world):
    return world.homes["charite"]


def looked_at(home):
    found = list(catch_errors("kit", check_kit(home, load_policy(home))))
    return {check.name: check for check in found}


def test_an_installed_kit_passes(world, home):
    found = looked_at(home)
    assert {check.status for check in found.values()} == {CheckStatus.PASS}
    assert "3 member(s)" in found["kit"].finding


def test_without_a_kit_there_is_a_way_on(world):
    found = looked_at(world.homes["klinikum"])
    assert found["kit"].status == CheckStatus.FAIL
    assert "site install" in found["kit"].fix


def test_another_roster_is_a_fault(home):
    save_roster(home.state, {"charite": home.load_identity_key().public_key().public_bytes_raw()})
    assert "roster for secure aggregation lists other members" in looked_at(home)["kit"].finding
    (home.state / "roster.json").unlink()
    assert looked_at(home)["kit"].status == CheckStatus.FAIL


def test_another_authority_is_a_fault(world, home, tmp_path):
    other = World(tmp_path / "other", sites=("x",))
    home.ca.write_bytes(other.lead.ca.read_bytes())
    assert looked_at(home)["authority"].status == CheckStatus.FAIL
    home.ca.unlink()
    assert "is missing" in looked_at(home)["kit"].finding


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: charite", "name: klinikum", "lists other keys for klinikum"),
        ("name: charite", "name: nobody", "nobody is not a member"),
        ("127.0.0.1:9092", "other.example:1", "site.yaml names other.example:1"),
    ],
)
def test_a_policy_that_does_not_fit_the_kit_is_a_fault(home, old, new, message):
    home.policy.write_text(home.policy.read_text().replace(old, new))
    assert message in looked_at(home)["kit"].finding


def test_new_keys_after_the_kit_are_a_fault(home):
    home.node_key.unlink()
    SiteHome(home.path).create()
    assert "lists other keys for charite" in looked_at(home)["kit"].finding


@pytest.mark.parametrize(("days", "result"), [(3660, "FAIL"), (3640, "WARN"), (100, "PASS")])
def test_an_authority_that_ends_is_noticed(home, monkeypatch, days, result):
    later = datetime.now(UTC) + timedelta(days=days)
    monkeypatch.setattr(
        kit, "compute_days_left", lambda certificate: certificates.compute_days_left(certificate, later)
    )
    assert looked_at(home)["authority"].status == result


def test_a_damaged_membership_is_a_fault(home):
    home.membership.write_bytes(home.membership.read_bytes().replace(b"klinikum", b"klinikun"))
    found = looked_at(home)
    assert found["kit"].status == CheckStatus.FAIL
    assert "is damaged" in found["kit"].finding
