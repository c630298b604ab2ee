"""A Flower grid inside one process: pulling a message runs the ClientApp, here or in a worker; nothing is sent."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from uuid import uuid4

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedhealth.flower.compat import set_message_id, set_task_identity

Request = tuple[Message, Context]
"""A message with the context of the node that it is for."""

ReplySource = Callable[[Iterable[Request]], Iterator[Message]]
"""Computes the replies to messages, one by one and in their order."""


def reply_in_turn(client_app: ClientApp) -> ReplySource:
    """Return what computes each reply when it is asked for, so that only one is in memory at a time."""

    def compute_replies(requests: Iterable[Request]) -> Iterator[Message]:
        for message, context in requests:
            yield client_app(message, context)

    return compute_replies


class InProcessGrid(Grid):
    """One node per site.

    Args:
        compute_replies: computes the hospitals' replies.
        sites: their names; node ids count from 1 in this order.
        run_config: Flower's run configuration, the same for all.

    """

    def __init__(self, compute_replies: ReplySource, sites: Iterable[str], run_config: dict[str, Any]) -> None:
        self._compute_replies = compute_replies
        run_id = secrets.randbits(62)
        self._run = Run.create_empty(run_id)
        self._contexts = {
            node: Context(run_id, node, {"site": site}, RecordDict(), run_config)
            for node, site in enumerate(sites, start=1)
        }
        self._pushed: dict[str, Message] = {}
        set_task_identity(run_id, 0)

    def set_run(self, run: Run) -> None:
        """Do nothing: the grid creates its own run."""

    @property
    def run(self) -> Run:
        """Run information."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message (Flower's interface; `Message(...)` does the same)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return every node."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Store the messages until they are pulled or others are pushed; return their ids."""
        self._pushed.clear()  # replies to earlier messages are no longer needed: enough sites have replied
        ids = []
        for message in messages:
            set_message_id(message, str(uuid4()))  # as a SuperLink does on arrival
            self._pushed[message.metadata.message_id] = message
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Compute and yield the replies one by one."""
        pulled = (self._pushed.pop(message_id, None) for message_id in message_ids)
        yield from self._compute_replies(
            (message, self._contexts[message.metadata.dst_node_id]) for message in pulled if message
        )

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push and pull at once."""
        return list(self.pull_messages(self.push_messages(messages)))
