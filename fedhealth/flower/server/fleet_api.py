"""The server's interface for hospitals: the nine requests of Flower's fleet protocol that a site sends.

Requests go through Flower's node authentication to Flower's handlers; no other path of the server is reachable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from flwr.superlink.servicer.fleet import fleet_handlers
from starlette.requests import Request

from fedhealth.flower.server.db_transaction import immediate_transaction
from fedhealth.flower.server.long_polling import TO_LEAD, TO_SITES, LongPolling
from fedhealth.flower.server.message_redelivery import MessageRedelivery
from fedhealth.flower.server.reply_assembly import ReplyAssembler
from fedhealth.flower.server.rpc_handler import RpcHandler, send_response
from fedhealth.flower.server.site_contacts import SiteContacts
from fedhealth.protocol.messages import WAIT_HEADER
from fedhealth.protocol.site_report import REPORT_HEADER

FLEET_PREFIX = "/v1/fleet/"
_MAX_REQUEST_BYTES = 2**26  # Flower splits arrays into chunks of 5 MB
_MAX_WAIT_SECONDS = 20.0  # that a request may be held (long polling)

Handler = Callable[[Any, Any], Any]


def _activate_node(request: Any, state: Any) -> Any:
    """Activate a node, also one whose last process was killed; stock Flower locks that one out for a minute."""
    try:
        return fleet_handlers.activate_node(request, state)
    except FlowerError:
        node = state.get_node_id_by_public_key(request.public_key)
        if node is None or not state.deactivate_node(node):
            raise
        return fleet_handlers.activate_node(request, state)


def _confirm_message(request: Any, state: Any) -> Any:
    return fleet_handlers.confirm_message_received(request, state, state.object_store)


_REQUEST_TYPES = {
    "activate-node": ActivateNodeRequest,
    "deactivate-node": DeactivateNodeRequest,
    "send-node-heartbeat": SendNodeHeartbeatRequest,
    "get-run": GetRunRequest,
    "pull-messages": PullMessagesRequest,
    "pull-object": PullObjectRequest,
    "confirm-message-received": ConfirmMessageReceivedRequest,
    "push-messages": PushMessagesRequest,
    "push-object": PushObjectRequest,
}  # without registration: the lead registers the nodes of the signed membership list
_HANDLERS: dict[str, Handler] = {
    "activate-node": _activate_node,
    "deactivate-node": fleet_handlers.deactivate_node,
    "send-node-heartbeat": fleet_handlers.send_node_heartbeat,
    "get-run": fleet_handlers.get_run,
    "pull-object": fleet_handlers.pull_object,
    "confirm-message-received": _confirm_message,
}


class FleetApi:
    """The ASGI application for hospitals.

    Args:
        app: Flower's application, whose state and database it shares.
        long_polling: holds requests until there is something to return.
        redelivery: the messages that sites pulled and did not answer.
        contacts: records when each site sent a request.

    """

    def __init__(
        self, app: Any, long_polling: LongPolling, redelivery: MessageRedelivery, contacts: SiteContacts
    ) -> None:
        self._app, self._redelivery, self._contacts = app, redelivery, contacts
        self._replies = ReplyAssembler()
        self._rpc = RpcHandler(app, long_polling, _REQUEST_TYPES, self._handle, TO_SITES)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Respond to a request: 404 for an unknown path, 413 if it is too large."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        action = path.removeprefix(FLEET_PREFIX) if path.startswith(FLEET_PREFIX) else ""
        headers = dict(scope["headers"])
        if action not in _REQUEST_TYPES or scope["method"] != "POST":
            await send_response(send, 404, b"")
        elif not _has_allowed_size(headers):
            await send_response(send, 413, b"")
        else:
            await self._rpc.respond(action, scope, receive, send, _read_wait_header(headers))

    def _handle(self, action: str, message: Any, request: Request) -> tuple[Any, Sequence[str]]:
        """Authenticate the node; return the response and the events that the request triggers for the lead."""
        authenticate_node(request)
        state = self._app.state.linkstate_factory.state()
        try:
            response, events = self._dispatch(action, message, state)
        except (FlowerError, KeyError) as fault:
            run_id = _get_run_id(message)
            if run_id and not state.get_run_info(run_ids=[run_id]):  # for example after the database was replaced
                raise FlowerError(ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, f"Run {run_id} is not known.") from fault
            raise
        node = response if action == "activate-node" else getattr(message, "node", message)
        self._contacts.record(node.node_id, request.headers.get(REPORT_HEADER, ""))
        return response, events

    def _dispatch(self, action: str, message: Any, state: Any) -> tuple[Any, Sequence[str]]:
        if action == "push-messages":
            return self._push(message, state), []
        if action == "push-object":
            response, complete = self._replies.add_object(message, state)
            return response, self._complete_reply(complete) if complete is not None else []
        if action == "pull-messages":
            return self._pull(message, state), []
        response = _HANDLERS[action](message, state)
        if action == "activate-node":
            self._redelivery.mark_reconnected(response.node_id)
        return response, []

    def _pull(self, message: Any, state: Any) -> Any:
        """Return the next message; record it on disk before Flower's database marks it as delivered."""
        response = self._redelivery.take_redelivery(message.node.node_id)
        if response is None:
            with immediate_transaction(state):
                response = fleet_handlers.pull_messages(message, state, state.object_store)
                if response.messages_list:
                    self._redelivery.record(message.node.node_id, response)
        return response

    def _push(self, message: Any, state: Any) -> Any:
        """Accept the message of a reply; ignore a reply to a message that is not open at this node."""
        replies_to = {each.metadata.reply_to_message_id for each in message.messages_list}
        if replies_to != {self._redelivery.open_message_id(message.node.node_id)}:
            return PushMessagesResponse()
        return self._replies.begin(message, state)

    def _complete_reply(self, message: Any) -> Sequence[str]:
        """Mark a node's open message as answered."""
        self._redelivery.mark_answered(message.node.node_id)
        return [TO_LEAD]


def _get_run_id(message: Any) -> int:
    """Return the id of the run that a request belongs to; 0 if it belongs to none."""
    source = message.messages_list[0].metadata if getattr(message, "messages_list", None) else message
    return int(getattr(source, "run_id", 0))


def _has_allowed_size(headers: dict[bytes, bytes]) -> bool:
    size = headers.get(b"content-length", b"")  # some parsers ignore it where the body comes in chunks
    return size.isdigit() and int(size) <= _MAX_REQUEST_BYTES and b"transfer-encoding" not in headers


def _read_wait_header(headers: dict[bytes, bytes]) -> float:
    """Return how many seconds the client allows the request to be held; 0 for stock Flower."""
    wait = headers.get(WAIT_HEADER.encode(), b"0")
    return min(float(wait), _MAX_WAIT_SECONDS) if wait.isdigit() else 0.0
