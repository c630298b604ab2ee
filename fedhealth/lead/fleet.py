"""What the hospitals see of the lead's server: the nine questions of Flower's fleet protocol that a site asks.

Flower's own application leads a request through seven layers of middleware (six milliseconds of a core). Here its
check of the node's signature and its handlers are called as they are, and nothing else is there to be reached.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import HTTPException
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.error import FlowerError
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from flwr.superlink.servicer.fleet import fleet_handlers
from google.protobuf.message import DecodeError
from starlette.requests import Request

from fedhealth.lead.arrivals import TO_LEAD, TO_SITES, Arrivals, Receive, is_nothing
from fedhealth.lead.delivered import Delivered
from fedhealth.wire import WAIT_HEADER

log = logging.getLogger("fedhealth.lead")

FLEET = "/v1/fleet/"
_MEDIA_TYPE = b"application/x-protobuf"
_LARGEST_REQUEST = 2**26  # bytes; Flower cuts arrays into pieces of 5 MB
_LONGEST_WAIT = 20.0  # seconds that a question may be kept
_AT_ONCE = 4  # requests that are worked on; the database takes one writer at a time

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


def _pull_messages(request: Any, state: Any) -> Any:
    return fleet_handlers.pull_messages(request, state, state.object_store)


def _confirm(request: Any, state: Any) -> Any:
    return fleet_handlers.confirm_message_received(request, state, state.object_store)


_QUESTIONS: dict[str, tuple[Any, Handler]] = {
    "activate-node": (ActivateNodeRequest, _activate),
    "deactivate-node": (DeactivateNodeRequest, fleet_handlers.deactivate_node),
    "send-node-heartbeat": (SendNodeHeartbeatRequest, fleet_handlers.send_node_heartbeat),
    "get-run": (GetRunRequest, fleet_handlers.get_run),
    "pull-messages": (PullMessagesRequest, _pull_messages),
    "pull-object": (PullObjectRequest, fleet_handlers.pull_object),
    "confirm-message-received": (ConfirmMessageReceivedRequest, _confirm),
    "push-messages": (PushMessagesRequest, fleet_handlers.push_messages),
    "push-object": (PushObjectRequest, fleet_handlers.push_object),
}  # registration is not among them: members come from the signed list


class Fleet:
    """The hospitals' ASGI application.

    Args:
        app: Flower's, whose state and database it shares.
        arrivals: who waits for what.
        delivered: what was handed out and not answered.

    """

    def __init__(self, app: Any, arrivals: Arrivals, delivered: Delivered) -> None:
        self._app, self._arrivals, self._delivered = app, arrivals, delivered
        self._workers = ThreadPoolExecutor(_AT_ONCE, "fleet")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a question; 404 for anything that is none, 413 for one that is too large."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        action = path.removeprefix(FLEET) if path.startswith(FLEET) else ""
        headers = dict(scope["headers"])
        if action not in _QUESTIONS or scope["method"] != "POST":
            await _respond(send, 404, b"")
        elif not _is_small(headers):
            await _respond(send, 413, b"")
        else:
            await _respond(send, *await self._guarded(action, scope, headers, receive))

    async def _guarded(
        self, action: str, scope: Any, headers: dict[bytes, bytes], receive: Receive
    ) -> tuple[int, bytes]:
        """Return status and body; what went wrong inside is for the log alone."""
        try:
            return 200, await self._answer(action, scope, headers, receive)
        except FlowerError as fault:
            log.info("%s: %s", action, fault.message)
            known = API_ERROR_MAP[fault.code]
            return known.http_status_code, json.dumps(fault.to_json(known.public_message)).encode()
        except HTTPException as fault:
            return fault.status_code, json.dumps({"detail": fault.detail}).encode()
        except DecodeError:
            return 400, b""
        except Exception:
            log.exception("%s failed", action)
            return 500, b""

    async def _answer(self, action: str, scope: Any, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """Return the answer; a question to which there is none yet is kept for as long as the asker wishes."""
        kind, handler = _QUESTIONS[action]
        asked = kind.FromString(await body_of(receive))
        answer = await self._arrivals.answered(
            asked.object_id if action == "pull-object" else TO_SITES,
            lambda: self._work(action, scope, asked, handler),
            lambda content: is_nothing(action, content),
            receive,
            _wished(headers),
        )
        if action == "push-messages":
            self._arrivals.tell(TO_LEAD)
        elif action == "push-object":
            self._arrivals.tell(asked.object_id)
        return answer

    async def _work(self, action: str, scope: Any, asked: Any, handler: Handler) -> bytes:
        """Check who asks, and call Flower's handler."""
        request = Request({**scope, "app": self._app, "state": {}})
        request.state.protobuf_request = asked

        def work() -> bytes:
            authenticate_node(request)
            answer = self._delivered.again(asked.node.node_id) if action == "pull-messages" else None
            if answer is None:
                answer = handler(asked, self._app.state.linkstate_factory.state())
                self._note(action, asked, answer)
            content: bytes = answer.SerializeToString()
            return content

        return await asyncio.get_running_loop().run_in_executor(self._workers, work)

    def _note(self, action: str, asked: Any, answer: Any) -> None:
        """Keep account of what was handed out and answered."""
        if action == "activate-node":
            self._delivered.returned(answer.node_id)
        elif action == "pull-messages":
            self._delivered.took(asked.node.node_id, answer)
        elif action == "push-messages":
            for message in asked.messages_list:
                self._delivered.answered(asked.node.node_id, message.metadata.reply_to_message_id)


async def body_of(receive: Receive) -> bytes:
    """Return the body of a request, whose size is known to be small."""
    parts, more = [], True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise HTTPException(400, "Gone.")
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _is_small(headers: dict[bytes, bytes]) -> bool:
    size = headers.get(b"content-length", b"")
    return size.isdigit() and int(size) <= _LARGEST_REQUEST


def _wished(headers: dict[bytes, bytes]) -> float:
    """Return for how many seconds the asker is ready to wait; stock Flower is not."""
    wished = headers.get(WAIT_HEADER.encode(), b"0")
    return min(float(wished), _LONGEST_WAIT) if wished.isdigit() else 0.0


async def _respond(send: Any, status: int, body: bytes) -> None:
    kind = _MEDIA_TYPE if status == 200 else b"application/json"
    headers = [(b"content-length", str(len(body)).encode()), (b"content-type", kind)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
