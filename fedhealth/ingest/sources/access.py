"""Reach a hospital's server over HTTPS: credentials from files or the environment, retries, time limits, a pace.

Credentials are read again for every request, so that a token may be renewed while an ingest runs. They are in no
setting, message or log. Redirections are refused: they could lead credentials elsewhere.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fedhealth.errors import ConfigError
from fedhealth.utils.extras import build_missing_error
from fedhealth.utils.user_path import expand_user
from fedhealth.utils.yaml_model import parse_settings

if TYPE_CHECKING:
    from requests import Session

CONNECT_SECONDS = 10.0
_BACKOFF = 0.3  # seconds before the second try; doubled for each further one
_LONGEST_WAIT = 30  # seconds
_BUSY = (408, 429, 500, 502, 503, 504)
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServerAccess:
    """How a server is reached.

    Attributes:
        user: name for basic authentication.
        password_file: file with its password.
        password_variable: or the name of an environment variable.
        token_file: file with a bearer token.
        token_variable: or the name of an environment variable.
        certificate: the client's certificate, PEM.
        key: of this certificate, PEM.
        ca: certificates of the authorities that may have signed the server's; empty = those of this machine.
        seconds: longest silence of the server.
        attempts: how often a request is tried.
        pause: seconds that each process waits between two requests.

    """

    user: str = ""
    password_file: str = ""
    password_variable: str = ""
    token_file: str = ""
    token_variable: str = ""
    certificate: str = ""
    key: str = ""
    ca: str = ""
    seconds: float = 30.0
    attempts: int = 4
    pause: float = 0.0

    def make_header(self) -> str | None:
        """Return the header `Authorization`; None without credentials.

        Raises:
            ConfigError: a file or variable is missing.

        """
        if self.user:
            password = read_secret(self.password_file, self.password_variable, "password")
            return "Basic " + base64.b64encode(f"{self.user}:{password}".encode()).decode()
        if self.token_file or self.token_variable:
            return "Bearer " + read_secret(self.token_file, self.token_variable, "token")
        return None


def parse_access(settings: Mapping[str, Any]) -> ServerAccess:
    """Return the access that settings describe.

    Raises:
        ConfigError: there is no such setting, or a value is impossible.

    """
    known = ", ".join(field.name for field in fields(ServerAccess))
    access = parse_settings(dict(settings), ServerAccess, "access", f"Known are: {known}.")
    if not (access.seconds > 0 and access.attempts > 0 and access.pause >= 0):
        raise ConfigError("access: seconds and attempts must be positive.", "Remove them: there are defaults.")
    return access


def check_url(url: str) -> str:
    """Return a server's address without a slash at its end.

    Raises:
        ConfigError: it is not HTTPS (or HTTP on this machine), or it contains credentials.

    """
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ConfigError("The server's address contains credentials.", "Put them into a file: access.password_file.")
    if not parts.hostname or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise ConfigError(f"{url!r} is not a server's address.", "Write https://HOST/PATH.")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ConfigError(f"{url} is not encrypted.", "Use https, or a proxy on this machine that does.")
    return url.rstrip("/")


def open_session(access: ServerAccess, make_header: Callable[[], str | None] | None = None) -> Session:
    """Return a session that authenticates, retries, keeps the pace and follows no redirection.

    Args:
        access: how the server is reached.
        make_header: returns the header `Authorization` for each request; None for that of `access`.

    Raises:
        ConfigError: a certificate is missing, or the extra is not installed.

    """
    try:
        import requests
        from requests.adapters import HTTPAdapter
    except ImportError:
        raise build_missing_error("requests") from None
    authorize = make_header or access.make_header

    def prepare_request(request: Any) -> Any:
        time.sleep(access.pause)
        header = authorize()
        if header is not None:
            request.headers["Authorization"] = header
        return request

    session = requests.Session()
    session.trust_env = False  # no proxy and no .netrc that nobody declared
    session.max_redirects = 0
    session.auth = prepare_request
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=_make_retry(access.attempts)))
    if access.ca:
        session.verify = find_access_file(access.ca, "ca")
    if access.certificate:
        session.cert = (find_access_file(access.certificate, "certificate"), find_access_file(access.key, "key"))
    return session


def _make_retry(attempts: int) -> Any:
    from urllib3.util import Retry

    return Retry(
        total=attempts - 1,
        backoff_factor=_BACKOFF,
        status_forcelist=_BUSY,
        redirect=0,
        raise_on_status=False,
        raise_on_redirect=False,
        retry_after_max=_LONGEST_WAIT,  # a server that names a time to wait must not stop an ingest for hours
    )


def read_secret(file: str, variable: str, what: str) -> str:
    """Return a secret from a file or an environment variable.

    Raises:
        ConfigError: it is missing.

    """
    if file:
        try:
            return expand_user(file).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as fault:
            reason = getattr(fault, "strerror", None) or "not UTF-8"
            raise ConfigError(f"{file}: the {what} cannot be read ({reason}).", "Correct access.") from None
    if variable in os.environ:
        return os.environ[variable].strip()
    raise ConfigError(
        f"There is no {what}: the variable {variable or '(no name)'} is not set.",
        f"Set it, or name a file: access.{what}_file.",
    )


def find_access_file(path: str, what: str) -> str:
    """Return the path of a certificate or key that a setting of `access` names.

    Raises:
        ConfigError: it does not exist.

    """
    found: Path = expand_user(path)
    if not found.is_file():
        raise ConfigError(f"access.{what}: {path or '(no file)'} does not exist.", "Correct access.")
    return str(found)
