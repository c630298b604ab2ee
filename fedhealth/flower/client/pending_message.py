"""The message that a site is working on, on its disk until its answer is with the lead: it outlives every crash."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from pathlib import Path

from flwr.proto.message_pb2 import ObjectTree
from google.protobuf.message import DecodeError

from fedhealth.flower.client.fleet_client import Task
from fedhealth.utils.atomic_io import write_atomic


class Inbox:
    """At most one message, without its content: that is with the lead until it has the answer.

    Args:
        path: of the file.

    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self, task: Task) -> None:
        """Write a message down."""
        head, tree = (b64encode(part).decode() for part in (task.head, task.tree.SerializeToString()))
        fields = {"run": task.run, "head": head, "tree": tree, "message_id": task.message_id, "kind": task.kind}
        write_atomic(self._path, json.dumps(fields).encode())

    def waiting(self) -> Task | None:
        """Return the message; None where there is none, or what is there cannot be read."""
        try:
            found = json.loads(self._path.read_bytes())
            tree = ObjectTree.FromString(b64decode(found["tree"]))
            return Task(int(found["run"]), b64decode(found["head"]), tree, str(found["message_id"]), str(found["kind"]))
        except (OSError, ValueError, KeyError, TypeError, DecodeError):
            return None

    def clear(self) -> None:
        """Forget it: the lead has the answer."""
        self._path.unlink(missing_ok=True)
