"""Make a site's keys and its signed request to join a consortium."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fedhealth.consortium.join_request import _NODE_LABEL, PURPOSE, JoinRequest
from fedhealth.consortium.membership import ADDRESS, Member
from fedhealth.consortium.signatures import canonical, parse_json, sign
from fedhealth.errors import ConfigError
from fedhealth.protocol.digest import transcript
from fedhealth.site.home import SiteHome
from fedhealth.types import SITE_ID
from fedhealth.utils.atomic_io import write_atomic


def make_request(home: SiteHome, name: str, lead: str) -> JoinRequest:
    """Make the site's keys where there are none, and write its request; the private keys stay.

    Args:
        home: the site's.
        name: of the site: lower case letters, digits, . _ and -.
        lead: host:port of the lead's server.

    Raises:
        ConfigError: the name or the address has another form.
        TrustError: a key is damaged, or others can read it.

    """
    if not SITE_ID.fullmatch(name):
        raise ConfigError(f"{name!r} is no site name.", "Use lower case letters, digits, . _ and -.")
    if not ADDRESS.fullmatch(lead):
        raise ConfigError(f"{lead!r} is no host:port in lower case.", "Ask the lead for the address of its server.")
    home.create()
    identity = home.identity()
    request = JoinRequest(Member(name, identity.public_key().public_bytes_raw(), home.node_public()), lead)
    body = request.body()
    fields: dict[str, Any] = parse_json(body, "request")
    by_identity = sign(identity, PURPOSE, body).hex()
    by_node = home.node().sign(transcript(_NODE_LABEL, body), ec.ECDSA(hashes.SHA384())).hex()
    write_atomic(home.request, canonical({**fields, "by_identity": by_identity, "by_node": by_node}))
    return request
