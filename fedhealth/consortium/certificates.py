"""Certificates as both sides read them: which one, by whom, for which names, and for how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

from fedhealth.errors import TrustError

DAMAGED = (ValueError, x509.InvalidVersion, x509.ExtensionNotFound, x509.DuplicateExtension)
"""What reading a certificate from outside can raise."""


def load_certificate(pem: bytes, what: str) -> x509.Certificate:
    """Read one certificate back; a file with more or less than one is refused.

    Raises:
        TrustError: it is none.

    """
    try:
        found = x509.load_pem_x509_certificates(pem)
    except DAMAGED as fault:
        raise TrustError(f"{what} is no certificate.", "Ask the lead for a new kit.") from fault
    if len(found) != 1:
        raise TrustError(f"{what} holds {len(found)} certificates instead of one.", "Ask the lead for a new kit.")
    return found[0]


def digest_of(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate, hexadecimal: what a membership pins."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def is_authority(certificate: x509.Certificate) -> bool:
    """Tell whether a certificate may sign others and signed itself."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except DAMAGED:
        return False
    return constraints.ca and is_issued_by(certificate, certificate)


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Tell whether the authority signed the certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (*DAMAGED, InvalidSignature, UnsupportedAlgorithm, TypeError):
        return False
    return True


def days_left(certificate: x509.Certificate, now: datetime | None = None) -> float:
    """Return how many days a certificate is still valid; negative when it no longer is or not yet."""
    clock = now or datetime.now(UTC)
    if clock < certificate.not_valid_before_utc:
        return -1.0
    return (certificate.not_valid_after_utc - clock) / timedelta(days=1)


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the DNS names and IP addresses that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except DAMAGED:
        return ()
    return tuple(str(name.value) for name in names)
