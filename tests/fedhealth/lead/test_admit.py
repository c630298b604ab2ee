"""Admitting and revoking: only with proof, only once, never again after revocation."""

import json

import pytest

from fedhealth.consortium.join_kit import read_kit
from fedhealth.consortium.join_request import read_request
from fedhealth.consortium.membership import SignedMembership
from fedhealth.errors import ConfigError, TrustError
from fedhealth.lead.admit import admit_member, review_join_request, revoke_member
from fedhealth.lead.home import LeadHome
from fedhealth.lead.publish_membership import load_published_membership
from fedhealth.site.home import SiteHome
from fedhealth.site.make_join_request import make_join_request
from tests.fedhealth.site.consortium import LEAD, SITES, World


@pytest.fixture(name="world")
def world_(tmp_path):
    return World(tmp_path)


def test_every_member_gets_a_kit_of_the_same_members(world):
    assert sorted(path.name for path in world.lead.kits.iterdir()) == [f"{site}.zip" for site in SITES]
    latest = SignedMembership.loads(world.lead.membership.read_bytes()).membership
    assert [member.site for member in latest.members] == list(SITES)
    assert latest.serial == 3
    for site in SITES:
        assert read_kit(world.kit(site)).signed.membership == latest


def test_admitting_again_changes_nothing(world):
    before = world.lead.membership.read_bytes()
    admit_member(world.lead, world.homes["charite"].join_request.read_bytes())
    assert world.lead.membership.read_bytes() == before


def test_the_fingerprint_is_the_same_at_both_ends(world):
    home = world.site("fourth")
    shown = make_join_request(home, "fourth", LEAD).fingerprint
    assert review_join_request(world.lead, home.join_request.read_bytes()).fingerprint == shown
    assert load_published_membership(world.lead).member("fourth") is None  # looking admits nobody


def test_a_stolen_public_key_is_no_proof(world):
    thief = world.site("thief")
    own = json.loads(thief.join_request.read_bytes())
    victim = json.loads(world.homes["charite"].join_request.read_bytes())
    for key in ("identity", "node"):
        stolen = {**own, "member": {**own["member"], key: victim["member"][key]}}
        with pytest.raises(TrustError, match="not signed with its own"):
            admit_member(world.lead, json.dumps(stolen).encode())
    swapped = {**own, "by_identity": victim["by_identity"], "by_node": victim["by_node"]}
    with pytest.raises(TrustError, match="not signed with its own"):
        admit_member(world.lead, json.dumps(swapped).encode())


def test_another_sites_name_is_taken(world, tmp_path):
    impostor = SiteHome(tmp_path / "impostor")
    make_join_request(impostor, "charite", LEAD)
    with pytest.raises(ConfigError, match="is already a member, with other keys"):
        admit_member(world.lead, impostor.join_request.read_bytes())


def test_a_member_under_a_second_name_is_refused(world):
    home = world.homes["charite"]
    make_join_request(home, "charite-2", LEAD)
    with pytest.raises(TrustError, match="holds keys of 'charite'"):
        admit_member(world.lead, home.join_request.read_bytes())


def test_a_request_for_another_lead_is_refused(world, tmp_path):
    home = SiteHome(tmp_path / "lost")
    make_join_request(home, "lost", "other.example:9092")
    with pytest.raises(ConfigError, match=r"for the lead other\.example:9092"):
        admit_member(world.lead, home.join_request.read_bytes())


def test_revoked_keys_never_come_back(world):
    serial = load_published_membership(world.lead).serial
    left = revoke_member(world.lead, "klinikum")
    assert left.serial == serial + 1
    assert left.member("klinikum") is None
    assert not (world.lead.kits / "klinikum.zip").exists()
    with pytest.raises(TrustError, match="were revoked"):
        admit_member(world.lead, world.homes["klinikum"].join_request.read_bytes())
    make_join_request(world.homes["klinikum"], "other-name", LEAD)
    with pytest.raises(TrustError, match="were revoked"):
        admit_member(world.lead, world.homes["klinikum"].join_request.read_bytes())


def test_a_site_with_new_keys_comes_back_under_its_name(world, tmp_path):
    revoke_member(world.lead, "klinikum")
    home = SiteHome(tmp_path / "again")
    make_join_request(home, "klinikum", LEAD)
    admit_member(world.lead, home.join_request.read_bytes())
    assert load_published_membership(world.lead).member("klinikum").node == home.load_node_public_key()


def test_nobody_and_the_last_member_are_not_revoked(world):
    with pytest.raises(ConfigError, match="No member is called 'nobody'"):
        revoke_member(world.lead, "nobody")
    revoke_member(world.lead, "charite")
    revoke_member(world.lead, "klinikum")
    with pytest.raises(ConfigError, match="last member"):
        revoke_member(world.lead, "st-brigid")


def test_a_damaged_members_file_stops_everything(world):
    path = world.lead.members_folder / "charite.json"
    path.rename(world.lead.members_folder / "evil.json")
    with pytest.raises(TrustError, match="holds the keys of 'charite'"):
        world.add("fourth")


def test_without_a_project_nobody_is_admitted(world, tmp_path):
    with pytest.raises(TrustError, match="no project"):
        admit_member(LeadHome(tmp_path / "nowhere"), world.homes["charite"].join_request.read_bytes())


def test_requests_are_read_as_written(world):
    assert read_request(world.homes["charite"].join_request.read_bytes()).member.site == "charite"
