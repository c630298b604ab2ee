"""The lead's grid at its server: what a site sends harms its own reply only.

Flower's grid believes what a reply says of itself, and fails as a whole if the parts of one do not fit together: the
replies of the same response are lost, and a single site could end every run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, cast

from flwr.app import Error, Message, RecordDict
from flwr.app.message.message import make_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, inflate_object_from_contents, pull_objects
from flwr.superlink.grid.http_grid import HttpGrid

from fedhealth.errors import FederationError
from fedhealth.flower.grid_wrapper import GridWrapper
from fedhealth.protocol.messages import build_error

log = logging.getLogger("fedhealth.lead")


class ReplyGrid(GridWrapper):
    """A grid whose replies are whole, or errors.

    Args:
        grid: Flower's, connected to the lead's server.

    """

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        connected = cast(HttpGrid, grid)
        self._node, self._client = connected.node, connected._runtime_client

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have arrived; one that cannot be read is an error of its site."""
        found = self._client.PullMessages(PullAppMessagesRequest(message_ids=message_ids))
        pairs = zip(found.messages_list, found.message_object_trees, strict=True)
        return [self._take_reply(message_from_proto(header), tree) for header, tree in pairs]

    def _take_reply(self, header: Message, tree: ObjectTree) -> Message:
        """Return a reply, whose header the server has checked; it deletes what is confirmed."""
        metadata, node, run_id = header.metadata, self._node, self.grid.run.run_id
        try:
            names = list(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))
            objects = pull_objects(names, make_pull_object_fn_protobuf(self._client.PullObject, node, run_id))
        except ObjectPullError as fault:
            log.warning("a reply of node %d is not complete: %s", metadata.src_node_id, fault)
            return make_message(metadata, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, "incomplete"))
        confirmed = ConfirmMessageReceivedRequest(node=node, run_id=run_id, message_object_id=metadata.message_id)
        self._client.ConfirmMessageReceived(confirmed)
        return _join_reply(header, objects)


def check_replies(grid: Grid) -> Grid:
    """Return a grid whose replies are whole, or errors; another than one of a server is returned as it is."""
    return ReplyGrid(grid) if isinstance(grid, HttpGrid) else grid


def _join_reply(header: Message, objects: dict[str, bytes]) -> Message:
    """Return a reply with the content or the error in its objects, of which nothing else is believed."""
    try:
        found: Any = inflate_object_from_contents(header.metadata.message_id, objects)
        if found.has_error():
            return make_message(header.metadata, error=found.error)
        if isinstance(found.content, RecordDict):
            return make_message(header.metadata, found.content)
        problem: object = "it has no content"
    except Exception as fault:  # Flower and three libraries parse what comes from outside
        problem = repr(fault)[:200]
    log.warning("a reply of node %d cannot be read: %s", header.metadata.src_node_id, problem)
    return make_message(header.metadata, error=build_error(FederationError("A reply cannot be read.", "")))
