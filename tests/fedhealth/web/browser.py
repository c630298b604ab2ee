"""A person's browser, as far as the page is concerned: keeps the cookie, sends forms as browsers do, over a socket."""

import re
import socket
import threading
import time
from contextlib import closing, contextmanager
from urllib.parse import urlencode

import uvicorn

from fedhealth.web.serve import make_server_config


@contextmanager
def serve(build):
    """Serve the page that `build(port)` returns; yield its port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = uvicorn.Server(make_server_config(build(port)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield port
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


class Answer:
    """Status, headers by name and body of an answer; nothing at all is status 0."""

    def __init__(self, content):
        begin, _, rest = content.partition(b"\r\n\r\n")
        head = begin.decode("utf-8", "replace")
        first, *lines = head.split("\r\n")
        self.status = int(first.split()[1]) if first else 0
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        whole = join_chunks(rest) if self.headers.get("transfer-encoding") == "chunked" else rest
        self.body = whole.decode("utf-8", "replace")

    @property
    def forms(self):
        """The one-time tokens of the page's forms, by path."""
        pairs = re.findall(r'<form method="post" action="([^"]+)".*?</form>', self.body, re.DOTALL)
        whole = re.findall(r'<form method="post" action="[^"]+".*?</form>', self.body, re.DOTALL)
        tokens = [re.search(r'name="form" value="([^"]+)"', form) for form in whole]
        return {path: found[1] for path, found in zip(pairs, tokens, strict=True) if found}


def join_chunks(content):
    """Return a body that was sent in parts."""
    size, _, rest = content.partition(b"\r\n")
    length = int(size, 16)
    return rest[:length] + join_chunks(rest[length + 2 :]) if length else b""


class Browser:
    """One browser; `send` can also send what no browser would."""

    def __init__(self, port, side="site"):
        self.port, self.name, self.cookie = port, f"fedhealth_{side}", ""

    @property
    def origin(self):
        """Scheme, host and port of the page."""
        return f"http://127.0.0.1:{self.port}"

    def exchange(self, content):
        """Send bytes and return the answer."""
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=300)) as connection:
            connection.sendall(content)
            received = b""
            while more := connection.recv(65536):
                received += more
        return Answer(received)

    def send(self, method, path, body="", **changes):
        """Send a request with a browser's headers; changes replace one, None leaves it out."""
        headers = {"Host": f"127.0.0.1:{self.port}", "Sec-Fetch-Site": "same-origin"}
        headers |= {"Cookie": f"{self.name}={self.cookie}"} if self.cookie else {}
        if method == "POST":
            headers |= {"Origin": self.origin, "Content-Type": "application/x-www-form-urlencoded"}
            headers |= {"Content-Length": str(len(body))}
        headers |= {name.replace("_", "-"): value for name, value in changes.items()}
        lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
        return self.exchange("\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", body]).encode())

    def get(self, path, **changes):
        """Open a page."""
        return self.send("GET", path, **changes)

    def post(self, path, **fields):
        """Send a form."""
        return self.send("POST", path, urlencode(fields))

    def sign_in(self, token):
        """Sign in and keep the cookie."""
        answer = self.post("/sign-in", token=token)
        found = re.match(f"{self.name}=([^;]+);", answer.headers.get("set-cookie", ""))
        self.cookie = found[1] if found else ""
        return answer
