"""Assemble the replies of sites, so that the lead sees a reply only when all of its objects have arrived.

Flower shows a reply to the server application as soon as its message is there, and lets it wait for the objects. If the
site or the server crashes in between, that reply can neither be completed nor sent again, and Flower gives it up after
three minutes. Here the message is passed to Flower last.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from flwr.proto.fleet_pb2 import PushMessagesResponse
from flwr.proto.run_pb2 import GetRunRequest
from flwr.superlink.servicer.fleet import fleet_handlers
from google.protobuf.message import DecodeError


@dataclass
class _PartialReply:
    """A reply in transfer: the request with its message, the upload session, and the ids of missing objects."""

    request: Any
    session: str
    missing: set[str]


class ReplyAssembler:
    """At most one partial reply for each node; several threads may use it.

    A reply that is partial when the server ends is pushed again from the start by its site, which still has it.

    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._partial: dict[int, _PartialReply] = {}

    def begin(self, request: Any, state: Any) -> tuple[Any, bool]:
        """Accept the message of a reply; return the response and whether the reply is complete.

        Raises:
            DecodeError: the request is not one message with its object tree.
            FlowerError: the run is not running, or the node takes no part in it.

        """
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            raise DecodeError("not one message with its tree")
        metadata = request.messages_list[0].metadata
        fleet_handlers.get_run(GetRunRequest(node=request.node, run_id=metadata.run_id), state)  # checks that it runs
        session = state.start_session(metadata.run_id)
        missing = state.preregister_object_tree(request.message_object_trees[0], session)
        if not missing:
            return fleet_handlers.push_messages(request, state), True
        with self._lock:
            self._partial[request.node.node_id] = _PartialReply(request, session, set(missing))
        results = {metadata.message_id: 0}
        return PushMessagesResponse(results=results, objects_to_push=missing, session_id=session), False

    def add_object(self, request: Any, state: Any) -> tuple[Any, Any]:
        """Store an object of a reply; return the response, and the reply's request if the reply is now complete."""
        response = fleet_handlers.push_object(request, state)
        with self._lock:
            partial = self._partial.get(request.node.node_id)
            if not response.stored or partial is None or partial.session != request.session_id:
                response.stored = False  # the reply is unknown here: its site pushes it again from the start
                return response, None
            partial.missing.discard(request.object_id)
            if partial.missing:
                return response, None
            del self._partial[request.node.node_id]
        fleet_handlers.push_messages(partial.request, state)
        return response, partial.request
