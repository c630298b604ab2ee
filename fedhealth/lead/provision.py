"""Keys and certificates of a consortium: made once, kept, renewed and replaced."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.consortium import certificate_authority
from fedhealth.consortium.certificates import days_left, is_issued_by, load_certificate, names_of
from fedhealth.consortium.membership import Membership
from fedhealth.consortium.signatures import fingerprint
from fedhealth.errors import ConfigError, TrustError
from fedhealth.lead.home import LeadHome
from fedhealth.lead.project import Project, faults_of, load_project
from fedhealth.lead.publish_membership import publish, published, require_provisioned
from fedhealth.utils.atomic_io import write_atomic
from fedhealth.utils.private_files import load_signing_key, make_signing_key, read_secret, write_secret


def provision(home: LeadHome, project: Project) -> str:
    """Make what is missing of a consortium's keys, certificates and secrets; return the fingerprint of its key.

    A second call keeps every key; a changed address or name gives a new server certificate and, with members, new kits.

    Raises:
        ConfigError: the project has a fault, or the home belongs to another one.
        TrustError: a key or certificate is damaged, or others can read a key.

    """
    if faults := faults_of(project):
        raise ConfigError("\n".join(faults), "Correct the project; nothing was made.")
    if home.project.exists() and (before := load_project(home.project).project) != project.project:
        raise ConfigError(f"{home.path} belongs to the project {before!r}.", "Choose another --home.")
    home.create()
    with home.held():
        public = _public(home)
        write_atomic(home.project, project.dumps())
        if not home.ca.exists():
            _new_authority(home, project)
        if not _certificate_fits(home, project):
            _new_certificate(home, project)
        publish(home)
    return key_fingerprint(project.project, public)


def key_fingerprint(project: str, public: bytes) -> str:
    """Return what identifies a consortium before it has members."""
    return fingerprint(b"consortium key", project.encode(), public)


def renew(home: LeadHome, *, ca: bool = False) -> datetime:
    """Replace the server's key and certificate; with `ca` the authority too, which asks for new kits at every site.

    Returns:
        until when the new certificate is valid.

    Raises:
        TrustError: there is no project here, or a file of it is damaged.

    """
    require_provisioned(home)
    project = load_project(home.project)
    with home.held():
        if ca:
            _new_authority(home, project)
        _new_certificate(home, project)
        publish(home)
    return load_certificate(home.certificate.read_bytes(), str(home.certificate)).not_valid_after_utc


def rotate(home: LeadHome) -> Membership | None:
    """Replace the consortium's key; the former one endorses the new one's memberships.

    Raises:
        TrustError: there is no project here, or a key is damaged.

    """
    require_provisioned(home)
    with home.held():
        present, last = _public(home), published(home)
        if last is None or last.consortium == present:  # else: killed between the new key and its first membership
            write_secret(home.former_key, read_secret(home.consortium_key))
            write_secret(home.consortium_key, Ed25519PrivateKey.generate().private_bytes_raw())
        return publish(home)


def _public(home: LeadHome) -> bytes:
    """Return the consortium's public key; made here only while nobody has seen another."""
    if home.membership.exists():
        return load_signing_key(home.consortium_key).public_key().public_bytes_raw()
    return make_signing_key(home.consortium_key)


def _new_authority(home: LeadHome, project: Project) -> None:
    key = certificate_authority.new_key()
    write_secret(home.ca_key, certificate_authority.key_pem(key))
    certificate = certificate_authority.make_authority(key, project.project, project.authority_days)
    write_atomic(home.ca, certificate_authority.certificate_pem(certificate))


def _new_certificate(home: LeadHome, project: Project) -> None:
    ca = load_certificate(home.ca.read_bytes(), str(home.ca))
    signer = certificate_authority.load_key(read_secret(home.ca_key), str(home.ca_key))
    if not _same(ca.public_key(), signer.public_key()):  # killed between the two files of a new authority
        raise TrustError(f"{home.ca_key} is not the key of {home.ca}.", "`fedhealth lead renew --ca` makes a new pair.")
    key = certificate_authority.new_key()
    certificate = certificate_authority.make_server(
        ca, signer, key.public_key(), project.certificate_names, project.certificate_days
    )
    write_secret(home.server_key, certificate_authority.key_pem(key))
    write_atomic(home.certificate, certificate_authority.certificate_pem(certificate))


def _certificate_fits(home: LeadHome, project: Project) -> bool:
    """Tell whether the server's certificate is the authority's, of its key, for these names, and still valid."""
    if not home.certificate.exists() or not home.server_key.exists():
        return False
    certificate = load_certificate(home.certificate.read_bytes(), str(home.certificate))
    key = certificate_authority.load_key(read_secret(home.server_key), str(home.server_key)).public_key()
    ca = load_certificate(home.ca.read_bytes(), str(home.ca))
    return (
        _same(certificate.public_key(), key)
        and is_issued_by(certificate, ca)
        and names_of(certificate) == project.certificate_names
        and days_left(certificate, datetime.now(UTC)) > 0
    )


def _same(one: object, other: ec.EllipticCurvePublicKey) -> bool:
    return isinstance(one, ec.EllipticCurvePublicKey) and one.public_numbers() == other.public_numbers()
