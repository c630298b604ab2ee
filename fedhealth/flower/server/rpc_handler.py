"""Flower's handlers, called as they are and without the seven layers of middleware before them.

The layers take six milliseconds of a core for each request, and a round has some fifty. What they do that matters here
is done here: requests are parsed, errors are translated as Flower's table says, and whoever calls checks who asks.
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

from fedhealth.flower.server.long_polling import Arrivals, Receive, is_nothing

log = logging.getLogger("fedhealth.lead")

_MEDIA_TYPE = b"application/x-protobuf"
_AT_ONCE = 4  # requests that are worked on; the database takes one writer at a time

Work = Callable[[str, Any, Request], tuple[Any, Sequence[str]]]


class Direct:
    """One listener's questions.

    Args:
        app: Flower's, whose state and database are used.
        arrivals: who waits for what.
        kinds: the protobuf message that each question is asked with.
        work: checks who asks; returns, for (question, message, request), the answer and what has arrived with the
            question; in a thread.
        awaited: what a question for messages waits for.

    """

    def __init__(self, app: Any, arrivals: Arrivals, kinds: Mapping[str, Any], work: Work, awaited: str) -> None:
        self._app, self._arrivals, self._kinds, self._work, self._awaited = app, arrivals, kinds, work, awaited
        self._workers = ThreadPoolExecutor(_AT_ONCE, awaited)

    async def respond(self, action: str, scope: Any, receive: Receive, send: Any, seconds: float) -> None:
        """Answer; a question to which there is no answer yet is kept for some seconds."""
        await respond(send, *await self._guarded(action, scope, receive, seconds))

    async def _guarded(self, action: str, scope: Any, receive: Receive, seconds: float) -> tuple[int, bytes]:
        """Return status and body; what went wrong inside is for the log alone."""
        try:
            return 200, await self._answer(action, scope, receive, seconds)
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

    async def _answer(self, action: str, scope: Any, receive: Receive, seconds: float) -> bytes:
        asked = self._kinds[action].FromString(await _body(receive))
        return await self._arrivals.answered(
            asked.object_id if action == "pull-object" else self._awaited,
            lambda: self._ask(action, scope, asked),
            lambda content: is_nothing(action, content),
            receive,
            seconds,
        )

    async def _ask(self, action: str, scope: Any, asked: Any) -> bytes:
        request = Request({**scope, "app": self._app, "state": {}})
        request.state.protobuf_request = asked

        def work() -> tuple[bytes, Sequence[str]]:
            answer, arrived = self._work(action, asked, request)
            return answer.SerializeToString(), arrived

        answer, arrived = await asyncio.get_running_loop().run_in_executor(self._workers, work)
        for what in arrived:
            self._arrivals.tell(what)
        return answer


async def respond(send: Any, status: int, body: bytes) -> None:
    """Send an answer."""
    kind = _MEDIA_TYPE if status == 200 else b"application/json"
    headers = [(b"content-length", str(len(body)).encode()), (b"content-type", kind)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _body(receive: Receive) -> bytes:
    """Return the body of a request, whose size is known to be small."""
    parts, more = [], True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise HTTPException(400, "Gone.")
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)
