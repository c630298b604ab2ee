"""A join kit: a zip of three files with fixed names, sent by the lead to a site. It is read strictly, never unpacked.

A kit holds no secret. Trust comes from the consortium's signature and from a fingerprint that people compare.
"""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from dataclasses import dataclass

from cryptography import x509

from fedhealth.consortium.certificates import decode_certificate, fingerprint_certificate, is_ca_certificate
from fedhealth.consortium.membership import SignedMembership
from fedhealth.errors import TrustError

_LIMITS = {"membership.json": 2**20, "ca.crt": 2**14, "README.txt": 2**14}  # bytes
_WHOLE = 2**21
_DATE = (1980, 1, 1, 0, 0, 0)  # fixed, so that the same members give the same bytes
_ADVICE = "Nothing was installed. Ask the lead for a new kit."
_README = """\
Kit of the consortium {project} for the site {site}, membership number {serial}.

    fedhealth site install {site}.zip

shows the members and a fingerprint. Compare it with the lead by telephone before you agree; whoever could change this
kit could also change a fingerprint written here. The kit holds no secret.
"""


@dataclass(frozen=True)
class JoinKit:
    """Content of a kit: the signed membership and the certificate authority of the lead's server."""

    signed: SignedMembership
    authority: x509.Certificate
    authority_pem: bytes


def make_kit(content: SignedMembership, authority_pem: bytes, site: str) -> bytes:
    """Return the zip for a site."""
    membership = content.membership
    readme = _README.format(project=membership.project, site=site, serial=membership.serial)
    files = {
        "membership.json": content.dumps(),
        "ca.crt": authority_pem,
        "README.txt": readme.encode(),
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), data, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def read_kit(content: bytes) -> JoinKit:
    """Read a kit and check that it is complete and consistent; its origin remains to be approved.

    Raises:
        TrustError: unexpected files, too large, damaged, not signed, or another authority than the signed one.

    """
    if len(content) > _WHOLE:
        raise TrustError(f"The kit is larger than {_WHOLE} bytes.", _ADVICE)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = _read_files(archive)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, ValueError, EOFError) as fault:
        raise TrustError("The kit is not a zip file, or it is damaged.", _ADVICE) from fault
    signed = SignedMembership.loads(files["membership.json"])
    authority = decode_certificate(files["ca.crt"], "The kit's ca.crt")
    if fingerprint_certificate(authority) != signed.membership.ca or not is_ca_certificate(authority):
        raise TrustError("The kit's ca.crt is not the authority that the membership names.", _ADVICE)
    return JoinKit(signed, authority, files["ca.crt"])


def _read_files(archive: zipfile.ZipFile) -> dict[str, bytes]:
    entries = archive.infolist()
    if sorted(entry.filename for entry in entries) != sorted(_LIMITS):
        raise TrustError(f"The kit holds other files than {', '.join(_LIMITS)}.", _ADVICE)
    return {entry.filename: _read_file(archive, entry) for entry in entries}


def _read_file(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Return a file of the kit; its size is measured while reading, because the zip's own entry is not trusted."""
    kind, limit = stat.S_IFMT(entry.external_attr >> 16), _LIMITS[entry.filename]
    if kind not in (0, stat.S_IFREG) or entry.flag_bits & 1:
        raise TrustError(f"{entry.filename} in the kit is a link, a folder, or encrypted.", _ADVICE)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise TrustError(f"{entry.filename} in the kit uses an unsupported compression.", _ADVICE)
    with archive.open(entry) as file:
        content = file.read(limit + 1)
    if len(content) > limit or entry.file_size > limit:
        raise TrustError(f"{entry.filename} in the kit is larger than {limit} bytes.", _ADVICE)
    return content
