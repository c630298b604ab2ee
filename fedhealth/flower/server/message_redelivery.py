"""Redeliver messages that a site pulled but did not answer before it crashed or disconnected.

Flower delivers a message once. A site whose process, machine or network failed in between would never reply, and the
lead would wait for the whole deadline. Open messages are stored on the lead's disk, as its server may crash as well.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from flwr.proto.fleet_pb2 import PullMessagesResponse
from google.protobuf.message import DecodeError

from fedhealth.utils.atomic_io import write_atomic
from fedhealth.utils.private_files import make_private_folder


class MessageRedelivery:
    """By node, the last response that contained a message; several threads may use it.

    Args:
        folder: at the lead.

    """

    def __init__(self, folder: Path) -> None:
        self._folder = make_private_folder(folder)
        self._lock = threading.Lock()
        self._reconnected: set[int] = set()

    def record(self, node_id: int, response: Any) -> None:
        """Store a response before it is sent to the node."""
        with self._lock:
            # Not durable: it only has to survive a crash of the server process.
            write_atomic(self._path(node_id), response.SerializeToString(), durable=False, single_writer=True)

    def open_message_id(self, node_id: int) -> str | None:
        """Return the id of the message that the node has to answer."""
        with self._lock:
            response = self._load(node_id)
            return None if response is None else str(response.messages_list[0].metadata.message_id)

    def mark_answered(self, node_id: int) -> None:
        """Delete the node's open message, because its reply has arrived."""
        with self._lock:
            self._path(node_id).unlink(missing_ok=True)

    def mark_reconnected(self, node_id: int) -> None:
        """Note that a node has reconnected and may have lost its open message."""
        with self._lock:
            self._reconnected.add(node_id)

    def take_redelivery(self, node_id: int) -> PullMessagesResponse | None:
        """Return the response to send to the node again, once after each reconnect."""
        with self._lock:
            if node_id not in self._reconnected:
                return None
            self._reconnected.discard(node_id)
            return self._load(node_id)

    def _load(self, node_id: int) -> PullMessagesResponse | None:
        try:
            response = PullMessagesResponse.FromString(self._path(node_id).read_bytes())
        except (OSError, DecodeError):
            return None
        return response if response.messages_list else None

    def _path(self, node_id: int) -> Path:
        return self._folder / f"{node_id}.message"
