"""A network between a hospital and the lead that can be cut: nothing passes, nobody is told."""

import socket
import threading
from contextlib import suppress


class Proxy:
    """Forwards connections to 127.0.0.1:`port`; while `cut` is set, what is sent disappears."""

    def __init__(self, port):
        self.target, self.cut, self._open = port, threading.Event(), set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def heal(self):
        """Let new connections through; the old ones are dead, as after a change of address."""
        self.cut.clear()
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._listener.close()
        self.heal()

    def _accept(self):
        with suppress(OSError):
            while True:
                inner = self._listener.accept()[0]
                self._open.add(inner)
                threading.Thread(target=self._serve, args=(inner,), daemon=True).start()

    def _serve(self, inner):
        outer = None
        with suppress(OSError):
            outer = socket.create_connection(("127.0.0.1", self.target))
            self._open.add(outer)
            back = threading.Thread(target=self._pump, args=(outer, inner), daemon=True)
            back.start()
            self._pump(inner, outer)
            back.join()
        for each in (inner, outer):
            if each is not None:
                each.close()
                self._open.discard(each)

    def _pump(self, source, sink):
        with suppress(OSError):
            while content := source.recv(65536):
                if not self.cut.is_set():
                    sink.sendall(content)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
