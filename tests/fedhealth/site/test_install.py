"""Installing a kit: what follows on the installed one, shown to people; everything else refused and logged."""

from dataclasses import replace

import pytest

from fedhealth.consortium.identity import load_roster
from fedhealth.consortium.join_kit import make_kit
from fedhealth.consortium.membership import SignedMembership, sign_membership
from fedhealth.errors import ConfigError, FedhealthError, TrustError
from fedhealth.lead.admit import revoke_member
from fedhealth.lead.provision import renew_certificate, rotate_consortium_key
from fedhealth.lead.publish_membership import load_published_membership
from fedhealth.site import audit_log
from fedhealth.site.install import install_kit, load_installed_membership, review_kit
from fedhealth.utils.private_files import load_signing_key
from tests.fedhealth.site.consortium import LEAD, SITES, World


@pytest.fixture(name="world")
def world_(tmp_path):
    return World(tmp_path)


@pytest.fixture(name="home")
def home_(world):
    return world.homes["charite"]


def forged(world, **changes):
    """Return a kit whose membership differs, properly signed."""
    membership = replace(load_published_membership(world.lead), **changes)
    made = sign_membership(membership, load_signing_key(world.lead.consortium_key))
    return make_kit(made, world.lead.ca.read_bytes(), "charite")


def events(home):
    return [(entry["event"], entry.get("reason", "")) for entry in audit_log.verify_log(home.audit)]


def refused(home, kit, message, fault=TrustError, fingerprint=None):
    """Check that a kit is refused, that nothing changed, and that the log says why."""
    before = {path: path.read_bytes() for folder in (home.kit, home.state) for path in folder.rglob("*")}
    with pytest.raises(fault, match=message):
        install_kit(home, kit, fingerprint)
    assert {path: path.read_bytes() for folder in (home.kit, home.state) for path in folder.rglob("*")} == before
    if fault is TrustError:
        event, reason = events(home)[-1]
        assert event == "kit refused"
        assert reason


def test_what_is_installed_is_what_the_lead_signed(world, home):
    found = world.install("charite", load_published_membership(world.lead).fingerprint)
    assert found.changes == ()
    assert load_installed_membership(home).membership == load_published_membership(world.lead)
    assert home.ca.read_bytes() == world.lead.ca.read_bytes()
    assert load_roster(home.state) == load_published_membership(world.lead).roster
    assert events(home) == [("kit installed", "")]


def test_looking_installs_nothing(world, home):
    assert [member.site for member in review_kit(home, world.kit("charite")).membership.members] == list(SITES)
    assert load_installed_membership(home) is None
    assert not (home.state / "roster.json").exists()


def test_installing_again_changes_nothing(world, home):
    world.install("charite")
    assert world.install("charite").changes == ()


def test_another_fingerprint_is_refused(world, home):
    refused(home, world.kit("charite"), "fingerprint is", fingerprint="0000-" * 9 + "0000")
    world.install("charite", f" {load_published_membership(world.lead).fingerprint.upper()} ")


def test_a_roster_with_an_extra_site_is_shown_and_has_another_fingerprint(world, home):
    before = world.install("charite").fingerprint
    joined = world.add("fourth")
    found = world.install("charite")
    assert found.fingerprint != before
    request = review_kit(joined, world.kit("fourth")).membership.member("fourth")
    assert found.changes == (f"fourth joins, fingerprint {request.fingerprint}",)


def test_every_change_is_shown(world, home, tmp_path):
    world.install("charite")
    revoke_member(world.lead, "klinikum")
    rotate_consortium_key(world.lead)
    renew_certificate(world.lead, ca=True)
    other = World(tmp_path / "other", sites=("st-brigid",)).homes["st-brigid"]
    brigid = load_published_membership(world.lead).member("st-brigid")
    exchanged = replace(brigid, node=other.load_node_public_key())
    world.lead.save_member(exchanged)
    world.add("fourth")
    assert [change.partition(",")[0] for change in world.install("charite").changes] == [
        "fourth joins",
        "klinikum leaves",
        "st-brigid has new keys",
        "the consortium has a new key",
        "the lead's server has a new certificate authority",
    ]


def test_a_lower_serial_is_refused(world, home):
    old = world.kit("charite")
    world.add("fourth")
    world.install("charite")
    refused(home, old, "older than the installed one")


def test_two_kits_of_one_number_are_refused(world, home):
    world.install("charite")
    members = load_published_membership(world.lead).members[:2]
    refused(home, forged(world, members=members), "differs from the installed one of the same number")


def test_a_kit_of_another_consortium_is_refused(world, home, tmp_path):
    world.install("charite")
    other = World(tmp_path / "other")
    refused(home, other.kit("charite"), "lists other keys")
    refused(home, forged(world, project="lungs", serial=9), "for the consortium 'lungs'")


def test_a_key_that_nobody_endorsed_is_refused(world, home, tmp_path):
    world.install("charite")
    other = World(tmp_path / "other", sites=())
    key = load_signing_key(other.lead.consortium_key)
    taken = replace(load_published_membership(world.lead), consortium=key.public_key().public_bytes_raw(), serial=9)
    ca = world.lead.ca.read_bytes()
    refused(home, make_kit(sign_membership(taken, key), ca, "charite"), "former one does not endorse")
    refused(home, make_kit(sign_membership(taken, key, former=key), ca, "charite"), "former one does not endorse")


def test_a_site_that_missed_the_rotation_follows_later(world, home):
    world.install("charite")
    rotate_consortium_key(world.lead)
    world.add("fourth")
    assert "the consortium has a new key, endorsed by the former one" in world.install("charite").changes


def test_a_kit_without_this_site_is_refused(world, home):
    others = tuple(member for member in load_published_membership(world.lead).members if member.site != "charite")
    refused(home, forged(world, members=others), "does not list this site")


def test_another_sites_name_is_refused(world, home):
    home.policy.write_text(home.policy.read_text().replace("charite", "klinikum"))
    refused(home, world.kit("klinikum"), "lists other keys for 'klinikum'")


def test_another_lead_is_refused(world, home):
    refused(home, forged(world, lead="evil.example:9092"), r"site\.yaml names 127\.0\.0\.1:9092")


def test_an_expired_authority_is_refused(world, home, monkeypatch):
    monkeypatch.setattr("fedhealth.site.install.compute_days_left", lambda certificate: -0.1)
    refused(home, world.kit("charite"), "has expired")


def test_without_a_policy_nothing_is_installed(world, home):
    home.policy.unlink()
    refused(home, world.kit("charite"), "is missing", fault=ConfigError)


def test_a_damaged_installed_kit_is_not_overwritten(world, home):
    world.install("charite")
    home.membership.write_bytes(home.membership.read_bytes()[:-40])
    refused(home, world.kit("charite"), "is damaged")


def test_killed_between_two_files_it_can_be_repeated(world, home):
    world.install("charite")
    before = home.membership.read_bytes()
    renew_certificate(world.lead, ca=True)
    world.install("charite")
    home.membership.write_bytes(before)  # as if killed after ca.crt
    (home.state / "roster.json").unlink()
    world.install("charite")
    assert load_installed_membership(home).membership == load_published_membership(world.lead)
    assert load_roster(home.state) == load_published_membership(world.lead).roster


def test_a_key_that_others_can_read_stops_it(world, home):
    home.node_key.chmod(0o644)
    with pytest.raises(FedhealthError, match="read by others"):
        install_kit(home, world.kit("charite"))


def test_nothing_secret_is_logged(world, home):
    world.install("charite")
    refused(home, b"no kit", "not a zip file")
    content = home.audit.read_bytes()
    assert b"PRIVATE" not in content
    assert (home.keys / "identity.key").read_bytes().hex().encode() not in content


def test_the_lead_signs_only_what_sites_would_read(world):
    SignedMembership.loads(world.lead.membership.read_bytes())
    assert load_published_membership(world.lead).lead == LEAD
