"""Provisioning: once made, kept; renewed and rotated without losing the sites."""

import stat
from dataclasses import replace

import pytest

from fedhealth.consortium.certificates import decode_certificate, get_alternative_names, is_issued_by
from fedhealth.consortium.join_kit import read_kit
from fedhealth.consortium.membership import SignedMembership
from fedhealth.errors import ConfigError, TrustError
from fedhealth.lead.home import LeadHome
from fedhealth.lead.project import Project
from fedhealth.lead.provision import (
    compute_key_fingerprint,
    provision_consortium,
    renew_certificate,
    rotate_consortium_key,
)
from fedhealth.lead.publish_membership import load_published_membership
from tests.fedhealth.site.consortium import World

PROJECT = Project("chest", "lead.example:9092", names=("192.0.2.7",))


@pytest.fixture(name="home")
def home_(tmp_path):
    return LeadHome(tmp_path / "lead")


def certificates(home):
    return decode_certificate(home.ca.read_bytes(), "ca"), decode_certificate(home.certificate.read_bytes(), "server")


def contents(home):
    return {path.name: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}


def test_everything_is_made_and_is_the_owners_alone(home):
    fingerprint = provision_consortium(home, PROJECT)
    authority, server = certificates(home)
    assert is_issued_by(server, authority)
    assert get_alternative_names(server) == ("lead.example", "192.0.2.7")
    assert len(home.load_control_token()) == 64
    assert fingerprint.count("-") == 9
    secrets = [home.consortium_key, home.ca_key, home.server_key, home.token_file, home.superexec_secret]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (home.path, home.keys)} == {0o700}


def test_a_second_call_changes_nothing(home):
    first, before = provision_consortium(home, PROJECT), contents(home)
    assert provision_consortium(home, PROJECT) == first
    assert contents(home) == before


def test_another_name_gives_another_certificate_of_the_same_authority(home):
    provision_consortium(home, PROJECT)
    authority, server = certificates(home)
    provision_consortium(home, replace(PROJECT, names=("10.1.2.3",)))
    again, other = certificates(home)
    assert (again, get_alternative_names(other)) == (authority, ("lead.example", "10.1.2.3"))
    assert other != server


def test_a_faulty_project_makes_nothing(home):
    with pytest.raises(ConfigError, match="not a valid name"):
        provision_consortium(home, replace(PROJECT, project="Chest!"))
    assert not home.path.exists()


def test_a_home_has_one_project(home):
    provision_consortium(home, PROJECT)
    with pytest.raises(ConfigError, match="belongs to the project 'chest'"):
        provision_consortium(home, replace(PROJECT, project="lungs"))


def test_a_key_that_others_can_read_stops_it(home):
    provision_consortium(home, PROJECT)
    home.ca_key.chmod(0o644)
    with pytest.raises(TrustError, match="read by others"):
        renew_certificate(home)


def test_a_lost_consortium_key_is_not_replaced_behind_the_members_backs(tmp_path):
    world = World(tmp_path, sites=("charite",))
    world.lead.consortium_key.unlink()
    with pytest.raises(TrustError, match="cannot be read"):
        provision_consortium(world.lead, Project("chest", world.address))


def test_half_an_authority_is_noticed(home):
    provision_consortium(home, PROJECT)
    ca = home.ca.read_bytes()
    renew_certificate(home, ca=True)
    home.ca.write_bytes(ca)
    with pytest.raises(TrustError, match="renew --ca"):
        renew_certificate(home)
    renew_certificate(home, ca=True)
    authority, server = certificates(home)
    assert is_issued_by(server, authority)


def test_renewing_the_server_needs_no_kit(tmp_path):
    world = World(tmp_path, sites=("charite",))
    kit, before = world.kit("charite"), certificates(world.lead)
    assert renew_certificate(world.lead) == certificates(world.lead)[1].not_valid_after_utc
    after = certificates(world.lead)
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert world.kit("charite") == kit


def test_a_new_address_needs_new_kits(tmp_path):
    world = World(tmp_path, sites=("charite",))
    provision_consortium(world.lead, Project("chest", "new.example:443"))
    assert (load_published_membership(world.lead).lead, load_published_membership(world.lead).serial) == (
        "new.example:443",
        2,
    )
    assert get_alternative_names(certificates(world.lead)[1]) == ("new.example",)
    assert read_kit(world.kit("charite")).signed.membership.lead == "new.example:443"


def test_a_new_authority_needs_new_kits(tmp_path):
    world = World(tmp_path, sites=("charite",))
    serial = load_published_membership(world.lead).serial
    renew_certificate(world.lead, ca=True)
    assert load_published_membership(world.lead).serial == serial + 1
    authority, server = certificates(world.lead)
    assert is_issued_by(server, authority)


def test_a_new_key_is_endorsed_by_the_former_also_in_later_memberships(tmp_path):
    world = World(tmp_path, sites=("charite",))
    former = load_published_membership(world.lead).consortium
    assert rotate_consortium_key(world.lead).consortium != former
    world.add("klinikum")
    latest = SignedMembership.loads(world.lead.membership.read_bytes())
    assert latest.membership.serial == 3
    assert latest.is_endorsed_by(former)


def test_an_interrupted_rotation_is_completed_not_repeated(tmp_path):
    world = World(tmp_path, sites=("charite",))
    former, membership = load_published_membership(world.lead).consortium, world.lead.membership.read_bytes()
    rotated = rotate_consortium_key(world.lead)
    world.lead.membership.write_bytes(membership)  # as if killed before it was signed
    again = rotate_consortium_key(world.lead)
    assert again.consortium == rotated.consortium
    assert SignedMembership.loads(world.lead.membership.read_bytes()).is_endorsed_by(former)


def test_without_a_project_there_is_nothing_to_renew(home):
    for change in (renew_certificate, rotate_consortium_key):
        with pytest.raises(TrustError, match="no project"):
            change(home)


def test_the_home_is_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDHEALTH_LEAD", str(tmp_path / "here"))
    assert LeadHome.find().path == tmp_path / "here"
    assert LeadHome.find(tmp_path / "there").path == tmp_path / "there"


def test_fingerprints_tell_projects_and_keys_apart():
    assert len({compute_key_fingerprint(name, key) for name in ("a", "b") for key in (b"k" * 32, b"l" * 32)}) == 4
