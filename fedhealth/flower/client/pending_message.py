"""The message that a site is processing, stored on disk until the lead has the reply, so that it survives a crash."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from pathlib import Path

from flwr.proto.message_pb2 import ObjectTree
from google.protobuf.message import DecodeError

from fedhealth.flower.client.fleet_client import PulledMessage
from fedhealth.utils.atomic_io import write_atomic


class PendingMessage:
    """At most one message, without its content: the lead keeps the content until it has the reply.

    Args:
        path: of the file.

    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, message: PulledMessage) -> None:
        """Write a message to the file."""
        header, tree = (b64encode(part).decode() for part in (message.header, message.tree.SerializeToString()))
        fields = {"run": message.run_id, "head": header, "tree": tree}
        fields |= {"message_id": message.message_id, "kind": message.message_type}
        write_atomic(self._path, json.dumps(fields).encode())

    def load(self) -> PulledMessage | None:
        """Return the message, or None if there is none or the file is unreadable."""
        try:
            found = json.loads(self._path.read_bytes())
            tree = ObjectTree.FromString(b64decode(found["tree"]))
            run_id, header = int(found["run"]), b64decode(found["head"])
            return PulledMessage(run_id, header, tree, str(found["message_id"]), str(found["kind"]))
        except (OSError, ValueError, KeyError, TypeError, DecodeError):
            return None

    def clear(self) -> None:
        """Delete the message, because the lead has the reply."""
        self._path.unlink(missing_ok=True)
