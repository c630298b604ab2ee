"""Questions to which there is no answer yet are kept until there is one (long polling), by what they wait for.

Flower's parties ask again and again, and every look costs the server milliseconds of a core: sixty looks a second were
most of its work. A question that is kept costs nothing, and is answered as soon as there is something to say.
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
_LONGEST_UNAVAILABLE = 16  # bytes of an answer that says that an object is on its way


class Arrivals:
    """Who waits for what; to be used from one event loop."""

    def __init__(self) -> None:
        self._expected: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self._closed = False

    def expect(self, what: str) -> asyncio.Event:
        """Return what will be set when something arrives from now on; what nobody holds any more is forgotten."""
        event = self._expected.get(what)
        if event is None:
            event = self._expected[what] = asyncio.Event()
        if self._closed:
            event.set()
        return event

    def tell(self, what: str) -> None:
        """Wake those who wait for something that has arrived."""
        event = self._expected.pop(what, None)
        if event is not None:
            event.set()

    def close(self) -> None:
        """Wake everybody; nobody waits from now on."""
        self._closed = True
        for event in list(self._expected.values()):
            event.set()

    async def answered(
        self,
        what: str,
        ask: Callable[[], Awaitable[T]],
        is_nothing: Callable[[T], bool],
        receive: Receive,
        seconds: float,
    ) -> T:
        """Return an answer; one that says that there is nothing yet only after some seconds.

        Args:
            what: is waited for meanwhile.
            ask: asks once.
            is_nothing: tells such an answer.
            receive: of the asker's request; tells when the asker has gone.
            seconds: that the asker may be kept.

        """
        ends = time.monotonic() + seconds
        while True:
            awaited = self.expect(what)
            answer = await ask()
            if not is_nothing(answer) or not await self.wait(awaited, receive, ends - time.monotonic()):
                return answer

    async def wait(self, event: asyncio.Event, receive: Receive, seconds: float) -> bool:
        """Wait, and tell whether asking again makes sense: not after the time, not when the asker has gone.

        A message counts as delivered when it is asked for: nobody may ask for one who has hung up.

        """
        if self._closed or seconds <= 0:
            return False
        arrived, gone = asyncio.ensure_future(event.wait()), asyncio.ensure_future(receive())
        try:
            await asyncio.wait((arrived, gone), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return arrived.done() and not gone.done() and not self._closed
        finally:
            arrived.cancel()
            gone.cancel()


def is_nothing(action: str, body: bytes) -> bool:
    """Tell whether the answer to a question for messages, or for an object, says that there is nothing yet."""
    return (action == "pull-messages" and not body) or (action == "pull-object" and is_on_its_way(body))


def is_on_its_way(answer: bytes) -> bool:
    """Tell whether an answer to a question for an object says that it is known and not there yet."""
    if len(answer) > _LONGEST_UNAVAILABLE:
        return False
    said = PullObjectResponse.FromString(answer)
    return said.object_found and not said.object_available
