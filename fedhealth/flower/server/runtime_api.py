"""The lead's own listener: Flower's whole application, and straight ways for what a server application asks often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushAppMessagesRequest
from flwr.supercore.constant import TASK_TOKEN_HEADER
from flwr.supercore.dependencies.task import authenticate_task
from flwr.superlink.servicer.runtime import runtime_handlers
from starlette.requests import Request

from fedhealth.flower.server.db_transaction import transaction
from fedhealth.flower.server.long_polling import TO_LEAD, TO_SITES, Arrivals
from fedhealth.flower.server.reply_redelivery import Unconfirmed
from fedhealth.flower.server.rpc_handler import Direct

RUNTIME = "/v1/runtime/"
_WAIT_SECONDS = 1.0  # a server application looks at its deadlines in between

_KINDS = {
    "pull-messages": PullAppMessagesRequest,
    "pull-object": PullObjectRequest,
    "confirm-message-received": ConfirmMessageReceivedRequest,
    "push-messages": PushAppMessagesRequest,
    "push-object": PushObjectRequest,
}
_HANDLERS = {
    "pull-object": runtime_handlers.pull_object,
    "confirm-message-received": runtime_handlers.confirm_message_received,
    "push-messages": runtime_handlers.push_messages,
    "push-object": runtime_handlers.push_object,
}


class Loopback:
    """The lead's ASGI application; what a server application waits for is kept until it is there.

    Args:
        app: Flower's.
        arrivals: who waits for what.
        unconfirmed: what was handed out and may not have arrived.

    """

    def __init__(self, app: Any, arrivals: Arrivals, unconfirmed: Unconfirmed) -> None:
        self._app, self._unconfirmed = app, unconfirmed
        self._direct = Direct(app, arrivals, _KINDS, self._work, TO_LEAD)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer what is asked often; Flower's application answers the rest."""
        path = scope["path"] if scope["type"] == "http" and scope["method"] == "POST" else ""
        action = path.removeprefix(RUNTIME)
        if path.startswith(RUNTIME) and action in _KINDS:
            await self._direct.respond(action, scope, receive, send, _WAIT_SECONDS)
        else:
            await self._app(scope, receive, send)

    def _work(self, action: str, asked: Any, request: Request) -> tuple[Any, Sequence[str]]:
        """Check that a claimed task asks, call Flower's handler, and tell what has arrived for the sites."""
        state = self._app.state.linkstate_factory.state()
        task = authenticate_task(request, request.headers.get(TASK_TOKEN_HEADER), state)
        if action == "pull-messages":
            return self._pull_messages(asked, state, task), []
        answer = _HANDLERS[action](asked, state, task)
        if action == "confirm-message-received":
            self._unconfirmed.confirmed(asked.message_object_id)
        if action == "push-object":
            return answer, [asked.object_id]
        return answer, [TO_SITES] if action == "push-messages" else []

    def _pull_messages(self, asked: Any, state: Any, task: Any) -> Any:
        """Hand answers over; Flower forgets them only when it is written down which."""
        known = self._unconfirmed.again(asked.message_ids)
        had = {message.metadata.reply_to_message_id for message in known.messages_list}
        others = [question for question in asked.message_ids if question not in had]
        with transaction(state):
            new = runtime_handlers.pull_messages(PullAppMessagesRequest(message_ids=others), state, task)
            if new.messages_list:
                self._unconfirmed.took(new)
        known.MergeFrom(new)
        return known
