"""Tokens for a program without a user: SMART Backend Services (HL7 SMART App Launch 2.2, "Backend Services").

The program proves who it is by a JSON Web Token (RFC 7519) that it signs with its private key: RS384 for an RSA key,
ES384 for one on the curve P-384 (RFC 7518, section 3). The server answers with a bearer token for a few minutes
(RFC 6749, 4.4; RFC 7523, 2.2).
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedhealth.errors import ConfigError, DataError
from fedhealth.ingest.sources.access import (
    ServerAccess,
    check_url,
    find_access_file,
    open_session,
)
from fedhealth.ingest.sources.http_request import describe_server, send_request
from fedhealth.utils.user_path import expand_user

_LIFETIME = 240  # seconds of a signed statement; the standard allows 300
_MARGIN = 30  # seconds before its end at which a token is renewed
_P384_BYTES = 48
_LEAST_RSA_BITS = 2048
_CLIENT_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True)
class SmartClient:
    """How a program is registered at a server.

    Attributes:
        client_id: its name.
        token_url: where tokens are given.
        key_file: its private key, PEM.
        key_id: the key's name in the registration.
        scope: what is asked for.

    """

    client_id: str
    token_url: str
    key_file: str
    key_id: str
    scope: str = "system/*.read"


@dataclass
class SmartTokens:
    """The current token of this process.

    Args:
        client: how the program is registered.
        access: certificates and time limits.

    """

    client: SmartClient
    access: ServerAccess
    _token: str = ""
    _ends: float = field(default=0.0)

    def make_header(self) -> str:
        """Return the header `Authorization`; ask for a new token if the last one ends.

        Raises:
            FedhealthError: the key is missing, or the server refuses.

        """
        if time.monotonic() > self._ends:
            self._request_token()
        return f"Bearer {self._token}"

    def _request_token(self) -> None:
        url = check_url(self.client.token_url)
        form = {
            "grant_type": "client_credentials",
            "scope": self.client.scope,
            "client_assertion_type": _CLIENT_ASSERTION,
            "client_assertion": sign_assertion(self.client, time.time()),
        }
        with open_session(self.access, lambda: None) as session:
            answer = send_request(session, "POST", url, self.access, data=form)
        try:
            content = answer.json()
            token, seconds = content["access_token"], float(content.get("expires_in", 0))
        except (ValueError, KeyError, TypeError, AttributeError):
            token, seconds = "", 0.0
        if not (isinstance(token, str) and token.isascii() and token.isprintable() and token):
            raise DataError(f"{describe_server(url)} answers without a token.", "Check smart.token_url.")
        self._token, self._ends = token, time.monotonic() + seconds - _MARGIN


def sign_assertion(client: SmartClient, now: float) -> str:
    """Return the signed statement that says who asks.

    Args:
        client: how the program is registered.
        now: seconds since 1970.

    Raises:
        ConfigError: the key is missing, or of another kind.

    """
    key = _load_key(client.key_file)
    header = {"alg": "RS384" if isinstance(key, rsa.RSAPrivateKey) else "ES384", "kid": client.key_id, "typ": "JWT"}
    claims: dict[str, Any] = {"iss": client.client_id, "sub": client.client_id, "aud": client.token_url}
    claims |= {"exp": int(now) + _LIFETIME, "jti": secrets.token_urlsafe(24)}
    signed = f"{_encode_part(json.dumps(header).encode())}.{_encode_part(json.dumps(claims).encode())}"
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(signed.encode(), padding.PKCS1v15(), SHA384())
    else:
        numbers = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(SHA384())))
        signature = b"".join(number.to_bytes(_P384_BYTES, "big") for number in numbers)
    return f"{signed}.{_encode_part(signature)}"


def _load_key(file: str) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(expand_user(find_access_file(file, "smart.key_file")).read_bytes(), None)
    except (ValueError, TypeError, OSError):
        raise ConfigError(
            f"{file}: is not a private key in PEM without a password.", "Correct smart.key_file."
        ) from None
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _LEAST_RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1):
        return key
    raise ConfigError(f"{file}: the key must be RSA with 2048 bits, or on P-384.", "Make another key.")


def _encode_part(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
