import itertools
import os
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.consortium.roster import Roster
from fedhealth.errors import TrustError
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives import keys
from fedhealth.secagg.protocol.context import AttemptContext, digest_attempt, verify_announcement, verify_announcements
from fedhealth.secagg.protocol.messages import AttemptDescriptor, KeyAnnouncement
from fedhealth.secagg.protocol.rules import select_open_segments
from fedhealth.secagg.protocol.threshold import Thresholds
from fedhealth.secagg.protocol.vector_name import VectorName
from tests.fedhealth.secagg.federation import Federation

# Points of small order on Curve25519 (Bernstein, "Curve25519: new Diffie-Hellman speed records").
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 19 - 1).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 19 + 1).to_bytes(32, "little"),
]


@pytest.fixture(scope="module")
def federation():
    return Federation(4)


@pytest.fixture(scope="module")
def descriptor(federation):
    return AttemptDescriptor.from_bytes(federation.server.open_attempt(federation.plan()))


def test_each_field_changes_ctx(federation, descriptor):
    segment = descriptor.layout[0]
    changed = {
        "run": "run-2",
        "config_digest": os.urandom(32),
        "roster_digest": os.urandom(32),
        "exchange": 2,
        "attempt": 2,
        "history": os.urandom(32),
        "vector": replace(descriptor.vector, purpose="evaluate"),
        "threshold": 4,
        "signed": True,
        "members": descriptor.members[:-1],
        "base": descriptor.base[:-1],
        "cohort": descriptor.cohort[:-1],
        "model_digest": os.urandom(32),
        "training_digest": os.urandom(32),
        "layout": (replace(segment, bits=31), *descriptor.layout[1:]),
    }
    assert set(changed) == {field.name for field in fields(AttemptDescriptor)}
    digests = {digest_attempt(replace(descriptor, **{field: value})) for field, value in changed.items()}
    assert len(digests | {digest_attempt(descriptor)}) == len(changed) + 1


def test_names_do_not_run_together(descriptor):
    moved = replace(descriptor, base=("ab", "c"), cohort=("a",))
    assert digest_attempt(moved) != digest_attempt(replace(descriptor, base=("a", "bc"), cohort=("a",)))
    assert digest_attempt(moved) != digest_attempt(replace(descriptor, base=("ab",), cohort=("c", "a")))


def signed(federation, of: str, signer: str | None = None, **changes) -> bytes:
    draft = replace(federation.server.members[of], **changes)
    signature = keys.sign_parts(federation.identities[signer or of], b"announce", draft.body())
    return replace(draft, signature=signature).to_bytes()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"run": "run-2"}, "another run"),
        ({"roster_digest": bytes(32)}, "another list of members"),
        ({"site": "stranger"}, "not an approved member"),
        ({"site": "site-01"}, "not signed by its approved identity"),
        ({"signer": "site-01"}, "not signed by its approved identity"),
        ({"towers": (("b", 1), ("a", 1))}, "malformed towers"),
        ({"towers": (("a", 1), ("a", 2))}, "malformed towers"),
        ({"towers": (("a b", 1),)}, "malformed towers"),
        ({"towers": (("a", 2**60),)}, "malformed towers"),
        *(({"key": key}, "low order") for key in LOW_ORDER),
    ],
)
def test_bad_announcements_are_refused(federation, changes, problem):
    blob = signed(federation, "site-00", **changes)
    with pytest.raises(ProtocolViolationError, match=problem) as caught:
        verify_announcement(blob, federation.roster, "run-1", "site-00")
    assert "site-00" in caught.value.blame


def test_a_changed_announcement_loses_its_signature(federation):
    blob = replace(federation.server.members["site-00"], epoch=7).to_bytes()
    with pytest.raises(ProtocolViolationError, match="not signed"):
        verify_announcement(blob, federation.roster, "run-1", "site-00")


def test_duplicates_among_members_are_refused(federation):
    blobs = [federation.server.members[site].to_bytes() for site in federation.ids]
    for bad in (blobs[::-1], [blobs[0], blobs[0]]):
        with pytest.raises(ProtocolViolationError, match="sorted and unique"):
            verify_announcements(tuple(bad), federation.roster, "run-1")
    copied = signed(federation, "site-01", key=federation.server.members["site-00"].key)
    with pytest.raises(ProtocolViolationError, match="site-00 and site-01 announced the same key") as caught:
        verify_announcements((blobs[0], copied, *blobs[2:]), federation.roster, "run-1")
    assert caught.value.blame == ("site-00", "site-01")


def test_rosters():
    key, other = (Ed25519PrivateKey.generate().public_key().public_bytes_raw() for _ in range(2))
    assert Roster.from_keys({"b": key, "a": other}).digest == Roster.from_keys({"a": other, "b": key}).digest
    assert Roster.from_keys({"a": key}).digest != Roster.from_keys({"b": key}).digest
    for bad in ({"A": key}, {"a": key, "b": key}):
        with pytest.raises(TrustError):
            Roster.from_keys(bad)


def test_ownership_follows_the_announcements():
    towers = {"site-00": {"image": 1}, "site-01": {"image": 1, "labs": 2}, "site-02": {"labs": 0}}
    federation = Federation(3, towers=towers)
    image, labs = federation.segment("image"), federation.segment("labs")
    members = tuple(federation.server.members[site] for site in federation.ids)
    context = AttemptContext(
        AttemptDescriptor(
            "r", b"", b"", 1, 1, VectorName("train", 1, 1), b"", 3, False, (), (), (), b"", b"", (image, labs)
        ),
        members,
        b"",
    )
    assert context.owners(image, federation.ids) == ("site-00", "site-01")
    assert context.owners(labs, ["site-02", "site-00"]) == ("site-02",)
    assert context.owned_segments("site-02") == (labs,)
    assert isinstance(members[0], KeyAnnouncement)


TOWERS = ("image", "labs", "text")


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.data())
def test_the_segments_of_a_group_are_opened_together_by_every_site(data):
    """For any owners, shares, cohort, survivors and thresholds: all of them or none."""
    sites = [f"site-{i:02d}" for i in range(data.draw(st.integers(3, 9)))]
    owned = {site: data.draw(st.sets(st.sampled_from(TOWERS))) for site in sites}
    members = tuple(SimpleNamespace(site=site, towers=tuple((t, 1) for t in owned[site])) for site in sites)
    layout = tuple(
        SimpleNamespace(name=f"{tower}-{i}", tower=tower, shares=data.draw(st.integers(0, 3)))
        for i, tower in enumerate(data.draw(st.lists(st.sampled_from(TOWERS), min_size=1, max_size=6)))
    )
    cohort = tuple(sorted(data.draw(st.sets(st.sampled_from(sites), min_size=1))))
    context = AttemptContext(SimpleNamespace(layout=layout, cohort=cohort), members, b"")
    assert [name for group in context.groups for name in group.segments] != []
    for colluders, honest, least in itertools.product(range(3), (1, 2, 3), (1, 4)):
        thresholds = Thresholds(len(sites), colluders, honest, 3, least)
        survivors = sorted(data.draw(st.sets(st.sampled_from(cohort))))
        opened = set(select_open_segments(context, survivors, thresholds))
        for group in context.groups:
            assert opened.isdisjoint(group.segments) or opened.issuperset(group.segments)
            for segment in (each for each in layout if each.name in group.segments):
                assert context.owners(segment, cohort) == group.owners
                assert context.get_group(segment.name) == group.name
