"""A Flower message on its way between the network and the process that works on it: bytes and nothing to execute.

Flower cuts a message into objects named by their hashes. The site's runner moves them as they are; only the worker
looks inside. Nothing is pickled: a parcel is a list of byte strings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection

from flwr.app import Error, Message, RecordDict
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedhealth.errors import FederationError

_MOST_OBJECTS = 1_000_000


@dataclass(frozen=True)
class Parcel:
    """One message.

    Attributes:
        head: its metadata, and its error if it is one (protobuf).
        tree: which objects it consists of (protobuf).
        objects: content by object id.

    """

    head: bytes
    tree: bytes
    objects: Mapping[str, bytes]

    def message(self) -> Message:
        """Put the message together.

        Raises:
            FederationError: its parts do not fit.

        """
        head = message_from_proto(MessageProto.FromString(self.head))
        if head.has_error():
            return head
        try:
            found = inflate_object_from_contents(head.metadata.message_id, dict(self.objects))
        except Exception as fault:
            raise FederationError("A message's parts do not fit together.", "Restart the run.") from fault
        if not isinstance(found, Message):
            raise FederationError("A message's parts make no message.", "Restart the run.")
        found.metadata.__dict__["_message_id"] = head.metadata.message_id
        return found


def parcel_of(message: Message) -> Parcel:
    """Take a message apart."""
    with no_object_id_recompute():
        message.metadata.__dict__["_message_id"] = message.object_id
        tree = get_object_tree(message)
        objects = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
    head = message_to_proto(remove_content_from_message(message))
    return Parcel(head.SerializeToString(), tree.SerializeToString(), objects)


def refusal_of(question: bytes, error: Error) -> Parcel:
    """Return an error as the answer to a message, of which nothing but its head was looked at."""
    return parcel_of(Message(error, reply_to=message_from_proto(MessageProto.FromString(question))))


def receipt_of(question: bytes) -> Parcel:
    """Return an empty answer to a message."""
    return parcel_of(Message(RecordDict(), reply_to=message_from_proto(MessageProto.FromString(question))))


def object_ids(tree: ObjectTree) -> Iterator[str]:
    """Yield the ids of a tree's objects, each once, children first.

    Raises:
        FederationError: it is larger than any honest message.

    """
    seen: set[str] = set()
    waiting = [(tree, False)]
    while waiting:
        node, done = waiting.pop()
        if done:
            if node.object_id not in seen:
                seen.add(node.object_id)
                yield node.object_id
            continue
        waiting.append((node, True))
        waiting += [(child, False) for child in node.children]
        if len(waiting) + len(seen) > _MOST_OBJECTS:
            raise FederationError("A message consists of too many objects.", "Restart the run.")


def send(connection: Connection, job: str, parcel: Parcel) -> None:
    """Write a job and a parcel to another process."""
    for part in (job.encode(), parcel.head, parcel.tree, str(len(parcel.objects)).encode()):
        connection.send_bytes(part)
    for name, content in parcel.objects.items():
        connection.send_bytes(name.encode())
        connection.send_bytes(content)


def receive(connection: Connection) -> tuple[str, Parcel]:
    """Read what `send` wrote.

    Raises:
        EOFError: the other process has ended.

    """
    job, head, tree = connection.recv_bytes().decode(), connection.recv_bytes(), connection.recv_bytes()
    count = int(connection.recv_bytes())
    objects = {}
    for _ in range(count):
        name = connection.recv_bytes().decode()
        objects[name] = connection.recv_bytes()
    return job, Parcel(head, tree, objects)
