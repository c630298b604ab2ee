"""Provision a consortium's keys and certificates; renew and rotate them."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.consortium import certificate_authority
from fedhealth.consortium.certificates import compute_days_left, decode_certificate, get_alternative_names, is_issued_by
from fedhealth.consortium.membership import Membership
from fedhealth.consortium.signatures import compute_fingerprint
from fedhealth.errors import ConfigError, TrustError
from fedhealth.lead.home import LeadHome
from fedhealth.lead.project import Project, find_project_faults, load_project
from fedhealth.lead.publish_membership import load_published_membership, publish_membership, require_provisioned
from fedhealth.utils.atomic_io import write_atomic
from fedhealth.utils.private_files import load_signing_key, make_signing_key, read_private_file, write_private_file


def provision_consortium(home: LeadHome, project: Project) -> str:
    """Create missing keys, certificates and secrets of a consortium; return the fingerprint of its key.

    A second call keeps every key. A changed address or name gives a new server certificate and, with members, new kits.

    Raises:
        ConfigError: the project is invalid, or the folder belongs to another project.
        TrustError: a key or certificate is damaged, or other users can read a key.

    """
    if faults := find_project_faults(project):
        raise ConfigError("\n".join(faults), "Correct the project; nothing was created.")
    if home.project.exists() and (before := load_project(home.project).project) != project.project:
        raise ConfigError(f"{home.path} belongs to the project {before!r}.", "Choose another folder with --home.")
    home.create()
    with home.lock():
        public = _load_or_make_public_key(home)
        write_atomic(home.project, project.dumps())
        if not home.ca.exists():
            _replace_authority(home, project)
        if not _is_certificate_valid(home, project):
            _replace_certificate(home, project)
        publish_membership(home)
    return compute_key_fingerprint(project.project, public)


def compute_key_fingerprint(project: str, public: bytes) -> str:
    """Return the fingerprint that identifies a consortium before it has members."""
    return compute_fingerprint(b"consortium key", project.encode(), public)


def renew_certificate(home: LeadHome, *, ca: bool = False) -> datetime:
    """Replace the server's key and certificate; with `ca` also the authority, which needs new kits at every site.

    Returns:
        the end of the new certificate's validity.

    Raises:
        TrustError: there is no project in this folder, or one of its files is damaged.

    """
    require_provisioned(home)
    project = load_project(home.project)
    with home.lock():
        if ca:
            _replace_authority(home, project)
        _replace_certificate(home, project)
        publish_membership(home)
    return decode_certificate(home.certificate.read_bytes(), str(home.certificate)).not_valid_after_utc


def rotate_consortium_key(home: LeadHome) -> Membership | None:
    """Replace the consortium's key; the former key endorses memberships that the new one signs.

    Raises:
        TrustError: there is no project in this folder, or a key is damaged.

    """
    require_provisioned(home)
    with home.lock():
        present, last = _load_or_make_public_key(home), load_published_membership(home)
        if last is None or last.consortium == present:  # else an earlier rotation was killed before it signed
            write_private_file(home.former_key, read_private_file(home.consortium_key))
            write_private_file(home.consortium_key, Ed25519PrivateKey.generate().private_bytes_raw())
        return publish_membership(home)


def _load_or_make_public_key(home: LeadHome) -> bytes:
    """Return the consortium's public key; a key is only created while no membership was signed."""
    if home.membership.exists():
        return load_signing_key(home.consortium_key).public_key().public_bytes_raw()
    return make_signing_key(home.consortium_key)


def _replace_authority(home: LeadHome, project: Project) -> None:
    key = certificate_authority.generate_key()
    write_private_file(home.ca_key, certificate_authority.encode_key(key))
    certificate = certificate_authority.make_ca_certificate(key, project.project, project.authority_days)
    write_atomic(home.ca, certificate_authority.encode_certificate(certificate))


def _replace_certificate(home: LeadHome, project: Project) -> None:
    ca = decode_certificate(home.ca.read_bytes(), str(home.ca))
    signer = certificate_authority.decode_key(read_private_file(home.ca_key), str(home.ca_key))
    if not _is_same_key(ca.public_key(), signer.public_key()):  # an earlier renewal was killed between the two files
        raise TrustError(
            f"{home.ca_key} is not the key of {home.ca}.", "Run `fedhealth lead renew --ca`: it creates a new pair."
        )
    key = certificate_authority.generate_key()
    certificate = certificate_authority.make_server_certificate(
        ca, signer, key.public_key(), project.certificate_names, project.certificate_days
    )
    write_private_file(home.server_key, certificate_authority.encode_key(key))
    write_atomic(home.certificate, certificate_authority.encode_certificate(certificate))


def _is_certificate_valid(home: LeadHome, project: Project) -> bool:
    """Return whether the authority issued the server's certificate for its key and names, and it is still valid."""
    if not home.certificate.exists() or not home.server_key.exists():
        return False
    certificate = decode_certificate(home.certificate.read_bytes(), str(home.certificate))
    key = certificate_authority.decode_key(read_private_file(home.server_key), str(home.server_key)).public_key()
    ca = decode_certificate(home.ca.read_bytes(), str(home.ca))
    return (
        _is_same_key(certificate.public_key(), key)
        and is_issued_by(certificate, ca)
        and get_alternative_names(certificate) == project.certificate_names
        and compute_days_left(certificate, datetime.now(UTC)) > 0
    )


def _is_same_key(one: object, other: ec.EllipticCurvePublicKey) -> bool:
    return isinstance(one, ec.EllipticCurvePublicKey) and one.public_numbers() == other.public_numbers()
