"""Signatures are verified once, and what a process remembers of them is small."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedhealth.secagg.primitives import keys
from fedhealth.secagg.primitives.remembered_digests import RememberedDigests

IDENTITY = Ed25519PrivateKey.generate()
PUBLIC = IDENTITY.public_key().public_bytes_raw()


@pytest.fixture(name="verified")
def verified_(monkeypatch):
    """Return the lengths of the messages that were really verified."""
    seen = []

    class Counting:
        @staticmethod
        def from_public_bytes(public):
            genuine = Ed25519PublicKey.from_public_bytes(public)

            class Key:
                def verify(self, signature, message):
                    seen.append(len(message))
                    genuine.verify(signature, message)

            return Key()

    monkeypatch.setattr(keys, "Ed25519PublicKey", Counting)
    monkeypatch.setattr(keys, "_verified", RememberedDigests(3))
    return seen


def test_a_valid_signature_is_verified_once_and_a_wrong_one_every_time(verified):
    good = keys.sign_parts(IDENTITY, b"list", b"a", b"b")
    assert all(keys.is_signed_by(PUBLIC, good, b"list", b"a", b"b") for _ in range(3))
    assert len(verified) == 1
    wrong = [
        (PUBLIC, good, b"other", b"a", b"b"),
        (PUBLIC, good, b"list", b"ab"),
        (PUBLIC, bytes(64), b"list", b"a", b"b"),
        (Ed25519PrivateKey.generate().public_key().public_bytes_raw(), good, b"list", b"a", b"b"),
    ]
    assert not any(keys.is_signed_by(*each) for each in wrong * 2)
    assert len(verified) == 1 + 2 * len(wrong)


def test_what_is_remembered_does_not_grow_with_the_messages(verified):
    signed = [(keys.sign_parts(IDENTITY, b"x", part), part) for part in (bytes(9), bytes(9000), b"a", b"b", b"c")]
    for signature, part in signed * 2:
        assert keys.is_signed_by(PUBLIC, signature, b"x", part)
    assert len(verified) == 10  # the oldest were forgotten before they came back
    assert len(keys._verified) == 3


def test_a_long_message_is_not_remembered(verified):
    signature = keys.sign_parts(IDENTITY, b"x", bytes(2**16))
    assert all(keys.is_signed_by(PUBLIC, signature, b"x", bytes(2**16)) for _ in range(2))
    assert len(verified) == 2
    assert not keys._verified
