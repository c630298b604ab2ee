"""Exchange messages with sites: push, then take each reply as it arrives, up to a deadline.

Flower's `send_and_receive` keeps every reply until the last one is there and sleeps three seconds between looks
(1.41); here a reply is handed on and forgotten at once, so the lead's memory does not grow with the number of sites.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from fedhealth.protocol.messages import size_of

Event = Callable[..., None]
"""Called as event(kind, **fields) for everything worth showing."""

log = logging.getLogger("fedhealth.lead")

POLL_SECONDS = 0.05
_PUSHES = 4  # of the same messages, before it is a fault


@dataclass(frozen=True)
class Reply:
    """One site's answer.

    Attributes:
        node: Flower's node id.
        message: with content, or with an error.
        seconds: since the question was pushed.
        sent: bytes that went to the site.
        received: bytes that came back.

    """

    node: int
    message: Message
    seconds: float
    sent: int
    received: int


def exchange(
    grid: Grid, message_type: str, contents: Mapping[int, RecordDict], group: str, limits: Mapping[int, float]
) -> Iterator[Reply]:
    """Ask each node its question and yield the replies as they come; who is silent for too long is left out.

    Args:
        grid: Flower's grid.
        message_type: such as `train.fit`.
        contents: the question by node id.
        group: Flower's group id, for its logs.
        limits: by node id, the seconds until it is given up.

    """
    messages = [Message(content, node, message_type, group_id=group) for node, content in contents.items()]
    sizes = {message.metadata.dst_node_id: size_of(message) for message in messages}
    started = time.monotonic()
    waiting = dict(zip(_pushed(grid, messages), contents, strict=True))
    del messages
    while waiting := {key: node for key, node in waiting.items() if time.monotonic() - started < limits[node]}:
        arrived = False
        for message in grid.pull_messages(list(waiting)):
            node = waiting.pop(message.metadata.reply_to_message_id, None)
            if node is None:  # of another round, or a second time
                log.warning("node %d answered a question that is not open: left aside", message.metadata.src_node_id)
            else:
                arrived = True
                yield Reply(node, message, time.monotonic() - started, sizes[node], size_of(message))
        if waiting and not arrived:
            time.sleep(POLL_SECONDS)


def _pushed(grid: Grid, messages: list[Message]) -> list[str]:
    """Push the messages and return their ids; again where a site's early confirmation took a part off the server."""
    for _ in range(_PUSHES - 1):
        with suppress(ObjectPushError):
            return list(grid.push_messages(messages))
    return list(grid.push_messages(messages))


def wait_for_nodes(grid: Grid, expected: int, timeout: float) -> list[int]:
    """Return the connected nodes, sorted, as soon as `expected` are there or `timeout` seconds have passed."""
    started = time.monotonic()
    while len(nodes := sorted(grid.get_node_ids())) < expected and time.monotonic() - started < timeout:
        time.sleep(POLL_SECONDS)
    return nodes
