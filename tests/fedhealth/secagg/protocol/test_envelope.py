"""Commitments to shares: the same with and without what a process remembers of them."""

import os

import pytest

from fedhealth.secagg.primitives import field
from fedhealth.secagg.primitives.remembered_digests import RememberedDigests
from fedhealth.secagg.protocol import envelope

CTX, SHARES = os.urandom(32), os.urandom(3 * field.ELEMENT_BYTES)


@pytest.fixture(name="hashed")
def hashed_(monkeypatch):
    """Return the arguments for which commitments were computed; nothing is remembered at first."""
    seen, compute = [], envelope.commit_shares

    def count(*arguments):
        seen.append(arguments)
        return compute(*arguments)

    monkeypatch.setattr(envelope, "_committed", RememberedDigests(8))
    monkeypatch.setattr(envelope, "commit_shares", count)
    return seen


def test_each_share_has_the_commitment_that_the_lead_computes_for_it_alone():
    commits = envelope.commit_shares(CTX, "a", "b", SHARES)
    size = field.ELEMENT_BYTES
    alone = [envelope.commit_share(CTX, "a", "b", at, SHARES[size * at : size * (at + 1)]) for at in range(3)]
    assert commits == b"".join(alone)
    assert envelope.commit_shares(CTX, "a", "b", b"") == b""


def test_a_reader_hashes_no_share_that_its_own_process_has_committed_to(hashed):
    commits = envelope.commit_shares(CTX, "a", "b", SHARES)
    assert envelope.are_committed(CTX, "a", "b", SHARES, commits)
    assert len(hashed) == 1


def test_a_reader_of_another_process_hashes_every_share(hashed, monkeypatch):
    commits = envelope.commit_shares(CTX, "a", "b", SHARES)
    monkeypatch.setattr(envelope, "_committed", RememberedDigests(8))
    assert envelope.are_committed(CTX, "a", "b", SHARES, commits)
    assert len(hashed) == 2


@pytest.mark.parametrize("is_remembered", [True, False])
def test_anything_else_than_what_was_committed_to_is_refused(is_remembered, hashed, monkeypatch):
    commits = envelope.commit_shares(CTX, "a", "b", SHARES)
    other = envelope.commit_shares(CTX, "a", "b", SHARES[::-1])
    if not is_remembered:
        monkeypatch.setattr(envelope, "_committed", RememberedDigests(8))
    false = [
        (bytes(32), "a", "b", SHARES, commits),
        (CTX, "b", "a", SHARES, commits),
        (CTX, "a", "c", SHARES, commits),
        (CTX, "c", "b", SHARES, commits),
        (CTX, "a", "b", SHARES[::-1], commits),
        (CTX, "a", "b", SHARES, other),
        (CTX, "a", "b", SHARES, commits[:-1] + bytes([commits[-1] ^ 1])),
        (CTX, "a", "b", SHARES, commits[:-16]),
        (CTX, "a", "b", SHARES, b""),
    ]
    assert not any(envelope.are_committed(*each) for each in false * 2)
    assert len(hashed) == 2 + 2 * len(false)  # each was computed, each time
