"""A bare TLS request by the standard library alone: a connection and its handshake, bytes there, bytes back."""

from __future__ import annotations

import multiprocessing
import os
import socket
import ssl
import statistics
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
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
    """Return the cost of so many requests, one after another, to a server in a process of its own.

    Args:
        certificates: of the server.
        there: bytes of a request.
        back: bytes of its reply.
        requests: of which the cost is the sum, each with a connection of its own.
        repeats: of all requests together: processor time is their mean, wall time their median.

    """
    client, request, walls = ssl.create_default_context(cafile=certificates.authority), os.urandom(there), []
    context = multiprocessing.get_context("spawn")
    own, other = context.Pipe()
    server = context.Process(target=_serve, args=(other, certificates, there, back, requests * repeats), daemon=True)
    server.start()
    port = own.recv()
    _send_request(client, port, request, back)  # not counted: both sides have computed everything once
    cpu = time.process_time()
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(requests):
            _send_request(client, port, request, back)
        walls.append(time.perf_counter() - started)
    cpu = time.process_time() - cpu + own.recv()
    server.join()
    return Cost(cpu / repeats, statistics.median(walls))


def _send_request(client: ssl.SSLContext, port: int, request: bytes, back: int) -> None:
    with (
        socket.create_connection((_ADDRESS, port)) as plain,
        client.wrap_socket(plain, server_hostname=_ADDRESS) as connection,
    ):
        connection.sendall(request)
        _receive(connection, back)


def _serve(pipe: Connection, certificates: Certificates, there: int, back: int, requests: int) -> None:
    """Send the port, answer one request and then so many, and send the processor seconds of these."""
    context, reply, started = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), os.urandom(back), 0.0
    context.load_cert_chain(certificates.certificate, certificates.key)
    with socket.create_server((_ADDRESS, 0)) as listener:
        pipe.send(listener.getsockname()[1])
        for number in range(requests + 1):
            if number == 1:
                started = time.process_time()
            plain, _ = listener.accept()
            with plain, context.wrap_socket(plain, server_side=True) as connection:
                _receive(connection, there)
                connection.sendall(reply)
    pipe.send(time.process_time() - started)


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
