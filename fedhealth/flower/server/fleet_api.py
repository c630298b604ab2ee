"""What the hospitals see of the lead's server: the nine questions of Flower's fleet protocol that a site asks.

Flower's check of the node's signature and its handlers are called, and nothing else is there to be reached.
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

from fedhealth.flower.server.db_transaction import transaction
from fedhealth.flower.server.long_polling import TO_LEAD, TO_SITES, Arrivals
from fedhealth.flower.server.message_redelivery import Delivered
from fedhealth.flower.server.reply_assembly import Incoming
from fedhealth.flower.server.rpc_handler import Direct, respond
from fedhealth.protocol.messages import WAIT_HEADER

FLEET = "/v1/fleet/"
_LARGEST_REQUEST = 2**26  # bytes; Flower cuts arrays into pieces of 5 MB
_LONGEST_WAIT = 20.0  # seconds that a question may be kept

Handler = Callable[[Any, Any], Any]


def _activate(request: Any, state: Any) -> Any:
    """Let a node in; one whose last process was killed too, which stock Flower locks out for a minute."""
    try:
        return fleet_handlers.activate_node(request, state)
    except FlowerError:
        node = state.get_node_id_by_public_key(request.public_key)
        if node is None or not state.deactivate_node(node):
            raise
        return fleet_handlers.activate_node(request, state)


def _confirm(request: Any, state: Any) -> Any:
    return fleet_handlers.confirm_message_received(request, state, state.object_store)


_KINDS = {
    "activate-node": ActivateNodeRequest,
    "deactivate-node": DeactivateNodeRequest,
    "send-node-heartbeat": SendNodeHeartbeatRequest,
    "get-run": GetRunRequest,
    "pull-messages": PullMessagesRequest,
    "pull-object": PullObjectRequest,
    "confirm-message-received": ConfirmMessageReceivedRequest,
    "push-messages": PushMessagesRequest,
    "push-object": PushObjectRequest,
}  # registration is not among them: members come from the signed list
_QUESTIONS: dict[str, Handler] = {
    "activate-node": _activate,
    "deactivate-node": fleet_handlers.deactivate_node,
    "send-node-heartbeat": fleet_handlers.send_node_heartbeat,
    "get-run": fleet_handlers.get_run,
    "pull-object": fleet_handlers.pull_object,
    "confirm-message-received": _confirm,
}


class Fleet:
    """The hospitals' ASGI application.

    Args:
        app: Flower's, whose state and database it shares.
        arrivals: who waits for what.
        delivered: what was handed out and not answered.

    """

    def __init__(self, app: Any, arrivals: Arrivals, delivered: Delivered) -> None:
        self._app, self._delivered = app, delivered
        self._incoming = Incoming()
        self._direct = Direct(app, arrivals, _KINDS, self._work, TO_SITES)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a question; 404 for anything that is none, 413 for one that is too large."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        action = path.removeprefix(FLEET) if path.startswith(FLEET) else ""
        headers = dict(scope["headers"])
        if action not in _KINDS or scope["method"] != "POST":
            await respond(send, 404, b"")
        elif not _is_small(headers):
            await respond(send, 413, b"")
        else:
            await self._direct.respond(action, scope, receive, send, _wished(headers))

    def _work(self, action: str, asked: Any, request: Request) -> tuple[Any, Sequence[str]]:
        """Check that a member asks, and answer; tell what has arrived for the lead."""
        authenticate_node(request)
        state = self._app.state.linkstate_factory.state()
        try:
            return self._answer(action, asked, state)
        except (FlowerError, KeyError) as fault:
            if (run := _run_of(asked)) and not state.get_run_info(run_ids=[run]):  # such as after an old database
                raise FlowerError(ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, f"Run {run} is not known.") from fault
            raise

    def _answer(self, action: str, asked: Any, state: Any) -> tuple[Any, Sequence[str]]:
        if action == "push-messages":
            return self._push(asked, state)
        if action == "push-object":
            answer, whole = self._incoming.part(asked, state)
            return answer, self._arrived(whole) if whole is not None else []
        if action == "pull-messages":
            return self._pull(asked, state), []
        answer = _QUESTIONS[action](asked, state)
        if action == "activate-node":
            self._delivered.returned(answer.node_id)
        return answer, []

    def _pull(self, asked: Any, state: Any) -> Any:
        """Hand a question over; in Flower's database it is handed over only when it is written down which."""
        answer = self._delivered.again(asked.node.node_id)
        if answer is None:
            with transaction(state):
                answer = fleet_handlers.pull_messages(asked, state, state.object_store)
                if answer.messages_list:
                    self._delivered.took(asked.node.node_id, answer)
        return answer

    def _push(self, asked: Any, state: Any) -> tuple[Any, Sequence[str]]:
        """Take the message of an answer; one to a question that is not open at this node is passed over."""
        replies_to = {message.metadata.reply_to_message_id for message in asked.messages_list}
        if replies_to != {self._delivered.open(asked.node.node_id)}:
            return PushMessagesResponse(), []
        answer, whole = self._incoming.begin(asked, state)
        return answer, self._arrived(asked) if whole else []

    def _arrived(self, whole: Any) -> Sequence[str]:
        """Note that a node's question has its answer."""
        self._delivered.answered(whole.node.node_id)
        return [TO_LEAD]


def _run_of(asked: Any) -> int:
    """Return the number of the run that a question is about; 0 for none."""
    about = asked.messages_list[0].metadata if getattr(asked, "messages_list", None) else asked
    return int(getattr(about, "run_id", 0))


def _is_small(headers: dict[bytes, bytes]) -> bool:
    size = headers.get(b"content-length", b"")
    return size.isdigit() and int(size) <= _LARGEST_REQUEST


def _wished(headers: dict[bytes, bytes]) -> float:
    """Return for how many seconds the asker is ready to wait; stock Flower is not."""
    wished = headers.get(WAIT_HEADER.encode(), b"0")
    return min(float(wished), _LONGEST_WAIT) if wished.isdigit() else 0.0
