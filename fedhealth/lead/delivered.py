"""Messages that a site has taken and not answered: one that comes back after a crash or a cut gets them once more.

Flower hands a message out once. A site whose process, machine or network ended in between would never answer it, and
the lead would wait for its whole deadline.
"""

from __future__ import annotations

import threading
from typing import Any

from flwr.proto.fleet_pb2 import PullMessagesResponse


class Delivered:
    """By node, the last answer with a message in it; may be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, PullMessagesResponse] = {}
        self._again: dict[int, PullMessagesResponse] = {}

    def took(self, node: int, answer: Any) -> None:
        """Remember what a node was handed."""
        if answer.messages_list:
            with self._lock:
                self._open[node] = answer

    def answered(self, node: int, reply_to: str) -> None:
        """Forget a message that has its answer."""
        with self._lock:
            for handed in (self._open, self._again):
                if node in handed and handed[node].messages_list[0].metadata.message_id == reply_to:
                    del handed[node]

    def returned(self, node: int) -> None:
        """Note that a node has connected anew: what it was handed before may be lost."""
        with self._lock:
            handed = self._open.pop(node, None)
            if handed is not None:
                self._again[node] = handed

    def again(self, node: int) -> PullMessagesResponse | None:
        """Return what a node is to be handed once more, once."""
        with self._lock:
            return self._again.pop(node, None)
