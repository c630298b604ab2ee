"""Answers of sites reach the lead when all of them is there.

Flower shows an answer to the server application as soon as its message is there, and lets it wait for the objects. A
site, or the server, that ends in between leaves an answer that can neither be completed nor given again: Flower gives
it up after three minutes. Here the message is shown last.
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
class _Begun:
    """An answer that is on its way: its message, and what is missing of it."""

    asked: Any
    session: str
    missing: set[str]


class Incoming:
    """At most one unfinished answer for each node; may be used from several threads.

    What is unfinished when the server ends is begun again by its site, which has kept it.

    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: dict[int, _Begun] = {}

    def begin(self, asked: Any, state: Any) -> tuple[Any, bool]:
        """Take the message of an answer; return what is to be answered, and whether the answer is whole.

        Raises:
            DecodeError: it is not one message with its tree.
            FlowerError: the run is not running, or not the node's.

        """
        if len(asked.messages_list) != 1 or len(asked.message_object_trees) != 1:
            raise DecodeError("not one message with its tree")
        about = asked.messages_list[0].metadata
        fleet_handlers.get_run(GetRunRequest(node=asked.node, run_id=about.run_id), state)  # is it running?
        session = state.start_session(about.run_id)
        missing = state.preregister_object_tree(asked.message_object_trees[0], session)
        if not missing:
            return fleet_handlers.push_messages(asked, state), True
        with self._lock:
            self._begun[asked.node.node_id] = _Begun(asked, session, set(missing))
        results = {about.message_id: 0}
        return PushMessagesResponse(results=results, objects_to_push=missing, session_id=session), False

    def part(self, asked: Any, state: Any) -> tuple[Any, Any]:
        """Take an object of an answer; return what is to be answered, and the answer's message if it is whole now."""
        answer = fleet_handlers.push_object(asked, state)
        with self._lock:
            begun = self._begun.get(asked.node.node_id)
            if not answer.stored or begun is None or begun.session != asked.session_id:
                answer.stored = False  # of an answer that is not known: it is begun again
                return answer, None
            begun.missing.discard(asked.object_id)
            if begun.missing:
                return answer, None
            del self._begun[asked.node.node_id]
        fleet_handlers.push_messages(begun.asked, state)
        return answer, begun.asked
