"""Long polling: hold a request that has no result yet until the event that it waits for.

Flower's clients poll, and each poll takes milliseconds of the server's CPU: sixty polls a second were most of its load.
A held request costs nothing and gets its response as soon as there is one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from flwr.proto.message_pb2 import PullObjectResponse

T = TypeVar("T")
Receive = Callable[[], Awaitable[dict[str, Any]]]

TO_SITES, TO_LEAD = "messages for sites", "messages for the lead"
_MAX_UNAVAILABLE_BYTES = 16  # of a response which states that an object has not arrived yet


class LongPolling:
    """The events that held requests wait for; to be used from one event loop."""

    def __init__(self) -> None:
        self._events: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self._closed = False

    def subscribe(self, name: str) -> asyncio.Event:
        """Return an event that is set at the next `notify(name)`; it is removed when nothing refers to it."""
        event = self._events.get(name)
        if event is None:
            event = self._events[name] = asyncio.Event()
        if self._closed:
            event.set()
        return event

    def notify(self, name: str) -> None:
        """Wake all requests that wait for `name`."""
        event = self._events.pop(name, None)
        if event is not None:
            event.set()

    def close(self) -> None:
        """Wake all requests; later ones are not held."""
        self._closed = True
        for event in list(self._events.values()):
            event.set()

    async def poll(
        self,
        name: str,
        call: Callable[[], Awaitable[T]],
        is_empty: Callable[[T], bool],
        receive: Receive,
        seconds: float,
    ) -> T:
        """Return the result of `call`; while it is empty, call again at every event until the time is over.

        Args:
            name: of the event.
            call: computes the result.
            is_empty: returns whether a result has to be waited for.
            receive: of the client's request; it returns when the client disconnects.
            seconds: that the request may be held.

        """
        deadline = time.monotonic() + seconds
        while True:
            event = self.subscribe(name)
            result = await call()
            if not is_empty(result) or not await self.wait(event, receive, deadline - time.monotonic()):
                return result

    async def wait(self, event: asyncio.Event, receive: Receive, seconds: float) -> bool:
        """Wait for the event; return False after the time or if the client has disconnected.

        Flower marks a message as delivered when it is pulled, so it must not be pulled for a disconnected client.

        """
        if self._closed or seconds <= 0:
            return False
        notified, disconnected = asyncio.ensure_future(event.wait()), asyncio.ensure_future(receive())
        try:
            await asyncio.wait((notified, disconnected), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return notified.done() and not disconnected.done() and not self._closed
        finally:
            notified.cancel()
            disconnected.cancel()


def is_empty_response(action: str, body: bytes) -> bool:
    """Return whether a response contains no message, or an object that has not arrived yet."""
    return (action == "pull-messages" and not body) or (action == "pull-object" and is_object_pending(body))


def is_object_pending(body: bytes) -> bool:
    """Return whether a response states that an object is known and has not arrived yet."""
    if len(body) > _MAX_UNAVAILABLE_BYTES:
        return False
    response = PullObjectResponse.FromString(body)
    return response.object_found and not response.object_available
