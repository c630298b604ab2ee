"""The lead's own listener: Flower's whole application, with direct handlers for the frequent requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse, PushAppMessagesRequest
from flwr.supercore.constant import TASK_TOKEN_HEADER
from flwr.supercore.dependencies.task import authenticate_task
from flwr.superlink.servicer.runtime import runtime_handlers
from starlette.requests import Request

from fedhealth.flower.server.db_transaction import immediate_transaction
from fedhealth.flower.server.long_polling import TO_LEAD, TO_SITES, LongPolling
from fedhealth.flower.server.reply_redelivery import ReplyRedelivery
from fedhealth.flower.server.rpc_handler import RpcHandler

RUNTIME_PREFIX = "/v1/runtime/"
_WAIT_SECONDS = 1.0  # that a request may be held: a server application checks its deadlines in between

_REQUEST_TYPES = {
    "pull-messages": PullAppMessagesRequest,
    "pull-object": PullObjectRequest,
    "confirm-message-received": ConfirmMessageReceivedRequest,
    "push-messages": PushAppMessagesRequest,
    "push-object": PushObjectRequest,
}
_HANDLERS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "pull-object": runtime_handlers.pull_object,
    "confirm-message-received": runtime_handlers.confirm_message_received,
    "push-messages": runtime_handlers.push_messages,
    "push-object": runtime_handlers.push_object,
}


class RuntimeApi:
    """The lead's ASGI application; it holds the requests of a server application until there is a result.

    Args:
        app: Flower's.
        long_polling: holds requests until there is something to return.
        redelivery: the replies that were sent and not confirmed.

    """

    def __init__(self, app: Any, long_polling: LongPolling, redelivery: ReplyRedelivery) -> None:
        self._app, self._redelivery = app, redelivery
        self._rpc = RpcHandler(app, long_polling, _REQUEST_TYPES, self._handle, TO_LEAD)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Respond to the frequent requests; pass all others to Flower's application."""
        path = scope["path"] if scope["type"] == "http" and scope["method"] == "POST" else ""
        action = path.removeprefix(RUNTIME_PREFIX)
        if path.startswith(RUNTIME_PREFIX) and action in _REQUEST_TYPES:
            await self._rpc.respond(action, scope, receive, send, _WAIT_SECONDS)
        else:
            await self._app(scope, receive, send)

    def _handle(self, action: str, message: Any, request: Request) -> tuple[Any, Sequence[str]]:
        """Authenticate the task; return the response and the events that the request triggers for the sites."""
        state = self._app.state.linkstate_factory.state()
        task = authenticate_task(request, request.headers.get(TASK_TOKEN_HEADER), state)
        if action == "pull-messages":
            return self._pull_messages(message, state, task), []
        response = _HANDLERS[action](message, state, task)
        if action == "confirm-message-received":
            self._redelivery.confirm(message.message_object_id)
        if action == "push-object":
            return response, [message.object_id]
        return response, [TO_SITES] if action == "push-messages" else []

    def _pull_messages(self, message: Any, state: Any, task: Any) -> Any:
        """Return replies; record them on disk before Flower's database deletes them.

        Flower's grid reads all of them into memory before the application sees the first, so a large one goes alone:
        those after it are unconfirmed, and therefore in the next response.
        """
        response = self._redelivery.find_unconfirmed(message.message_ids)
        redelivered = {each.metadata.reply_to_message_id for each in response.messages_list}
        others = [request_id for request_id in message.message_ids if request_id not in redelivered]
        with immediate_transaction(state):
            new = runtime_handlers.pull_messages(PullAppMessagesRequest(message_ids=others), state, task)
            if new.messages_list:
                self._redelivery.record(new)
        response.MergeFrom(new)
        return cut_after_large(response)


def cut_after_large(response: PullAppMessagesResponse) -> PullAppMessagesResponse:
    """Return the messages up to the first one that holds arrays, which a large update is and small replies are not."""
    trees = response.message_object_trees
    end = next((at for at, tree in enumerate(trees) if _holds_arrays(tree)), len(trees)) + 1
    return PullAppMessagesResponse(messages_list=response.messages_list[:end], message_object_trees=trees[:end])


def _holds_arrays(tree: ObjectTree) -> bool:
    """Return whether a record of a message has parts: below the message lies its content, below this its records."""
    return any(record.children for content in tree.children for record in content.children)
