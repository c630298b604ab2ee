"""A lead's server as its clients see it: TLS on loopback, scripted answers."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from flwr.proto.fleet_pb2 import ActivateNodeResponse

from tests.fedhealth.site.check.tls import HOST

ACTIVATED = ActivateNodeResponse(node_id=5).SerializeToString()


class Lead:
    """Answers each path with (status, body, claimed length); writes down what was asked."""

    def __init__(self):
        self.asked, self.answers = [], {"activate-node": (200, ACTIVATED, None)}

    def handler(self):
        lead = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                name = self.path.rpartition("/")[2]
                lead.asked.append(name)
                status, body, length = lead.answers.get(name, (200, b"", None))
                self.send_response_only(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = length is not None

            def log_message(self, *words):
                pass

        return Handler

    @contextmanager
    def serving(self, context):
        server = ThreadingHTTPServer((HOST, 0), self.handler())
        server.daemon_threads = True
        server.handle_error = lambda *about: None
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"{HOST}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
