"""Read and check X.509 certificates: fingerprint, issuer, names and validity."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

from fedhealth.errors import TrustError

DAMAGED = (ValueError, x509.InvalidVersion, x509.ExtensionNotFound, x509.DuplicateExtension)
"""Exceptions that parsing an untrusted certificate can raise."""


def decode_certificate(pem: bytes, what: str) -> x509.Certificate:
    """Parse a PEM file with exactly one certificate.

    Raises:
        TrustError: it is not exactly one certificate.

    """
    try:
        found = x509.load_pem_x509_certificates(pem)
    except DAMAGED as fault:
        raise TrustError(f"{what} is not a certificate.", "Ask the lead for a new kit.") from fault
    if len(found) != 1:
        raise TrustError(f"{what} holds {len(found)} certificates instead of one.", "Ask the lead for a new kit.")
    return found[0]


def fingerprint_certificate(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate (DER), hexadecimal; a membership pins it."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def is_ca_certificate(certificate: x509.Certificate) -> bool:
    """Return whether a certificate is a self-signed certificate authority."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except DAMAGED:
        return False
    return constraints.ca and is_issued_by(certificate, certificate)


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Return whether the authority signed the certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (*DAMAGED, InvalidSignature, UnsupportedAlgorithm, TypeError):
        return False
    return True


def compute_days_left(certificate: x509.Certificate, now: datetime | None = None) -> float:
    """Return how many days a certificate remains valid; negative if it is expired or not yet valid."""
    clock = now or datetime.now(UTC)
    if clock < certificate.not_valid_before_utc:
        return -1.0
    return (certificate.not_valid_after_utc - clock) / timedelta(days=1)


def get_alternative_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the DNS names and IP addresses in a certificate."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except DAMAGED:
        return ()
    return tuple(str(name.value) for name in names)
