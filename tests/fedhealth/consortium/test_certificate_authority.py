"""Certificates that a strict verifier accepts, for the right names and time only."""

import contextlib
import hashlib
import random
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from fedhealth.consortium.certificate_authority import (
    decode_key,
    encode_certificate,
    encode_key,
    generate_key,
    make_ca_certificate,
    make_server_certificate,
)
from fedhealth.consortium.certificates import (
    compute_days_left,
    decode_certificate,
    fingerprint_certificate,
    get_alternative_names,
    is_ca_certificate,
    is_issued_by,
)
from fedhealth.errors import TrustError

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NAMES = ("lead.example", "192.0.2.7")


@pytest.fixture(name="key", scope="module")
def key_():
    return generate_key()


@pytest.fixture(name="authority", scope="module")
def authority_(key):
    return make_ca_certificate(key, "chest", 3650, NOW)


@pytest.fixture(name="server", scope="module")
def server_(authority, key):
    return make_server_certificate(authority, key, generate_key().public_key(), NAMES, 365, NOW)


def verify(server, authority, name="lead.example", at=NOW):
    """Verify as strictly as RFC 5280 and the web's own rules want it."""
    verifier = PolicyBuilder().store(Store([authority])).time(at).build_server_verifier(x509.DNSName(name))
    return verifier.verify(server, [])


def test_a_strict_verifier_accepts_it(server, authority):
    assert verify(server, authority)


def test_another_name_time_or_authority_is_refused(server, authority, key):
    with pytest.raises(VerificationError):
        verify(server, authority, name="evil.example")
    with pytest.raises(VerificationError):
        verify(server, authority, at=NOW + timedelta(days=366))
    with pytest.raises(VerificationError):
        verify(server, make_ca_certificate(generate_key(), "chest", 3650, NOW))


def test_what_is_read_back(server, authority, key):
    assert get_alternative_names(server) == NAMES
    assert get_alternative_names(authority) == ()
    assert is_ca_certificate(authority)
    assert not is_ca_certificate(server)
    assert is_issued_by(server, authority)
    assert not is_issued_by(server, make_ca_certificate(generate_key(), "chest", 3650, NOW))
    assert decode_certificate(encode_certificate(server), "it") == server
    assert decode_key(encode_key(key), "it").private_numbers() == key.private_numbers()
    assert (
        fingerprint_certificate(server)
        == hashlib.sha256(ssl.PEM_cert_to_DER_cert(encode_certificate(server).decode())).hexdigest()
    )


def test_days_left(server):
    assert compute_days_left(server, NOW) == pytest.approx(365)
    assert compute_days_left(server, NOW + timedelta(days=366)) < 0
    assert compute_days_left(server, NOW - timedelta(days=1)) < 0


def test_a_server_never_outlives_its_authority(key):
    short = make_ca_certificate(key, "chest", 10, NOW)
    server = make_server_certificate(short, key, generate_key().public_key(), NAMES, 365, NOW)
    assert server.not_valid_after_utc == short.not_valid_after_utc


def test_what_is_none_is_refused(server):
    for content in (b"", b"no certificate", encode_certificate(server) * 2, encode_key(generate_key())):
        with pytest.raises(TrustError):
            decode_certificate(content, "it")
    with pytest.raises(TrustError):
        decode_key(b"no key", "it")


@pytest.mark.filterwarnings("ignore")  # the library warns of some damages before it refuses them
def test_a_damaged_certificate_is_refused_in_our_own_words(server, authority):
    """Some damages name versions, curves and key types that nobody knows, or extensions twice."""
    draw = random.Random(7)
    for certificate in (server, authority):
        whole = ssl.PEM_cert_to_DER_cert(encode_certificate(certificate).decode())
        for _ in range(1500):
            damaged = bytearray(whole)
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
            with contextlib.suppress(TrustError):
                found = decode_certificate(ssl.DER_cert_to_PEM_cert(bytes(damaged)).encode(), "it")
                compute_days_left(found)
                get_alternative_names(found)
                same = found.tbs_certificate_bytes == certificate.tbs_certificate_bytes  # what is signed
                assert same or not (is_ca_certificate(found) or is_issued_by(found, authority))
