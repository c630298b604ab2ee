"""Serve a page on loopback: one request on a connection, a deadline for its head, few connections at once."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from fedhealth.errors import ConfigError, StartRefusedError
from fedhealth.utils.file_lock import lock_file
from fedhealth.utils.private_files import make_private_folder, write_private_file
from fedhealth.web.sessions import Role

LOOPBACK, _LOOPBACK_6 = "127.0.0.1", "::1"
TOKENS_FILE = "web-tokens.json"
"""In the folder of a page while it is served: the tokens with which one signs in."""
HEAD_SECONDS = 5.0
_MOST_CONNECTIONS, _MOST_HEAD_BYTES, _STOP_SECONDS = 32, 16_384, 3
log = logging.getLogger("fedhealth.web")


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


def serve_app(app: ASGIApp, port: int, folder: Path, tokens: Mapping[Role, str]) -> None:
    """Serve a page until SIGTERM or Ctrl-C; the tokens to sign in are in a file that only this user can read.

    Args:
        app: the guarded page.
        port: of loopback.
        folder: private, for the tokens and the lock of this page.
        tokens: with which one signs in, by role.

    Raises:
        ConfigError: the port is in use.
        StartRefusedError: the page of this folder is served already.

    """
    path = folder / TOKENS_FILE
    with _lock_page(folder), listen_on_loopback(port) as listeners, _exit_at_sigterm():
        write_private_file(path, json.dumps(tokens, indent=1).encode())
        try:
            uvicorn.Server(make_server_config(app)).run(sockets=listeners)
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _lock_page(folder: Path) -> Iterator[None]:
    """Hold the lock of a page: a second one would replace the first one's tokens, and then remove them."""
    make_private_folder(folder)
    refused = StartRefusedError(f"The page of {folder} is served already.", "Use that one, or stop it first.")
    with lock_file(folder / "web.lock", wait=0, error=refused):
        yield


@contextmanager
def _exit_at_sigterm() -> Iterator[None]:
    """Let SIGTERM end the process by SystemExit: uvicorn sends itself the signal again once it has shut down."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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


@contextmanager
def listen_on_loopback(port: int) -> Iterator[list[socket.socket]]:
    """Listen on a port of all addresses that browsers take for `localhost`.

    A browser tries ::1 first: where only 127.0.0.1 is taken, another local user could answer there with a false page.

    Raises:
        ConfigError: the port is in use at one of them.

    """
    with ExitStack() as opened:
        first = opened.enter_context(_listen_on(socket.AF_INET, LOOPBACK, port))
        port = first.getsockname()[1]
        others = [opened.enter_context(_listen_on(socket.AF_INET6, _LOOPBACK_6, port))] if _has_ipv6() else []
        yield [first, *others]


def _has_ipv6() -> bool:
    """Return whether this machine has the address ::1."""
    if not socket.has_ipv6:
        return False
    with suppress(OSError), socket.socket(socket.AF_INET6) as tried:
        tried.bind((_LOOPBACK_6, 0))
        return True
    return False


def _listen_on(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen()  # until then another socket could take the same port
    except OSError as fault:
        listener.close()
        raise ConfigError(
            f"The port {port} of {address} cannot be used ({fault.strerror}).", "Choose another --port."
        ) from fault
    return listener
