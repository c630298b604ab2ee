"""Jobs are believed for their signature alone, and once."""

import json
from dataclasses import replace

import pytest

from fedhealth.consortium.signatures import sign
from fedhealth.consortium.signed_job import PURPOSE, Order, verified
from fedhealth.errors import TrustError
from fedhealth.lead.sign_job import make_order
from fedhealth.site.job_history import Orders
from fedhealth.utils.private_files import load_signing_key
from tests.fedhealth.site.trust import Consortium

BUNDLE, DIGEST = "12" * 32, "34" * 32


@pytest.fixture(name="consortium")
def consortium_(tmp_path):
    return Consortium(tmp_path)


@pytest.fixture(name="job")
def job_(consortium):
    return make_order(consortium.lead, "0123456789ab", ["experiment=demo"], DIGEST, BUNDLE)


def test_a_genuine_job_is_believed(consortium, job):
    order = verified(*job, consortium.membership(), BUNDLE)
    assert (order.words, order.digest) == (("experiment=demo",), DIGEST)


@pytest.mark.parametrize(
    ("key", "value"),
    [("words", ["privacy=none"]), ("run", "ffffffffffff"), ("digest", "00" * 32), ("expires", 2**40), ("project", "x")],
)
def test_a_changed_job_is_not(consortium, job, key, value):
    content, signature = job
    changed = json.dumps({**json.loads(content), key: value}, sort_keys=True, separators=(",", ":"))
    with pytest.raises(TrustError, match="not signed"):
        verified(changed, signature, consortium.membership(), BUNDLE)


def test_a_job_of_somebody_else_is_not(consortium, job, tmp_path):
    other = Consortium(tmp_path / "other")
    with pytest.raises(TrustError, match="not signed"):
        verified(*job, other.membership(), BUNDLE)
    with pytest.raises(TrustError):
        verified(job[0], "", consortium.membership(), BUNDLE)


def test_a_signature_serves_one_purpose(consortium, job):
    elsewhere = sign(load_signing_key(consortium.lead.consortium_key), "membership", job[0].encode()).hex()
    with pytest.raises(TrustError, match="not signed"):
        verified(job[0], elsewhere, consortium.membership(), BUNDLE)


def test_bundle_members_and_time_must_be_the_sites(consortium, job):
    membership = consortium.membership()
    with pytest.raises(TrustError, match="another bundle"):
        verified(*job, membership, "99" * 32)
    with pytest.raises(TrustError, match="another roster"):
        verified(*job, replace(membership, members=membership.members[:2]), BUNDLE)
    order = Order.parse(job[0])
    with pytest.raises(TrustError, match="expired"):
        verified(*job, membership, BUNDLE, now=order.expires + 1)
    with pytest.raises(TrustError, match="in the future"):
        verified(*job, membership, BUNDLE, now=order.issued - 301)


def test_a_job_that_ended_is_not_taken_up_again(consortium, job):
    now = [1000.0]
    home = consortium.homes["charite"]
    orders, order = Orders(home, lambda: now[0]), Order.parse(job[0])
    orders.admit(order, hours=1)
    orders.admit(order, hours=1)  # a restart in between
    assert Orders(home).lapsed(-1) == [order.run]
    with pytest.raises(TrustError, match="another job"):
        orders.admit(replace(order, words=("seed=1",)), hours=1)
    now[0] += 3601
    with pytest.raises(TrustError, match="longer than this site allows"):
        orders.admit(order, hours=1)
    orders.end(order.run)
    assert Orders(home).lapsed(-1) == []
    with pytest.raises(TrustError, match="has ended"):
        orders.admit(order, hours=10)


@pytest.mark.parametrize("words", ["text", [1], ["a" * 2000], ["line\nbreak"], [["nested"]], ["x"] * 500])
def test_malformed_words_are_refused_even_when_signed(consortium, job, words):
    content = json.dumps({**json.loads(job[0]), "words": words}, sort_keys=True, separators=(",", ":"))
    proof = sign(load_signing_key(consortium.lead.consortium_key), PURPOSE, content.encode()).hex()
    with pytest.raises(TrustError, match="words"):
        verified(content, proof, consortium.membership(), BUNDLE)
