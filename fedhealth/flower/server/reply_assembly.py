"""Assemble the replies of sites, so that the lead sees a reply only when all of its objects have arrived.

Flower shows a reply to the server application as soon as its message is there, and lets it wait for the objects. If the
site or the server crashes in between, that reply can neither be completed nor sent again, and Flower gives it up after
three minutes. Here the message is passed to Flower last.

Flower also believes which parts a site says that an object has, before it has seen the object, and from then on refuses
everybody who says otherwise: a site that names the lead's next request could stop the run. Here an object is registered
when its content is there, which says what its parts are.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from flwr.common.constant import Status
from flwr.proto.fleet_pb2 import PushMessagesResponse
from flwr.proto.message_pb2 import ObjectTree, PushObjectResponse
from flwr.proto.run_pb2 import GetRunRequest
from flwr.server.superlink.utils import check_abort
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    UnexpectedObjectContentError,
    get_object_children_ids_from_object_content,
    get_object_id,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.superlink.servicer.fleet import fleet_handlers
from google.protobuf.message import DecodeError

from fedhealth.flower.server.db_transaction import immediate_transaction

_MAX_HELD_BYTES = 2**25  # of a partial reply's objects that have parts: lists of names


@dataclass
class _PartialReply:
    """A reply in transfer.

    Attributes:
        request: with its message.
        parts: by the id of each object, the ids of its parts.
        missing: ids of the objects that have not arrived.
        held: the objects that have parts, by id; those without lie in Flower's store.
        held_bytes: their size.
        session: names this transfer.

    """

    request: Any
    parts: dict[str, frozenset[str]]
    missing: set[str]
    held: dict[str, bytes] = field(default_factory=dict)
    held_bytes: int = 0
    session: str = field(default_factory=lambda: str(uuid4()))

    @property
    def run_id(self) -> int:
        """Flower's id of its run."""
        return int(self.request.messages_list[0].metadata.run_id)


class ReplyAssembler:
    """At most one partial reply for each node; several threads may use it.

    A reply that is partial when the server ends is pushed again from the start by its site, which still has it.

    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._partial: dict[int, _PartialReply] = {}

    def begin(self, request: Any, state: Any) -> Any:
        """Accept the message of a reply; return the response, which names the objects to push.

        Raises:
            DecodeError: the request is not one message with its object tree.
            FlowerError: the run is not running, or the node takes no part in it.

        """
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            raise DecodeError("not one message with its tree")
        metadata = request.messages_list[0].metadata
        fleet_handlers.get_run(GetRunRequest(node=request.node, run_id=metadata.run_id), state)  # checks that it runs
        tree = request.message_object_trees[0]
        parts = _list_parts(tree)
        missing = [name for name in parts if parts[name] or not _is_stored(name, metadata.run_id, state)]
        missing += [] if tree.object_id in missing else [tree.object_id]  # what arrives last completes the reply
        partial = _PartialReply(request, parts, set(missing))
        with self._lock:
            self._partial[request.node.node_id] = partial
        results = {metadata.message_id: 0}
        return PushMessagesResponse(results=results, objects_to_push=missing, session_id=partial.session)

    def add_object(self, request: Any, state: Any) -> tuple[Any, Any]:
        """Store an object of a reply; return the response, and the reply's request if the reply is now complete.

        Raises:
            DecodeError: the object is another than the one announced.
            FlowerError: the run is not running.

        """
        _require_running(request.run_id, state)
        node_id, name, content = request.node.node_id, request.object_id, request.object_content
        unknown = PushObjectResponse(stored=False)  # to this server: its site pushes the reply again from the start
        with self._lock:
            partial = self._partial.get(node_id)
        if partial is None or partial.session != request.session_id or name not in partial.parts:
            return unknown, None
        _check_object(name, content, partial.parts[name])
        if not partial.parts[name]:
            with immediate_transaction(state):
                state.object_store.preregister(partial.run_id, ObjectTree(object_id=name))
                state.object_store.put(name, content)
        with self._lock:
            if partial.parts[name] and name not in partial.held:
                partial.held[name], partial.held_bytes = content, partial.held_bytes + len(content)
            if partial.held_bytes > _MAX_HELD_BYTES:
                raise DecodeError("a reply has too many parts")
            partial.missing.discard(name)
            if partial.missing or self._partial.get(node_id) is not partial:
                return PushObjectResponse(stored=True), None
            del self._partial[node_id]
        if not _store_reply(partial, state):
            return unknown, None
        return PushObjectResponse(stored=True), partial.request


def _require_running(run_id: int, state: Any) -> None:
    """Do what Flower does before it stores an object."""
    ended = check_abort(run_id, [Status.PENDING, Status.STARTING, Status.FINISHED], state)
    if ended:
        raise FlowerError(ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, ended)


def _list_parts(tree: ObjectTree) -> dict[str, frozenset[str]]:
    """Return the ids of the parts of every object in a tree, parts first.

    Raises:
        DecodeError: the tree contradicts itself.

    """
    parts: dict[str, frozenset[str]] = {}
    for each in iterate_object_tree(tree):
        named = frozenset(part.object_id for part in each.children)
        if len(named) != len(each.children) or parts.setdefault(each.object_id, named) != named:
            raise DecodeError("an object has the same part twice, or different ones")
    return parts


def _is_stored(name: str, run_id: int, state: Any) -> bool:
    """Return whether an object without parts is in the store; one that is not there is not registered."""
    try:
        return name in state.object_store and not state.object_store.preregister(run_id, ObjectTree(object_id=name))
    except ValueError:  # it has parts
        return False


def _check_object(name: str, content: bytes, parts: frozenset[str]) -> None:
    """Refuse an object that is another one than announced, or that has other parts.

    Raises:
        DecodeError: it is or has.

    """
    try:
        validate_object_content(content)
    except (UnexpectedObjectContentError, UnicodeDecodeError) as fault:
        raise DecodeError("an object cannot be read") from fault
    found = get_object_children_ids_from_object_content(content)
    if get_object_id(content) != name or len(found) != len(parts) or set(found) != parts:
        raise DecodeError("an object is another one than announced")


def _store_reply(partial: _PartialReply, state: Any) -> bool:
    """Store a reply whose objects have arrived, its message last; return False if some were deleted meanwhile."""
    with immediate_transaction(state):
        missing = state.object_store.preregister(partial.run_id, partial.request.message_object_trees[0])
        if not partial.held.keys() >= set(missing):
            return False  # they were parts of another message, too, which is no longer needed
        for name in missing:
            state.object_store.put(name, partial.held[name])
        fleet_handlers.push_messages(partial.request, state)
    return True
