"""Redeliver replies that a server application pulled but did not confirm.

Flower deletes a reply when it sends it. If the server crashed before the response had left, the reply and the site's
work would be lost. Sent replies are stored on the lead's disk until the server application confirms them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from google.protobuf.message import DecodeError

from fedhealth.utils.atomic_io import write_atomic
from fedhealth.utils.private_files import make_private_folder


class ReplyRedelivery:
    """By request message, the unconfirmed reply without its content; several threads may use it.

    Args:
        folder: at the lead.

    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = make_private_folder(folder), threading.Lock()
        self._replies: dict[str, PullAppMessagesResponse] = {}
        for path in folder.glob("*.answer"):
            reply = _load_reply(path)
            if reply is None:
                path.unlink()
            else:
                self._replies[path.stem] = reply

    def record(self, replies: PullAppMessagesResponse) -> None:
        """Store replies before they are sent to the server application."""
        with self._lock:
            for message, tree in zip(replies.messages_list, replies.message_object_trees, strict=True):
                if request_id := message.metadata.reply_to_message_id:
                    reply = PullAppMessagesResponse(messages_list=[message], message_object_trees=[tree])
                    # Not durable: it only has to survive a crash of the server process.
                    content = reply.SerializeToString()
                    write_atomic(self._path(request_id), content, durable=False, single_writer=True)
                    self._replies[request_id] = reply

    def find_unconfirmed(self, request_ids: Iterable[str]) -> PullAppMessagesResponse:
        """Return the unconfirmed replies to these request messages."""
        found = PullAppMessagesResponse()
        with self._lock:
            for request_id in request_ids:
                if request_id in self._replies:
                    found.MergeFrom(self._replies[request_id])
        return found

    def confirm(self, message_id: str) -> None:
        """Delete a reply by its own message id, because it has arrived."""
        with self._lock:
            for request_id, reply in list(self._replies.items()):
                if reply.messages_list[0].metadata.message_id == message_id:
                    del self._replies[request_id]
                    self._path(request_id).unlink(missing_ok=True)

    def _path(self, request_id: str) -> Path:
        return self._folder / f"{request_id}.answer"


def _load_reply(path: Path) -> PullAppMessagesResponse | None:
    """Return a stored reply, or None if it is unreadable or has expired."""
    try:
        reply = PullAppMessagesResponse.FromString(path.read_bytes())
    except (OSError, DecodeError):
        return None
    metadata: Any = reply.messages_list[0].metadata if reply.messages_list else None
    return reply if metadata and metadata.created_at + metadata.ttl > time.time() else None
