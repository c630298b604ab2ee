"""A consortium's own certificate authority: a self-signed certificate that signs the server's certificate. No I/O.

EC secp384r1 and SHA-384; extensions as required by RFC 5280, so that strict verifiers accept them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedhealth.errors import TrustError

_CLOCK_SKEW = timedelta(hours=1)  # by which a site's clock may be behind


def generate_key() -> ec.EllipticCurvePrivateKey:
    """Generate a private key."""
    return ec.generate_private_key(ec.SECP384R1())


def encode_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def decode_key(pem: bytes, what: str) -> ec.EllipticCurvePrivateKey:
    """Parse a private key.

    Raises:
        TrustError: it is not an elliptic curve private key.

    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as fault:
        raise TrustError(f"{what} is not a private key.", "Restore it from its backup.") from fault
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TrustError(f"{what} is not an elliptic curve key.", "Restore it from its backup.")
    return key


def make_ca_certificate(
    key: ec.EllipticCurvePrivateKey, project: str, days: int, now: datetime | None = None
) -> x509.Certificate:
    """Create the authority's certificate, valid from an hour ago for `days`."""
    name = _make_common_name(f"{project} authority")
    usage = _make_key_usage(key_cert_sign=True, crl_sign=True)
    return (
        _start_certificate(name, name, key.public_key(), days, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )


def make_server_certificate(
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    public: ec.EllipticCurvePublicKey,
    names: Sequence[str],
    days: int,
    now: datetime | None = None,
) -> x509.Certificate:
    """Create the server's certificate for DNS names and IP addresses; it expires with the authority's at the latest."""
    return (
        _start_certificate(
            _make_common_name(names[0]), authority.subject, public, days, now, authority.not_valid_after_utc
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_make_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_make_general_name(name) for name in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA384())
    )


def encode_certificate(certificate: x509.Certificate) -> bytes:
    """Return a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def _start_certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    days: int,
    now: datetime | None,
    latest: datetime | None = None,
) -> x509.CertificateBuilder:
    clock = (now or datetime.now(UTC)).replace(microsecond=0)
    end = clock + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(clock - _CLOCK_SKEW)
        .not_valid_after(min(end, latest) if latest else end)
    )


def _make_common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _make_general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _make_key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
