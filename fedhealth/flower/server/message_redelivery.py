"""Messages that a site has taken and not answered: one that comes back after a crash or a cut gets them once more.

Flower hands a message out once. A site whose process, machine or network ended in between would never answer it, and
the lead would wait for its whole deadline. What was handed out lies on the lead's disk, for its server may end as well.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from flwr.proto.fleet_pb2 import PullMessagesResponse
from google.protobuf.message import DecodeError

from fedhealth.utils.private_files import make_folder


class Delivered:
    """By node, the last answer with a message in it; may be used from several threads.

    Args:
        folder: of the lead's.

    """

    def __init__(self, folder: Path) -> None:
        self._folder = make_folder(folder)
        self._lock = threading.Lock()
        self._returned: set[int] = set()

    def took(self, node: int, answer: Any) -> None:
        """Remember what a node is handed, before it is handed over."""
        with self._lock:
            draft = self._path(node).with_suffix(".draft")
            draft.write_bytes(answer.SerializeToString())
            draft.replace(self._path(node))  # not synced: it outlasts the server's process, as it has to

    def open(self, node: int) -> str | None:
        """Return the id of the message that a node is to answer."""
        with self._lock:
            handed = self._handed(node)
            return None if handed is None else str(handed.messages_list[0].metadata.message_id)

    def answered(self, node: int) -> None:
        """Forget a message: it has its answer."""
        with self._lock:
            self._path(node).unlink(missing_ok=True)

    def returned(self, node: int) -> None:
        """Note that a node has connected anew: what it was handed before may be lost."""
        with self._lock:
            self._returned.add(node)

    def again(self, node: int) -> PullMessagesResponse | None:
        """Return what a node is to be handed once more, once for each time that it returned."""
        with self._lock:
            if node not in self._returned:
                return None
            self._returned.discard(node)
            return self._handed(node)

    def _handed(self, node: int) -> PullMessagesResponse | None:
        try:
            found = PullMessagesResponse.FromString(self._path(node).read_bytes())
        except (OSError, DecodeError):
            return None
        return found if found.messages_list else None

    def _path(self, node: int) -> Path:
        return self._folder / f"{node}.message"
