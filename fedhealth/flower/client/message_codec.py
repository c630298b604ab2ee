"""Encode Flower messages as byte strings, for the network and for the pipe between daemon and worker.

Flower splits a message into objects that are named by their hashes. The daemon transfers them unchanged; only the
worker decodes them. Nothing is pickled, so nothing in a message can be executed.
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
from fedhealth.flower.compat import set_message_id
from fedhealth.flower.record_bundle import bundle_records, unbundle_records

_MAX_OBJECTS = 1_000_000


@dataclass(frozen=True)
class EncodedMessage:
    """One message as bytes.

    Attributes:
        header: the message's metadata, and its error if it has one (protobuf).
        tree: the objects that the message consists of (protobuf).
        objects: content by object id.

    """

    header: bytes
    tree: bytes
    objects: Mapping[str, bytes]

    def decode(self) -> Message:
        """Return the message.

        Raises:
            FederationError: the objects do not form a message.

        """
        header = message_from_proto(MessageProto.FromString(self.header))
        if header.has_error():
            return header
        try:
            message = inflate_object_from_contents(header.metadata.message_id, dict(self.objects))
        except Exception as fault:
            raise FederationError("The parts of a message do not fit together.", "Restart the run.") from fault
        if not isinstance(message, Message):
            raise FederationError("The parts of a message do not form a message.", "Restart the run.")
        message.content = unbundle_records(message.content)
        set_message_id(message, header.metadata.message_id)
        return message


def encode_message(message: Message) -> EncodedMessage:
    """Split a message into its header and objects; its small records become one object, see `record_bundle`."""
    if message.has_content():
        message.content = bundle_records(message.content)
    with no_object_id_recompute():
        set_message_id(message, message.object_id)
        tree = get_object_tree(message)
        objects = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
    header = message_to_proto(remove_content_from_message(message))
    return EncodedMessage(header.SerializeToString(), tree.SerializeToString(), objects)


def hide_reply_time(reply: Message, request: Message) -> Message:
    """Give a reply the times of its request: its own would show how long the work took, see `site.reply_grid`."""
    reply.metadata.created_at, reply.metadata.ttl = request.metadata.created_at, request.metadata.ttl
    return reply


def encode_error_reply(request_header: bytes, error: Error) -> EncodedMessage:
    """Return an error reply to a message, of which only the header is read."""
    request = message_from_proto(MessageProto.FromString(request_header))
    return encode_message(hide_reply_time(Message(error, reply_to=request), request))


def encode_empty_reply(request_header: bytes) -> EncodedMessage:
    """Return an empty reply to a message."""
    return encode_message(Message(RecordDict(), reply_to=message_from_proto(MessageProto.FromString(request_header))))


def iter_object_ids(tree: ObjectTree) -> Iterator[str]:
    """Yield the ids of a tree's objects, each once, children first.

    Raises:
        FederationError: the tree has more than a million objects.

    """
    seen: set[str] = set()
    stack = [(tree, False)]
    while stack:
        node, children_done = stack.pop()
        if children_done:
            if node.object_id not in seen:
                seen.add(node.object_id)
                yield node.object_id
            continue
        stack.append((node, True))
        stack += [(child, False) for child in node.children]
        if len(stack) + len(seen) > _MAX_OBJECTS:
            raise FederationError("A message consists of too many objects.", "Restart the run.")


def write_to_pipe(connection: Connection, job: str, message: EncodedMessage) -> None:
    """Write a job and a message to another process."""
    for part in (job.encode(), message.header, message.tree, str(len(message.objects)).encode()):
        connection.send_bytes(part)
    for name, content in message.objects.items():
        connection.send_bytes(name.encode())
        connection.send_bytes(content)


def read_from_pipe(connection: Connection) -> tuple[str, EncodedMessage]:
    """Read what `write_to_pipe` wrote.

    Raises:
        EOFError: the other process has ended.

    """
    job, header, tree = connection.recv_bytes().decode(), connection.recv_bytes(), connection.recv_bytes()
    count = int(connection.recv_bytes())
    objects = {}
    for _ in range(count):
        name = connection.recv_bytes().decode()
        objects[name] = connection.recv_bytes()
    return job, EncodedMessage(header, tree, objects)
