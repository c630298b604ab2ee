"""A join request: proof of both keys, strictly parsed, no secret in it."""

import base64
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.consortium.join_request import read_request
from fedhealth.errors import ConfigError, FedhealthError, TrustError
from fedhealth.site.home import SiteHome
from fedhealth.site.make_join_request import make_join_request

LEAD = "lead.example:9092"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(name="home", scope="module")
def home_(tmp_path_factory):
    home = SiteHome(tmp_path_factory.mktemp("site"))
    make_join_request(home, "charite", LEAD)
    return home


@pytest.fixture(name="genuine", scope="module")
def genuine_(home):
    return json.loads(home.join_request.read_bytes())


def test_it_comes_back_as_it_was(home):
    made = make_join_request(home, "charite", LEAD)
    read = read_request(home.join_request.read_bytes())
    assert read == made
    assert (read.member.site, read.lead) == ("charite", LEAD)
    assert read.member.node == home.load_node_public_key()


def test_keys_are_kept_when_it_is_made_again(home):
    assert make_join_request(home, "charite", LEAD).fingerprint == make_join_request(home, "charite", LEAD).fingerprint


def test_no_private_key_is_in_it(home):
    content = home.join_request.read_bytes()
    assert b"PRIVATE" not in content
    assert (home.keys / "identity.key").read_bytes().hex().encode() not in content


@pytest.mark.parametrize(("name", "lead"), [("Charite", LEAD), ("../x", LEAD), ("a", "lead"), ("a", "a b:1")])
def test_names_and_addresses_have_their_form(tmp_path, name, lead):
    with pytest.raises(ConfigError):
        make_join_request(SiteHome(tmp_path / "site"), name, lead)
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("field", ["site", "identity", "node"])
def test_whatever_is_changed_the_proof_breaks(genuine, tmp_path, field):
    other = SiteHome(tmp_path)
    other.create()
    values = {
        "site": "klinikum",
        "identity": other.load_identity_key().public_key().public_bytes_raw().hex(),
        "node": other.load_node_public_key(),
    }
    changed = {**genuine, "member": {**genuine["member"], field: values[field]}}
    with pytest.raises(TrustError, match="not signed with its own"):
        read_request(json.dumps(changed).encode())
    with pytest.raises(TrustError, match="not signed with its own"):
        read_request(json.dumps({**genuine, "lead": "evil.example:1"}).encode())


def test_one_proof_does_not_stand_for_two(genuine, tmp_path):
    other = SiteHome(tmp_path)
    make_join_request(other, "charite", LEAD)
    foreign = json.loads(other.join_request.read_bytes())
    for proof in ("by_identity", "by_node"):
        with pytest.raises(TrustError, match="not signed with its own"):
            read_request(json.dumps({**genuine, proof: foreign[proof]}).encode())


@pytest.mark.parametrize("key", ["member", "lead", "by_identity", "by_node"])
@given(value=JSON)
def test_any_value_in_any_place_is_refused_in_our_own_words(genuine, key, value):
    with pytest.raises(FedhealthError):
        read_request(json.dumps({**genuine, key: value}, allow_nan=True).encode())


@given(value=JSON)
def test_a_further_key_is_refused(genuine, value):
    with pytest.raises(TrustError):
        read_request(json.dumps({**genuine, "more": value}).encode())


@given(content=st.binary(max_size=300) | JSON.map(json.dumps).map(str.encode))
def test_anything_else_is_refused_in_our_own_words(content):
    with pytest.raises(TrustError):
        read_request(content)


def test_a_large_one_is_refused(genuine):
    with pytest.raises(TrustError, match="larger"):
        read_request(json.dumps(genuine).encode() + b" " * 2**14)


def test_a_damaged_key_is_refused_in_our_own_words(genuine):
    """Some damages name curves and key types that nobody knows."""
    draw = random.Random(7)
    lines = genuine["member"]["node"].splitlines()
    key = base64.b64decode("".join(lines[1:-1]))
    for place in range(24):  # where type and curve are named
        for _ in range(20):
            damaged = bytes([*key[:place], draw.randrange(256), *key[place + 1 :]])
            if damaged == key:
                continue
            body = base64.b64encode(damaged).decode()
            pem = "\n".join([lines[0], body[:64], body[64:128], body[128:], lines[-1], ""])
            with pytest.raises(TrustError):
                read_request(json.dumps({**genuine, "member": {**genuine["member"], "node": pem}}).encode())
