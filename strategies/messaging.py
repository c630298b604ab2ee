"""Exchange messages with sites: push the requests, then yield each reply as it arrives, up to a deadline.

Flower's `send_and_receive` collects all replies and waits three seconds between polls (1.41). Here each reply is
processed and discarded at once, so the lead's memory does not grow with the number of sites.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedhealth.flower.server.message_push import push_with_retry
from fedhealth.protocol.messages import compute_message_size

EventCallback = Callable[..., None]
"""Called as event(kind, **fields) for every event of a run."""

log = logging.getLogger("fedhealth.lead")

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Reply:
    """One site's reply.

    Attributes:
        node: Flower's node id.
        message: with content or an error.
        seconds: since the request was pushed.
        sent: bytes sent to the site.
        received: bytes received from the site.

    """

    node: int
    message: Message
    seconds: float
    sent: int
    received: int


def exchange_messages(
    grid: Grid, message_type: str, contents: Mapping[int, RecordDict], group: str, timeouts: Mapping[int, float]
) -> Iterator[Reply]:
    """Send each node its message and yield replies as they arrive; drop nodes that miss their deadline.

    Args:
        grid: Flower's grid.
        message_type: such as `train.fit`.
        contents: the content of the message by node id.
        group: Flower's group id, for its logs.
        timeouts: by node id, in seconds.

    """
    messages = [Message(content, node, message_type, group_id=group) for node, content in contents.items()]
    sizes = {message.metadata.dst_node_id: compute_message_size(message) for message in messages}
    started = time.monotonic()
    waiting, arrived = dict(zip(push_with_retry(grid, messages), contents, strict=True)), False
    del messages
    # While replies come, others may lie at the server, which hands over large ones one by one: none of them is late.
    while waiting := {
        key: node for key, node in waiting.items() if arrived or time.monotonic() - started < timeouts[node]
    }:
        arrived = False
        for message in grid.pull_messages(list(waiting)):
            node = waiting.pop(message.metadata.reply_to_message_id, None)
            if node is None:  # a reply of another round, or a duplicate
                log.warning("discarded a reply of node %d to a message that is not open", message.metadata.src_node_id)
            else:
                arrived = True
                yield Reply(node, message, time.monotonic() - started, sizes[node], compute_message_size(message))
            del message  # before the next one arrives: a reply is as large as the model
        if waiting and not arrived:
            time.sleep(POLL_SECONDS)


def wait_for_nodes(grid: Grid, expected: int, timeout: float) -> list[int]:
    """Return the connected nodes, sorted, as soon as there are `expected` or after `timeout` seconds."""
    started = time.monotonic()
    while len(nodes := sorted(grid.get_node_ids())) < expected and time.monotonic() - started < timeout:
        time.sleep(POLL_SECONDS)
    return nodes
