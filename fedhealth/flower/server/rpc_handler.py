"""Call Flower's request handlers directly, without the seven layers of middleware around them.

The middleware takes six milliseconds of CPU for each request, and a round has about fifty. This module does the parts
of it that are needed here: it parses requests and translates errors by Flower's table. Its users authenticate the
client.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import HTTPException
from flwr.supercore.error import FlowerError
from flwr.supercore.error.catalog import API_ERROR_MAP
from google.protobuf.message import DecodeError
from starlette.requests import Request

from fedhealth.flower.server.long_polling import LongPolling, Receive, is_empty_response

log = logging.getLogger("fedhealth.lead")

_MEDIA_TYPE = b"application/x-protobuf"
_THREADS = 4  # the database accepts one writer at a time

Handle = Callable[[str, Any, Request], tuple[Any, Sequence[str]]]


class RpcHandler:
    """The requests of one listener.

    Args:
        app: Flower's application, whose state and database are used.
        long_polling: holds requests until there is something to return.
        request_types: the protobuf message of each action.
        handle: authenticates the client and returns, for (action, message, request), the response and the names of
            the long-polling events that the request triggers; it runs in a thread.
        message_event: the event that a request for messages waits for.

    """

    def __init__(
        self, app: Any, long_polling: LongPolling, request_types: Mapping[str, Any], handle: Handle, message_event: str
    ) -> None:
        self._app, self._long_polling, self._request_types = app, long_polling, request_types
        self._handle, self._message_event = handle, message_event
        self._threads = ThreadPoolExecutor(_THREADS, message_event)

    async def respond(self, action: str, scope: Any, receive: Receive, send: Any, seconds: float) -> None:
        """Respond to a request; hold it for some seconds if it has no result yet."""
        await send_response(send, *await self._catch_errors(action, scope, receive, seconds))

    async def _catch_errors(self, action: str, scope: Any, receive: Receive, seconds: float) -> tuple[int, bytes]:
        """Return status and body; the details of internal errors go to the log only."""
        try:
            return 200, await self._poll(action, scope, receive, seconds)
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

    async def _poll(self, action: str, scope: Any, receive: Receive, seconds: float) -> bytes:
        message = self._request_types[action].FromString(await _read_body(receive))
        return await self._long_polling.poll(
            message.object_id if action == "pull-object" else self._message_event,
            lambda: self._call_handler(action, scope, message),
            lambda body: is_empty_response(action, body),
            receive,
            seconds,
        )

    async def _call_handler(self, action: str, scope: Any, message: Any) -> bytes:
        request = Request({**scope, "app": self._app, "state": {}})
        request.state.protobuf_request = message

        def work() -> tuple[bytes, Sequence[str]]:
            response, events = self._handle(action, message, request)
            return response.SerializeToString(), events

        body, events = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        for event in events:
            self._long_polling.notify(event)
        return body


async def send_response(send: Any, status: int, body: bytes) -> None:
    """Send a response."""
    kind = _MEDIA_TYPE if status == 200 else b"application/json"
    headers = [(b"content-length", str(len(body)).encode()), (b"content-type", kind)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _read_body(receive: Receive) -> bytes:
    """Return the body of a request, whose size has been checked."""
    parts, more = [], True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise HTTPException(400, "Gone.")
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)
