"""Push messages to Flower's grid with a retry."""

from __future__ import annotations

from contextlib import suppress

from flwr.app import Message
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

_ATTEMPTS = 4


def push_with_retry(grid: Grid, messages: list[Message]) -> list[str]:
    """Push the messages and return their ids.

    An attempt fails if a site confirms a message early and the server therefore deletes an object that the other
    messages share; all messages are then pushed again.

    Raises:
        ObjectPushError: every attempt failed.

    """
    for _ in range(_ATTEMPTS - 1):
        with suppress(ObjectPushError):
            return list(grid.push_messages(messages))
    return list(grid.push_messages(messages))
