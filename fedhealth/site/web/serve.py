"""Serve the page on loopback: one request on a connection, a deadline for its head, few connections at once."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from fedhealth.errors import ConfigError, StartRefusedError
from fedhealth.site.home import SiteHome
from fedhealth.site.web.pages import build_web_app
from fedhealth.site.web.sessions import SessionStore, make_tokens
from fedhealth.utils.file_lock import lock_file
from fedhealth.utils.private_files import make_private_folder, write_private_file

LOOPBACK = "127.0.0.1"
HEAD_SECONDS = 5.0
_MOST_CONNECTIONS, _MOST_HEAD_BYTES, _STOP_SECONDS = 32, 16_384, 3
log = logging.getLogger("fedhealth.site")


class TimedProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose request has not begun in time: a slow head would hold it for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline."""
        super().connection_made(transport)
        self.loop.call_later(HEAD_SECONDS, self._close_if_waiting)

    def _close_if_waiting(self) -> None:
        has_begun = getattr(self, "cycle", None) is not None
        if not has_begun and not self.transport.is_closing():
            log.warning("the page closed a connection that sent no request in time")
            self.transport.abort()


def get_token_path(home: SiteHome) -> Path:
    """Return the file of the tokens with which one signs in."""
    return home.daemon_folder / "web-tokens.json"


def serve_pages(home: SiteHome, port: int, is_read_only: bool) -> None:
    """Serve the page until SIGTERM or Ctrl-C; the tokens to sign in are in a file that only this user can read.

    Raises:
        ConfigError: there is no site at `home`, or the port is in use.
        StartRefusedError: the page of this site is served already.

    """
    tokens = make_tokens(is_read_only)
    app = build_web_app(home, SessionStore(tokens), port)
    path = get_token_path(home)
    with _lock_page(home), _listen_on(port) as listener:
        write_private_file(path, json.dumps(tokens, indent=1).encode())
        try:
            uvicorn.Server(make_server_config(app)).run(sockets=[listener])
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _lock_page(home: SiteHome) -> Iterator[None]:
    """Hold the lock of this site's page: a second one would replace the first one's tokens, and then remove them."""
    make_private_folder(home.daemon_folder)
    refused = StartRefusedError(
        f"The page of the site in {home.path} is served already.", "Use that one, or stop it first."
    )
    with lock_file(home.daemon_folder / "web.lock", wait=0, error=refused):
        yield


def make_server_config(app: Any) -> uvicorn.Config:
    """Return the settings of the server: nothing of a request is logged by it, no header names it."""
    return uvicorn.Config(
        app,
        http=TimedProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MOST_CONNECTIONS,
        h11_max_incomplete_event_size=_MOST_HEAD_BYTES,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )


def _listen_on(port: int) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
    except OSError as fault:
        listener.close()
        raise ConfigError(
            f"The address {LOOPBACK}:{port} cannot be used ({fault.strerror}).", "Choose another --port."
        ) from fault
    return listener
