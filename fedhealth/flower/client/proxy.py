"""The HTTP proxy between a site and the lead: which one is used, and a tunnel through it (CONNECT, RFC 9110 9.3.6).

The site's daemon and `fedhealth site check` use the same proxy, found here.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import os
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from fedhealth.errors import ConfigError, FedhealthError
from fedhealth.utils.private_files import read_private_file

ENVIRONMENT, NO_PROXY = "environment", "none"
# What proxies answer for an unknown name; Squid 5 answers a CONNECT with ERR_CANNOT_FORWARD.
_NAME_NOT_FOUND = ("err_cannot_forward", "err_dns_fail", "dns", "name or service not known", "unable to determine ip")
_ADVICE = "Give `address` as http://HOST:PORT, or as `environment` or `none`."


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy.

    Attributes:
        host: its name or IP address.
        port: its TCP port.
        user: for Basic authentication; empty for none.
        password: likewise.
        source: where it was configured, in words.

    """

    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)
    source: str = "site.yaml"

    @property
    def address(self) -> str:
        """host:port, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ProxyFault(StrEnum):
    """Why there is no tunnel."""

    PASSWORD_NEEDED = "it asks for a user and a password"  # noqa: S105 - no password
    PASSWORD_WRONG = "it refuses the user and the password"  # noqa: S105
    FORBIDDEN = "it does not allow this connection"
    NAME_UNKNOWN = "it cannot find the name of the lead's server"
    NO_CONNECTION = "it cannot connect to the lead's server"
    NO_PROXY = "it does not answer like an HTTP proxy"


class ProxyRefusedError(FedhealthError):
    """The proxy was reached and opened no tunnel.

    Args:
        kind: why.
        problem: as in `FedhealthError`.

    """

    def __init__(self, kind: ProxyFault, problem: str) -> None:
        super().__init__(problem, "`fedhealth site check` explains it.")
        self.kind = kind


def find_proxy(address: str, credentials: Path | None, lead: str) -> Proxy | None:
    """Return the proxy to use for connections to the lead; None for a direct connection.

    Args:
        address: `environment` (HTTPS_PROXY and NO_PROXY), `none`, or http://host:port.
        credentials: file with user:password, readable by its owner only; None for those in the address, if any.
        lead: host:port.

    Raises:
        ConfigError: the address or the content of the file is malformed.
        TrustError: the file is missing, or others can read it.

    """
    source = "site.yaml"
    if address == NO_PROXY:
        return None
    if address == ENVIRONMENT:
        found = getproxies_environment()
        address, source = found.get("https") or found.get("all") or "", "the environment"
        if not address or proxy_bypass(lead, found):
            return None
    return _parse_proxy(address, credentials, source)


def _parse_proxy(address: str, credentials: Path | None, source: str) -> Proxy:
    parts = urlsplit(address if "://" in address else f"http://{address}")
    try:
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port = None, 0
    if parts.scheme != "http" or not host or parts.path.strip("/") or parts.query:
        # The address itself is not repeated: it may contain a password.
        raise ConfigError(f"The proxy that {source} names is not an address of an HTTP proxy.", _ADVICE)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if credentials is not None:
        user, password = _read_credentials(credentials)
    return Proxy(host, port, user, password, source)


def _read_credentials(path: Path) -> tuple[str, str]:
    try:
        user, separator, password = read_private_file(path).decode().strip("\r\n").partition(":")
    except UnicodeDecodeError:
        user = separator = password = ""
    if not separator or not user or any(ord(letter) < 32 for letter in user + password):
        raise ConfigError(f"{path} does not hold one line user:password.", "Correct the file; chmod 600 it.")
    return user, password


def open_tunnel(proxy: Proxy, lead: str, timeout: float) -> socket.socket:
    """Return a connection to the lead through the proxy.

    Raises:
        OSError: the proxy cannot be reached.
        ProxyRefusedError: it opens no tunnel.

    """
    connection = socket.create_connection((proxy.host, proxy.port), timeout)
    try:
        _request_tunnel(connection, proxy, lead)
    except BaseException:
        connection.close()
        raise
    return connection


def _request_tunnel(connection: socket.socket, proxy: Proxy, lead: str) -> None:
    lines = [f"CONNECT {lead} HTTP/1.1", f"Host: {lead}"]
    if proxy.user:
        token = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {token}")
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    response = http.client.HTTPResponse(connection, method="CONNECT")
    try:
        response.begin()
    except (http.client.HTTPException, ValueError, TimeoutError) as fault:
        raise ProxyRefusedError(ProxyFault.NO_PROXY, f"{proxy.address}: {ProxyFault.NO_PROXY}.") from fault
    if response.status != http.client.OK:
        kind = _classify_response(response, proxy, lead)
        raise ProxyRefusedError(kind, f"The proxy {proxy.address}: {kind} (status {response.status}).")


def _classify_response(response: http.client.HTTPResponse, proxy: Proxy, lead: str) -> ProxyFault:
    if response.status == http.client.PROXY_AUTHENTICATION_REQUIRED:
        return ProxyFault.PASSWORD_WRONG if proxy.user else ProxyFault.PASSWORD_NEEDED
    if response.status >= 500:
        said = f"{response.headers.get('X-Squid-Error', '')} {_read_beginning(response)}".lower()
        is_unknown = not _is_ip_address(lead) and any(word in said for word in _NAME_NOT_FOUND)
        return ProxyFault.NAME_UNKNOWN if is_unknown else ProxyFault.NO_CONNECTION
    return ProxyFault.FORBIDDEN


def _read_beginning(response: http.client.HTTPResponse) -> str:
    with suppress(OSError, http.client.HTTPException):
        return response.read(4096).decode("utf-8", "replace")
    return ""


def _is_ip_address(lead: str) -> bool:
    try:
        ipaddress.ip_address(lead.rpartition(":")[0].strip("[]"))
    except ValueError:
        return False
    return True


def keep_loopback_direct() -> dict[str, str]:
    """Return environment variables with which this machine's own addresses are never asked for through a proxy."""
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    listed = ",".join(dict.fromkeys([*filter(None, known.split(",")), "127.0.0.1", "localhost"]))
    return {"NO_PROXY": listed, "no_proxy": listed}
