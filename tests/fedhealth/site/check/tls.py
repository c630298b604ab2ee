"""A lead's server for the checks: TLS on loopback, in a thread, with any certificate and any clock."""

import ssl
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from fedhealth.consortium.certificate_authority import (
    encode_certificate,
    encode_key,
    generate_key,
    make_ca_certificate,
    make_server_certificate,
)

HOST = "127.0.0.1"


class Authority:
    """A certificate authority whose certificate lies in a file."""

    def __init__(self, folder, name="chest"):
        self.folder, self.key = folder, generate_key()
        folder.mkdir(parents=True, exist_ok=True)
        long_ago = datetime.now(UTC) - timedelta(days=1000)
        self.certificate = make_ca_certificate(self.key, name, 3650, long_ago)
        self.path = folder / "ca.crt"
        self.path.write_bytes(encode_certificate(self.certificate))

    def context(self, names=(HOST,), days=365, began=None):
        """Return a server's TLS settings under a new certificate."""
        key = generate_key()
        certificate = make_server_certificate(self.certificate, self.key, key.public_key(), names, days, began)
        (self.folder / "server.key").write_bytes(encode_key(key))
        (self.folder / "server.crt").write_bytes(encode_certificate(certificate))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.crt", self.folder / "server.key")
        return context


def handler(ahead):
    """Return a handler that answers 404 and tells the time, `ahead` seconds off; None tells no time."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response_only(404)
            if ahead is not None:
                self.send_header("Date", self.date_time_string(datetime.now(UTC).timestamp() + ahead))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *words):
            pass

    return Handler


@contextmanager
def serving(context=None, ahead=0.0):
    """Serve on a free port; yield its host:port. Without a context there is no TLS."""
    server = ThreadingHTTPServer((HOST, 0), handler(ahead))
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"{HOST}:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
