"""Drive a real Chromium over its debugging pipe: no driver and no port are needed."""

import json
import os
import subprocess
import time
from contextlib import contextmanager

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-extensions", "--remote-debugging-pipe"),
)


class Chromium:
    """One page of a browser; `events` holds what the browser told about it."""

    def __init__(self, to, back):
        self._to, self._back, self._number, self._rest, self.events = to, back, 0, b"", []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def call(self, method, session=None, **params):
        """Send a command and return its result; events that come before it are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": session} if session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def ask(self, method, **params):
        """Send a command to the page."""
        return self.call(method, self._session, **params)

    def evaluate(self, script):
        """Return the value of an expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def evaluate_promise(self, script):
        """Return what a promise in the page comes to."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, address):
        """Open an address and wait for it."""
        self.ask("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete'")

    def wait_for(self, condition):
        """Wait until an expression holds in the page, which may be another one by then."""
        for _ in range(200):
            answer = self.ask("Runtime.evaluate", expression=condition, returnByValue=True)
            if answer["result"].get("value") is True:
                return
            time.sleep(0.05)
        raise AssertionError(f"never: {condition}; {self.evaluate('document.body.innerText')}")

    def send_form(self, path, **fields):
        """Fill a form in and press its button."""
        form = f"document.querySelector('form[action=\"{path}\"]')"
        for name, value in fields.items():
            self.evaluate(f"{form}.elements[{name!r}].value = {value!r}")
        self.evaluate(f"window.before = true; {form}.querySelector('button').click()")
        self.wait_for("window.before === undefined && document.readyState === 'complete'")

    def list_addresses(self):
        """Return the addresses of all requests so far."""
        found = [event["params"]["request"]["url"] for event in self.events if event.get("method") == _REQUEST]
        return [address for address in found if not address.startswith("about:")]

    def list_complaints(self):
        """Return what the browser wrote on its console."""
        return [event["params"] for event in self.events if event.get("method") == "Log.entryAdded"]

    def _read(self):
        while b"\0" not in self._rest:
            self._rest += os.read(self._back, 65536)
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


@contextmanager
def start_chromium(browser, profile):
    """Start a browser with an empty profile; yield its page."""
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()

    def connect():
        for source, target in ((os.dup(in_read), 3), (os.dup(out_write), 4)):
            os.dup2(source, target)

    process = subprocess.Popen(
        [browser, *OPTIONS, f"--user-data-dir={profile}"],
        preexec_fn=connect,
        close_fds=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(in_read)
    os.close(out_write)
    try:
        yield Chromium(in_write, out_read)
    finally:
        process.kill()
        process.wait()
        os.close(in_write)
        os.close(out_read)


_REQUEST = "Network.requestWillBeSent"
