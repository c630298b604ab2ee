"""A small HTTP server on loopback whose answers a test writes."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Stub:
    """A server that answers by a function (path, headers) -> (status, headers, content).

    POST requests are answered by `answer_form`, a function of (path, body).
    """

    def __init__(self, answer, answer_form=None):
        self.seen = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler):
                self.seen.append((handler.path, dict(handler.headers)))
                handler.send(*answer(handler.path, handler.headers))

            def do_POST(handler):
                body = handler.rfile.read(int(handler.headers["Content-Length"])).decode()
                handler.send(*answer_form(handler.path, body))

            def send(handler, status, headers, content):
                handler.send_response(status)
                for name, value in ({"Content-Length": str(len(content))} | headers).items():
                    handler.send_header(name, value)
                handler.end_headers()
                handler.wfile.write(content)

            def log_message(handler, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
