"""Make a site's keys and its signed request to join a consortium."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fedhealth.consortium.join_request import NODE_LABEL, PURPOSE, JoinRequest
from fedhealth.consortium.membership import ADDRESS, Member
from fedhealth.consortium.signatures import sign_body
from fedhealth.errors import ConfigError
from fedhealth.site.home import SiteHome
from fedhealth.types import SITE_ID
from fedhealth.utils.atomic_io import write_atomic
from fedhealth.utils.digest import encode_canonical, encode_parts


def make_join_request(home: SiteHome, name: str, lead: str) -> JoinRequest:
    """Create missing keys, and write the join request, signed with both private keys; these never leave the site.

    Args:
        home: the hospital's folder.
        name: of the site: lower case letters, digits, . _ and -.
        lead: host:port of the lead's server.

    Raises:
        ConfigError: the name or the address is malformed.
        TrustError: a key is damaged, or other users can read it.

    """
    if not SITE_ID.fullmatch(name):
        raise ConfigError(f"{name!r} is not a valid site name.", "Use lower case letters, digits, . _ and -.")
    if not ADDRESS.fullmatch(lead):
        raise ConfigError(f"{lead!r} is not an address.", "Write host:port in lower case, as the lead gave it to you.")
    home.create()
    identity = home.load_identity_key()
    request = JoinRequest(Member(name, identity.public_key().public_bytes_raw(), home.load_node_public_key()), lead)
    body, fields = request.body(), request.fields()
    by_identity = sign_body(identity, PURPOSE, body).hex()
    by_node = home.load_node_key().sign(encode_parts(NODE_LABEL, body), ec.ECDSA(hashes.SHA384())).hex()
    write_atomic(home.join_request, encode_canonical({**fields, "by_identity": by_identity, "by_node": by_node}))
    return request
