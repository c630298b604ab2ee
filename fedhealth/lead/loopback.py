"""The lead's own listener: Flower's whole application, whose server applications need not ask again and again."""

from __future__ import annotations

from typing import Any

from flwr.proto.message_pb2 import PullObjectRequest, PushObjectRequest
from google.protobuf.message import DecodeError

from fedhealth.lead.arrivals import TO_LEAD, TO_SITES, Arrivals, is_nothing
from fedhealth.lead.fleet import body_of

_RUNTIME = "/v1/runtime/"
_WAIT_SECONDS = 1.0  # a server application looks at its deadlines in between


class Loopback:
    """Flower's ASGI application; what a server application waits for is kept until it is there.

    Args:
        app: Flower's.
        arrivals: who waits for what.

    """

    def __init__(self, app: Any, arrivals: Arrivals) -> None:
        self._app, self._arrivals = app, arrivals

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on; again where the answer is that there is none yet."""
        action = scope["path"].removeprefix(_RUNTIME) if scope["type"] == "http" else ""
        if action not in ("pull-messages", "pull-object", "push-messages", "push-object"):
            await self._app(scope, receive, send)
            return
        body = await body_of(receive)
        answer = await self._arrivals.answered(
            _object_of(PullObjectRequest, body) if "object" in action else TO_LEAD,
            lambda: self._asked(scope, body, receive),
            lambda found: found.is_nothing(action),
            receive,
            _WAIT_SECONDS,
        )
        if action == "push-messages":
            self._arrivals.tell(TO_SITES)
        elif action == "push-object":
            self._arrivals.tell(_object_of(PushObjectRequest, body))
        for message in answer.messages:
            await send(message)

    async def _asked(self, scope: Any, body: bytes, receive: Any) -> _Answer:
        """Ask Flower's application once."""
        answer = _Answer()
        await self._app(scope, _again(body, receive), answer.take)
        return answer


def _object_of(kind: Any, body: bytes) -> str:
    """Return which object a request is about; of one that cannot be read, Flower says so."""
    try:
        return str(kind.FromString(body).object_id)
    except DecodeError:
        return ""


class _Answer:
    """What an application sends, kept until it is known whether it is the last word."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    async def take(self, message: dict[str, Any]) -> None:
        """Keep a message."""
        self.messages.append(message)

    def is_nothing(self, action: str) -> bool:
        """Tell whether it says that there is nothing yet."""
        if self.messages[0]["status"] != 200:
            return False
        body = b"".join(message.get("body", b"") for message in self.messages)
        return is_nothing(action, body)


def _again(body: bytes, receive: Any) -> Any:
    """Return a `receive` that brings the body, then whatever else comes."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def bring() -> Any:
        return waiting.pop() if waiting else await receive()

    return bring
