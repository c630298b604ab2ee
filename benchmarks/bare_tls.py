"""A bare TLS request by the standard library alone: a connection and its handshake, bytes there, bytes back."""

from __future__ import annotations

import os
import socket
import ssl
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class Certificates:
    """The files of a server on loopback: its certificate, its key, and the authority that signed it, PEM."""

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True)
class Cost:
    """Seconds: of the processors, for both sides together, and of the clock."""

    cpu: float
    wall: float


def measure_requests(certificates: Certificates, there: int, back: int, requests: int, repeats: int) -> Cost:
    """Return the median cost of so many requests, one after another.

    Args:
        certificates: of the server.
        there: bytes of a request.
        back: bytes of its reply.
        requests: of which the cost is the sum, each with a connection of its own.
        repeats: of all requests together.

    """
    client, request, costs = ssl.create_default_context(cafile=certificates.authority), os.urandom(there), []
    with _serve(certificates, there, os.urandom(back)) as port:
        for _ in range(repeats):
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(requests):
                _send_request(client, port, request, back)
            costs.append((time.process_time() - cpu, time.perf_counter() - wall))
    return Cost(statistics.median(cpu for cpu, _ in costs), statistics.median(wall for _, wall in costs))


def _send_request(client: ssl.SSLContext, port: int, request: bytes, back: int) -> None:
    with (
        socket.create_connection((_ADDRESS, port)) as plain,
        client.wrap_socket(plain, server_hostname=_ADDRESS) as connection,
    ):
        connection.sendall(request)
        _receive(connection, back)


@contextmanager
def _serve(certificates: Certificates, there: int, reply: bytes) -> Iterator[int]:
    """Answer requests of a size with a reply, in a thread; yield the port."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificates.certificate, certificates.key)
    with socket.create_server((_ADDRESS, 0)) as listener:

        def answer() -> None:
            while True:
                plain, _ = listener.accept()
                with plain:
                    if stopping.is_set():
                        return
                    with server.wrap_socket(plain, server_side=True) as connection:
                        _receive(connection, there)
                        connection.sendall(reply)

        stopping, thread = threading.Event(), threading.Thread(target=answer)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            stopping.set()
            socket.create_connection(listener.getsockname()).close()
            thread.join()


def _receive(connection: ssl.SSLSocket, size: int) -> None:
    """Receive exactly so many bytes.

    Raises:
        ConnectionError: the other side closed the connection before.

    """
    view, at = memoryview(bytearray(size)), 0
    while at < size:
        received = connection.recv_into(view[at:])
        if not received:
            raise ConnectionError(f"{at} of {size} bytes arrived")
        at += received
