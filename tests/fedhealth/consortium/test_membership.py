"""Keys, homes and the signed list of members."""

import json
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import assume, given
from hypothesis import strategies as st

from fedhealth.consortium.membership import SignedMembership, sign_membership
from fedhealth.errors import TrustError
from fedhealth.site.home import SiteHome
from fedhealth.utils.private_files import load_signing_key
from tests.fedhealth.site.trust import SITES, Consortium


@pytest.fixture(name="consortium")
def consortium_(tmp_path):
    return Consortium(tmp_path)


def test_keys_are_the_owners_alone_and_are_kept(consortium):
    home = consortium.homes["charite"]
    for path in (home.node_key, home.keys / "identity.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.keys.stat().st_mode) == 0o700
    before = home.load_identity_key().public_key().public_bytes_raw(), home.load_node_public_key()
    home.create()
    assert (home.load_identity_key().public_key().public_bytes_raw(), home.load_node_public_key()) == before


def test_a_key_that_others_can_read_is_refused(consortium):
    home = consortium.homes["charite"]
    (home.keys / "identity.key").chmod(0o644)
    with pytest.raises(TrustError, match="read by others"):
        home.load_identity_key()
    home.node_key.write_bytes(b"no key")
    with pytest.raises(TrustError, match="not a private key"):
        home.load_node_key()


def test_the_home_is_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDHEALTH_HOME", str(tmp_path / "here"))
    assert SiteHome.find().path == tmp_path / "here"
    assert SiteHome.find(tmp_path / "there").path == tmp_path / "there"


def test_a_membership_comes_back_as_it_was(consortium):
    found = SignedMembership.loads(consortium.lead.membership.read_bytes()).membership
    assert found == consortium.membership()
    assert [member.site for member in found.members] == list(SITES)
    assert found.member("nobody") is None


def test_whatever_is_changed_the_signature_breaks(consortium):
    genuine = json.loads(consortium.lead.membership.read_bytes())
    other = "cd" * 32
    for key, value in {"project": "lungs", "lead": "evil.example:1", "ca": other, "serial": 2, "issued": 1}.items():
        content = json.dumps({**genuine, "membership": {**genuine["membership"], key: value}}).encode()
        with pytest.raises(TrustError, match="not signed"):
            SignedMembership.loads(content)
    without = {**genuine["membership"], "members": genuine["membership"]["members"][:2]}
    with pytest.raises(TrustError, match="not signed"):
        SignedMembership.loads(json.dumps({**genuine, "membership": without}).encode())


def test_a_foreign_key_signs_in_its_own_name_only(consortium):
    foreign = Ed25519PrivateKey.generate()
    with pytest.raises(TrustError, match="not signed by the consortium"):
        SignedMembership.loads(sign_membership(consortium.membership(), foreign).dumps())
    new = consortium.membership(consortium=foreign.public_key().public_bytes_raw())
    rotated = sign_membership(new, foreign, former=load_signing_key(consortium.lead.consortium_key))
    assert SignedMembership.loads(rotated.dumps()).is_endorsed_by(consortium.public)
    assert not SignedMembership.loads(sign_membership(new, foreign).dumps()).is_endorsed_by(consortium.public)
    assert new.fingerprint != consortium.membership().fingerprint


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"membership": 1}', b"\xff\xfe", b'{"a":1,"a":2}', b"[" * 100_000, b'{"a": NaN}']
)
def test_what_is_no_membership_is_refused(content):
    with pytest.raises(TrustError):
        SignedMembership.loads(content)


def test_doubles_and_other_keys_are_refused(consortium):
    one, two, three = consortium.membership().members
    for members in ((one, one, two), (two, one, three), ()):
        with pytest.raises(TrustError):
            SignedMembership.loads(consortium.save(consortium.membership(members=members)).dumps())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(name="genuine", scope="module")
def genuine_(tmp_path_factory):
    return json.loads(Consortium(tmp_path_factory.mktemp("trust")).lead.membership.read_bytes())


@given(value=JSON, data=st.data())
def test_any_value_in_any_place_is_refused_in_our_own_words(genuine, value, data):
    content = json.loads(json.dumps(genuine))
    place = data.draw(st.sampled_from(["", "membership", "members"]))
    node = {"": content, "membership": content["membership"], "members": content["membership"]["members"][0]}[place]
    key = data.draw(st.sampled_from(sorted(node)))
    assume(node[key] != value)
    node[key] = value
    with pytest.raises(TrustError):
        SignedMembership.loads(json.dumps(content).encode())
